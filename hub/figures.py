"""The two figures of a card: accuracy per step, and the accuracy matrix."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

from hub.results import RunResults
from hub.step_folder import FIGURES
from hub.text import printable, without_local_path


_INK, _MUTED, _GRID = "#1f2933", "#7b8794", "#e4e7eb"
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
_ANNOTATED_STEPS = 10
_MAX_SUBJECT = 44
# In units of the accuracy axis: the height of a line of text.
_LABEL_GAP = 0.065


def draw_figures(results: RunResults | Mapping[str, Any], folder: str | Path) -> list[Path]:
    """
    Draws `figures/accuracy_per_step.png` and `figures/accuracy_matrix.png` below `folder`; returns their paths.

    The same results give the same bytes, whatever the user's matplotlib style.

    Args:
        results: A run's results, typed or as parsed from `results.json` (raises [`StepFolderError`] if malformed).
        folder: The step folder; `figures/` is made when missing.
    """
    run = results if isinstance(results, RunResults) else RunResults.from_dict(results)
    paths = [Path(folder) / name for name in FIGURES]
    for path, figure in zip(paths, (accuracy_per_step(run), accuracy_matrix(run)), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(figure, path)
    return paths


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.style.context(["default", _STYLE]):
        yield


@_style()
def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # The bundled font lacks some scripts; a box in a data set's name is no reason to alarm the user.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            path, dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.15, metadata={"Software": None}
        )


@_style()
def accuracy_per_step(run: RunResults) -> Figure:
    """Accuracy on all classes seen after each step, its average so far, and the level of guessing."""
    figure = Figure(figsize=(8, 4.2))
    axes = figure.add_subplot()
    steps = np.arange(1, len(run.steps) + 1)
    accuracy = np.array([step.accuracy for step in run.steps])
    average = np.cumsum(accuracy) / steps
    chance = np.array([1 / step.num_seen_classes for step in run.steps])
    marker_size = 6 if len(steps) <= 20 else 3
    axes.stairs(chance, np.arange(0.5, len(steps) + 1), baseline=None, color=_MUTED, lw=1.2, ls=":")
    axes.plot(steps, accuracy, color=_BLUE, lw=2.2, marker="o", ms=marker_size)
    labels = [(accuracy[-1], "all classes seen", _BLUE), (chance[-1], "chance", _MUTED)]
    if len(steps) > 1:
        axes.plot(steps, average, color=_ORANGE, lw=1.5, ls="--", zorder=1.9)
        labels.append((average[-1], "average of the steps", _ORANGE))
    _label_lines(axes, labels)
    _titles(axes, "Accuracy per step", run)
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)
    _step_axis(axes, run)
    return figure


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


@_style()
def accuracy_matrix(run: RunResults) -> Figure:
    """Accuracy after step i (row) on the classes of step j (column), j <= i; with numbers up to ten steps."""
    count = len(run.steps)
    side = min(8.0, 3.2 + 0.55 * count)
    figure = Figure(figsize=(side + 1.4, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(_matrix(run), cmap="viridis", vmin=0, vmax=1, extent=(0.5, count + 0.5, count + 0.5, 0.5))
    _titles(axes, "Accuracy matrix", run)
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
    return figure


def _matrix(run: RunResults) -> np.ndarray:
    """Row i, column j: accuracy after step i+1 on the classes of step j+1; NaN above the diagonal."""
    matrix = np.full((len(run.steps), len(run.steps)), np.nan)
    for i, step in enumerate(run.steps):
        matrix[i, : i + 1] = step.accuracy_per_step
    return matrix


def _annotate(axes: Axes, run: RunResults) -> None:
    axes.set_xticks(np.arange(1.5, len(run.steps)), minor=True)
    axes.set_yticks(np.arange(1.5, len(run.steps)), minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="minor", length=0)
    for i, step in enumerate(run.steps, 1):
        for j, accuracy in enumerate(step.accuracy_per_step, 1):
            color = _INK if accuracy > 0.6 else "white"
            axes.text(j, i, f"{100 * accuracy:.0f}", ha="center", va="center", color=color)


def _ticks(count: int) -> list[int]:
    """Whole steps from 1 to `count`: all of them up to 20, else about ten round ones."""
    if count <= 20:
        return list(range(1, count + 1))
    ticks = MaxNLocator(nbins=10, integer=True).tick_values(1, count)
    return [1, *(int(tick) for tick in ticks if 1 < tick <= count)]


def _titles(axes: Axes, name: str, run: RunResults) -> None:
    subject = f"{printable(without_local_path(run.dataset))} · {printable(run.method)}"
    if len(subject) > _MAX_SUBJECT:
        subject = f"{subject[: _MAX_SUBJECT - 1]}…"
    axes.set_title(name)
    axes.annotate(subject, (0, 1), xycoords="axes fraction", xytext=(0, 8), textcoords="offset points", color=_MUTED)
