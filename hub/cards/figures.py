"""The figures of a card: accuracy per step, the accuracy matrix, the reliability diagram and the confusion matrix."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

from hub.run.atomic import replaced
from hub.run.confusion import Confusion
from hub.run.results import NUM_CALIBRATION_BINS, Ancestor, RunResults
from hub.run.seed_results import OtherRun
from hub.run.step_folder import CALIBRATION_FIGURE, CONFUSION_FIGURE, FIGURES
from hub.run.text import printable, without_local_path


_INK, _MUTED, _GRID, _PALE = "#1f2933", "#7b8794", "#e4e7eb", "#f5f7fa"
_BLUE, _ORANGE = "#2563a8", "#d9730d"
_STYLE = {
    "font.size": 11,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 26,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
}
_DPI = 150
_ANNOTATED_STEPS = 10
_MAX_SUBJECT = 48
_MAX_ANCESTOR = 34
_MAX_CLASS = 24
# With more classes, the cells of the confusion matrix have no numbers, and not every class its name.
_ANNOTATED_CLASSES = 30
# Height of a line of text, in units of the accuracy axis.
_LABEL_GAP = 0.065


def draw_figures(
    results: RunResults,
    folder: str | Path,
    other_runs: Sequence[OtherRun] = (),
    confusion: Confusion | None = None,
) -> list[Path]:
    """
    Draws the figures of a card. The same results give the same bytes, independent of the user's matplotlib style.

    Args:
        results (`RunResults`): of the run up to the step.
        folder (`str` or `Path`): the step folder; its `figures/` is made when missing.
        other_runs (`Sequence[OtherRun]`, *optional*): of the same recipe with other seeds, up to the same step.
        confusion (`Confusion`, *optional*): after the step, if it is to be drawn.

    Returns:
        `list[Path]`: `accuracy_per_step.png` and `accuracy_matrix.png`; where the bins of the calibration error were
        recorded, `calibration.png`; with a confusion, `confusion_matrix.png`.
    """
    figures = dict(zip(FIGURES, (accuracy_per_step(results, other_runs), accuracy_matrix(results)), strict=True))
    if results.last.calibration:
        figures[CALIBRATION_FIGURE] = calibration(results)
    if confusion is not None:
        figures[CONFUSION_FIGURE] = confusion_matrix(results, confusion)
    for name, figure in figures.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, path)
    return [Path(folder) / name for name in figures]


@contextmanager
def figure_style() -> Iterator[None]:
    """Fonts, colours and axes of all figures, independent of the user's matplotlib style."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


