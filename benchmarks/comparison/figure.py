"""The figure of a comparison: accuracy over the number of classes seen, one line a variant."""

from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

from benchmarks.comparison.results import Comparison, VariantResults
from hub.cards.figures import figure_style, save_figure
from hub.run.errors import InputError


# Told apart by colour-blind readers (Okabe and Ito), and in print by their marks.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1f2933")
_MARKS = "osD^vPX*<>"
_MOST_TICKS = 12


@figure_style()
def draw_comparison(comparison: Comparison, path: Path) -> None:
    """
    Draws mean and sample standard deviation over the seeds of each variant.

    Args:
        comparison (`Comparison`): the runs.
        path (`Path`): of the PNG.

    Raises:
        InputError: no run has its accuracy after each step, or the file cannot be written.
    """
    figure = Figure(figsize=(8, 4.6))
    axes = figure.add_subplot()
    looks = zip(cycle(_COLOURS), cycle(_MARKS), strict=False)
    for (name, variant), (colour, mark) in zip(comparison.variants.items(), looks, strict=False):
        _draw_variant(axes, name, variant, colour, mark)
    if not axes.lines:
        raise InputError(f"--figure {path}: no run has its accuracy after each step; make the runs again.")
    _finish(axes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, path)
    except OSError as error:
        raise InputError(f"--figure {path} cannot be written ({error.strerror}): choose another.") from error


def _draw_variant(axes: Axes, name: str, variant: VariantResults, colour: str, mark: str) -> None:
    runs = [run for run in variant.measured if run.accuracy and run.num_seen_classes]
    if not runs:
        return
    classes = list(runs[0].num_seen_classes or ())
    if any(list(run.num_seen_classes or ()) != classes for run in runs):
        raise InputError(f"--figure: the runs of {name} have other steps than one another; leave --figure out.")
    # None becomes NaN, and breaks the line.
    accuracy = np.array([run.accuracy for run in runs], dtype=float)
    mean = accuracy.mean(axis=0)
    label = name if variant.num_seeds == str(len(variant.seeds)) else f"{name} ({variant.num_seeds})"
    axes.plot(classes, mean, color=colour, marker=mark, ms=5, lw=1.8, label=label, clip_on=False)
    if len(runs) > 1:
        deviation = accuracy.std(axis=0, ddof=1)
        axes.fill_between(classes, mean - deviation, mean + deviation, color=colour, alpha=0.18, lw=0)


def _finish(axes: Axes) -> None:
    axes.set_title("Accuracy on all classes seen")
    axes.text(0, 1.03, "mean over seeds, band ± sample standard deviation", transform=axes.transAxes, size=9)
    axes.set_xlabel("number of classes seen")
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0, 1.04)
    seen = sorted({int(count) for line in axes.get_lines() for count in np.asarray(line.get_xdata())})
    if len(seen) <= _MOST_TICKS:
        axes.set_xticks(seen)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color="#e4e7eb")
    axes.set_axisbelow(True)
    # In the order in which the lines end.
    lines = sorted(axes.get_lines(), key=lambda line: -np.nan_to_num(np.asarray(line.get_ydata())[-1]))
    axes.legend(handles=lines, loc="center left", bbox_to_anchor=(1.01, 0.5))
