"""Draws `task_tokens.png`, the figure of the README: one pass of the decoder for all task tokens."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch


INK, SOFT = "#1f2933", "#7b8794"
STEP_COLORS = ("#2563a8", "#0f8a6d", "#d97706")
SHARED_COLOR = "#e4e7eb"
STEP_ROWS = (3.6, 2.1, 0.6)
NAMES = ("step 1", "step 2", "step 3")
CLASSES = ("“0” “1”", "“2” “3”", "“4” “5”")


def box(axes: Axes, x: float, y: float, width: float, height: float, color: str, text: str, ink: str = INK) -> None:
    """A rounded box with a centred text."""
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=0.12", facecolor=color, edgecolor="none")
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink, fontsize=11)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = SOFT) -> None:
    """An arrow between two points."""
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=12, color=color, linewidth=1.4, shrinkA=2, shrinkB=2
        )
    )


def draw() -> Figure:
    """The figure: shared encoder and decoder in grey, what each step adds in its colour."""
    figure = Figure(figsize=(11, 4.2), dpi=150)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_xlim(0, 14)
    axes.set_ylim(-0.2, 5.4)
    axes.set_axis_off()

    box(axes, 0.2, 1.55, 1.4, 1.2, SHARED_COLOR, "image")
    box(axes, 2.3, 1.15, 2.2, 2.0, SHARED_COLOR, "encoder\n5 self-attention\nblocks")
    box(axes, 5.1, 1.55, 1.7, 1.2, SHARED_COLOR, "patch tokens\n(once)")
    box(axes, 8.2, 0.4, 1.7, 4.2, SHARED_COLOR, "task-\nattention\nblock\n\nall task\ntokens\nin one\nexact pass")
    for start, end in (((1.6, 2.15), (2.3, 2.15)), ((4.5, 2.15), (5.1, 2.15)), ((6.8, 2.15), (8.2, 2.15))):
        arrow(axes, start, end)
    for row, color, name, classes in zip(STEP_ROWS, STEP_COLORS, NAMES, CLASSES, strict=True):
        number = name[-1]
        box(axes, 7.05, row + 0.45, 0.6, 0.45, color, f"$\\theta_{number}$", "white")
        arrow(axes, (7.65, row + 0.67), (8.2, row + 0.67), color)
        arrow(axes, (9.9, row + 0.67), (10.4, row + 0.67), color)
        box(axes, 10.4, row + 0.45, 0.6, 0.45, color, f"$e_{number}$", "white")
        arrow(axes, (11.0, row + 0.67), (11.4, row + 0.67), color)
        box(axes, 11.4, row + 0.32, 2.4, 0.7, color, f"classifier {number}\n{classes}", "white")
        axes.text(7.35, row + 1.0, name, ha="center", va="bottom", color=color, fontsize=9)
    axes.text(3.5, 0.6, "grey: shared by all steps", ha="center", color=SOFT, fontsize=10)
    axes.text(3.5, 0.2, "colour: what a step adds, one token and one classifier", ha="center", color=SOFT, fontsize=10)
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("task_tokens.png"), metadata={"Software": None})