@contextmanager
def _missing_glyphs_allowed() -> Iterator[None]:
    """The bundled font lacks some scripts; a box in the name of a data set is no reason to alarm the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@figure_style()
def save_figure(figure: Figure, path: Path) -> None:
    """
    Writes a figure as a PNG, aside and then renamed.

    Args:
        figure (`Figure`): without a canvas.
        path (`Path`): the file; its folder exists.
    """
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(_DPI)
    with _missing_glyphs_allowed(), replaced(path) as partial:
        # The same as "tight", which would draw the figure once more to find it.
        box = figure.get_tightbbox(canvas.get_renderer()).padded(0.15)
        figure.savefig(
            partial, format="png", dpi=_DPI, facecolor="white", bbox_inches=box, metadata={"Software": None}
        )


@figure_style()
def accuracy_per_step(run: RunResults, other_runs: Sequence[OtherRun] = ()) -> Figure:
    """
    Accuracy after each step, its average so far, and the level of guessing.

    With other runs the accuracy is the mean of all, in a band of one standard deviation, and each run is a thin line.
    Where not all classes seen were measured, a hollow mark shows the accuracy on those that were.

    Args:
        run (`RunResults`): of the run up to the step.
        other_runs (`Sequence[OtherRun]`, *optional*): of the same recipe with other seeds, up to the same step.
    """
    figure = Figure(figsize=(8, 4.2))
    axes = figure.add_subplot()
    steps = np.arange(1, len(run.steps) + 1)
    # None becomes NaN, and breaks the lines.
    runs = np.array([[step.accuracy for step in run.steps], *(other.accuracy for other in other_runs)], dtype=float)
    accuracy = runs.mean(axis=0)
    average = np.cumsum(accuracy) / steps
    chance = np.array([1 / step.num_seen_classes for step in run.steps])
    marker_size = 6 if len(steps) <= 20 else 3
    axes.stairs(chance, np.arange(0.5, len(steps) + 1), baseline=None, color=_MUTED, lw=1.2, ls=":")
    axes.plot(steps, accuracy, color=_BLUE, lw=2.2, marker="o", ms=marker_size)
    if other_runs:
        _draw_spread(axes, steps, runs)
    labels = [(accuracy[-1], "all classes seen", _BLUE), (chance[-1], "chance", _MUTED)]
    notes = [f"mean ± s.d., n = {len(runs)}"] if other_runs else []
    if any(step.accuracy is None for step in run.steps):
        labels.append(_draw_partly_measured(axes, run, marker_size))
        notes.append("hollow: only classes with images")
    # An average that lacks a term is not defined.
    if len(steps) > 1 and np.isfinite(average[-1]):
        axes.plot(steps, average, color=_ORANGE, lw=1.5, ls="--", zorder=1.9)
        labels.append((average[-1], "average of the steps", _ORANGE))
    _label_lines(axes, [label for label in labels if np.isfinite(label[0])])
    _mark_ancestors(axes, run)
    _titles(axes, "Accuracy per step", run, *notes)
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)
    _step_axis(axes, run)
    return figure


def _draw_spread(axes: Axes, steps: np.ndarray, runs: np.ndarray) -> None:
    """Each run as a thin line, and a band of one sample standard deviation around their mean."""
    mean, deviation = runs.mean(axis=0), runs.std(axis=0, ddof=1)
    if len(steps) > 1:
        axes.fill_between(steps, mean - deviation, mean + deviation, color=_BLUE, alpha=0.18, lw=0, zorder=1.5)
        axes.plot(steps, runs.T, color=_BLUE, lw=0.8, alpha=0.55, zorder=1.8)
    else:
        axes.errorbar(steps, mean, deviation, color=_BLUE, lw=1.2, capsize=6, zorder=1.8)
        axes.plot(np.full(len(runs), 1.06), runs, color=_BLUE, ls="", marker="o", ms=3, alpha=0.55)


def _draw_partly_measured(axes: Axes, run: RunResults, marker_size: int) -> tuple[float, str, str]:
    """Hollow marks where not all classes seen were measured; returns a label for the last step."""
    steps = [step.step for step in run.steps]
    # None becomes NaN, and is not drawn.
    accuracy = np.array([step.accuracy_of_measured for step in run.steps], dtype=float)
    axes.plot(steps, accuracy, color=_BLUE, ls="", marker="o", mfc="white", ms=marker_size)
    num_measured = len(run.last.measured_classes or ())
    return accuracy[-1], f"on {num_measured} of {run.last.num_seen_classes} classes", _BLUE


def _mark_ancestors(axes: Axes, run: RunResults) -> None:
    """A line after the last step of each model that the run continues, with its name."""
    for ancestor in run.ancestors:
        axes.axvline(ancestor.num_steps + 0.5, color=_MUTED, lw=0.9, zorder=1)
        axes.annotate(
            _ancestor_name(ancestor),
            (ancestor.num_steps + 0.5, 0),
            xytext=(-3, 5),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="bottom",
            size=8,
            color=_MUTED,
            bbox={"fc": "white", "lw": 0, "pad": 1},
            zorder=1,
        )


def _ancestor_name(ancestor: Ancestor) -> str:
    name = printable(without_local_path(ancestor.model))
    return _shorten(f"{name}@{printable(ancestor.revision)}" if ancestor.revision else name, _MAX_ANCESTOR)


def _label_lines(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Writes each line's last value and name to its right, kept apart where lines end close together."""
    lowest = 0.0
    for value, name, color in sorted(labels):
        lowest = max(value, lowest)
        axes.annotate(
            f"{value:.1%} {name}",
            (1, lowest),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=color,
            annotation_clip=False,
        )
        lowest += _LABEL_GAP


def _step_axis(axes: Axes, run: RunResults) -> None:
    """One tick a step where there is room, each with the number of classes seen."""
    count = len(run.steps)
    axes.set_xlim(0.5, count + 0.5)
    ticks = _ticks(count)
    axes.set_xticks(ticks, [f"{tick}\n{run.steps[tick - 1].num_seen_classes}" for tick in ticks])
    axes.set_xlabel("step, and number of classes seen")


@figure_style()
def accuracy_matrix(run: RunResults) -> Figure:
    """
    Accuracy after step i (row) on the classes of step j (column), j <= i; with numbers up to ten steps.

    Args:
        run (`RunResults`): of the run up to the step.
    """
    count = len(run.steps)
    side = min(8.0, 3.2 + 0.55 * count)
    figure = Figure(figsize=(side + 1.4, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(_matrix(run), cmap="viridis", vmin=0, vmax=1, extent=(0.5, count + 0.5, count + 0.5, 0.5))
    has_gaps = _hatch_gaps(axes, run)
    _outline_ancestors(axes, run)
    subtitle = _titles(axes, "Accuracy matrix", run, *["hatched: no images"] * has_gaps)
    axes.set_xlabel("accuracy on the classes of step …")
    axes.set_ylabel("… after step")
    axes.spines[:].set_visible(False)
    ticks = _ticks(count)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.tick_params(length=0)
    if count <= _ANNOTATED_STEPS:
        _annotate(axes, run)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0), shrink=0.8, aspect=24, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    # A long subtitle goes beyond the matrix; it would push the bar aside.
    subtitle.set_in_layout(False)
    layout = figure.get_layout_engine()
    assert layout is not None
    FigureCanvasAgg(figure)
    with _missing_glyphs_allowed():
        layout.execute(figure)
    figure.set_layout_engine(None)
    subtitle.set_in_layout(True)
    return figure


def _matrix(run: RunResults) -> np.ndarray:
    """Row i, column j: accuracy after step i+1 on the classes of step j+1; NaN above the diagonal."""
    matrix = np.full((len(run.steps), len(run.steps)), np.nan)
    for i, step in enumerate(run.steps):
        # None becomes NaN.
        matrix[i, : i + 1] = np.array(step.accuracy_per_step, dtype=float)
    return matrix


def _hatch_gaps(axes: Axes, run: RunResults) -> bool:
    """Hatches what was not measured; returns whether there is any such cell."""
    gaps = [
        (j, i) for i, step in enumerate(run.steps) for j, value in enumerate(step.accuracy_per_step) if value is None
    ]
    for j, i in gaps:
        axes.add_patch(Rectangle((j + 0.5, i + 0.5), 1, 1, fc=_PALE, ec="#c3cad2", hatch="////", lw=0, zorder=1))
    return bool(gaps)


def _outline_ancestors(axes: Axes, run: RunResults) -> None:
    """A line between the steps of each model that the run continues and those after it."""
    end = len(run.steps) + 0.5
    for ancestor in run.ancestors:
        edge = ancestor.num_steps + 0.5
        axes.plot([0.5, edge, edge], [edge, edge, end], color=_INK, lw=1.2, zorder=2)


def _annotate(axes: Axes, run: RunResults) -> None:
    axes.set_xticks(np.arange(1.5, len(run.steps)), minor=True)
    axes.set_yticks(np.arange(1.5, len(run.steps)), minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="minor", length=0)
    for i, step in enumerate(run.steps, 1):
        for j, accuracy in enumerate(step.accuracy_per_step, 1):
            if accuracy is None:
                continue
            color = _INK if accuracy > 0.6 else "white"
            axes.text(j, i, f"{100 * accuracy:.0f}", ha="center", va="center", color=color)


@figure_style()
def calibration(run: RunResults) -> Figure:
    """
    The reliability diagram of the last step, whose bins were recorded: accuracy against mean confidence in each bin of
    confidence, and below it the share of the test images in each bin. On the diagonal, confidence equals accuracy.

    Args:
        run (`RunResults`): of the run up to the step.
    """
    figure = Figure(figsize=(5.4, 6.2))
    axes, strip = figure.subplots(2, sharex=True, height_ratios=[4.4, 1], gridspec_kw={"hspace": 0.08})
    bins = run.last.calibration or ()
    confidence = np.array([entry.confidence for entry in bins])
    accuracy = np.array([entry.accuracy for entry in bins])
    share = np.array([entry.count for entry in bins]) / sum(entry.count for entry in bins)
    # A mean may lie on a border by rounding alone; bins are open at the lower end.
    centers = (
        np.clip(np.ceil(confidence * NUM_CALIBRATION_BINS - 1e-9), 1, NUM_CALIBRATION_BINS) - 0.5
    ) / NUM_CALIBRATION_BINS
    axes.plot([0, 1], [0, 1], color=_MUTED, lw=1.2, ls=":", zorder=1.5)
    axes.bar(centers, accuracy, 0.92 / NUM_CALIBRATION_BINS, color=_BLUE, alpha=0.28, lw=0)
    axes.vlines(confidence, np.minimum(accuracy, confidence), np.maximum(accuracy, confidence), color=_ORANGE, lw=2)
    axes.plot(confidence, accuracy, color=_BLUE, ls="", marker="o", ms=6, clip_on=False)
    strip.bar(centers, share, 0.92 / NUM_CALIBRATION_BINS, color=_MUTED, lw=0)
    error = f"expected calibration error {run.last.expected_calibration_error:.1%}"
    _titles(axes, f"Calibration after step {run.last.step}", run, error)
    axes.set_ylabel("accuracy")
    strip.set_ylabel("images")
    strip.set_xlabel("confidence (score of the predicted class)")
    for panel, top in ((axes, 1.02), (strip, None)):
        panel.set_ylim(0, top)
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panel.grid(axis="y", color=_GRID)
        panel.set_axisbelow(True)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    strip.yaxis.set_major_locator(MaxNLocator(nbins=2))
    strip.set_xlim(0, 1)
    strip.xaxis.set_major_locator(MultipleLocator(0.2))
    strip.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


@figure_style()
def confusion_matrix(run: RunResults, confusion: Confusion) -> Figure:
    """
    As what the test images of each class (row) were predicted (column), as shares of the row: classes in the order of
    learning, with lines between the steps; with numbers up to thirty classes. Small shares are darker than on an even
    scale, or single mistakes would not be seen.

    Args:
        run (`RunResults`): of the run up to the step.
        confusion (`Confusion`): after the step.
    """
    names = [_shorten(printable(name), _MAX_CLASS) for name in run.class_names]
    count, side = len(names), min(7.5, max(2.8, 0.42 * len(names)))
    # The matrix fills the figure, whatever the length of the names; all else is around it.
    figure = Figure(figsize=(side, side))
    axes, bar_axes = figure.add_axes((0, 0, 1, 1)), figure.add_axes((1 + 0.25 / side, 0.1, 0.18 / side, 0.8))
    shares = _shares(confusion, count)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    unmeasured = np.flatnonzero(np.isnan(shares).any(axis=1))
    for row in unmeasured:
        axes.add_patch(Rectangle((-0.5, row - 0.5), count, 1, fc=_PALE, ec="#c3cad2", hatch="////", lw=0, zorder=1))
    for step in run.steps[:-1]:
        for draw_line in (axes.axhline, axes.axvline):
            draw_line(step.num_seen_classes - 0.5, color=_MUTED, lw=min(0.9, 15 / len(run.steps)), zorder=2)
    notes = ["rows sum to 100%", *["hatched: no images"] * bool(len(unmeasured))]
    _titles(axes, f"Confusion after step {run.last.step}", run, *notes)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class of the image")
    ticks = _class_ticks(count)
    axes.set_xticks(ticks, [names[tick] for tick in ticks], rotation=90)
    axes.set_yticks(ticks, [names[tick] for tick in ticks])
    axes.tick_params(length=0 if len(ticks) == count else 3, labelsize=_class_size(len(ticks)))
    if count <= _ANNOTATED_CLASSES:
        _annotate_shares(axes, shares)
    bar = figure.colorbar(image, cax=bar_axes)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0%", "1%", "5%", "20%", "50%", "100%"])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


def _shares(confusion: Confusion, num_classes: int) -> np.ndarray:
    """Row i, column j: share of the images of class i that were predicted as j; NaN for classes without images."""
    counts = np.zeros((num_classes, num_classes))
    for pair, images in confusion.counts.items():
        counts[pair] = images
    totals = counts.sum(axis=1, keepdims=True)
    return counts / np.where(totals, totals, np.nan)


def _annotate_shares(axes: Axes, shares: np.ndarray) -> None:
    """The shares in percent in the cells that have any."""
    size = _class_size(len(shares))
    for row, column in np.argwhere(shares > 0):
        share = shares[row, column]
        color = _INK if share < 0.35 else "white"
        text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
        axes.text(column, row, text, ha="center", va="center", color=color, size=size, in_layout=False)


def _class_ticks(count: int) -> list[int]:
    """All label ids where there is room for the names, else some at equal distances."""
    return list(range(0, count, 1 if count <= _ANNOTATED_CLASSES else -(-count // _ANNOTATED_CLASSES)))


def _class_size(count: int) -> float:
    """Size of the letters of so many names in a row."""
    return 10 if count <= 12 else 8


def _ticks(count: int) -> list[int]:
    """Whole steps from 1 to `count`: all of them up to 20, else about ten round ones."""
    if count <= 20:
        return list(range(1, count + 1))
    ticks = MaxNLocator(nbins=10, integer=True).tick_values(1, count)
    return [1, *(int(tick) for tick in ticks if 1 < tick <= count)]


def _titles(axes: Axes, name: str, run: RunResults, *notes: str) -> Annotation:
    """The title, and below it in grey what was learned, by which method, and notes; returns the latter."""
    names = [printable(without_local_path(dataset)) for dataset in run.datasets]
    names = names if len(names) <= 2 else [names[0], "…", names[-1]]
    subject = _shorten(f"{' → '.join(names)} · {printable(run.method)}", _MAX_SUBJECT)
    axes.set_title(name)
    return axes.annotate(
        " · ".join([subject, *notes]),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        color=_MUTED,
    )


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
