"""What the page shows as HTML: tables with headers, words beside numbers, names escaped."""

from collections.abc import Sequence
from html import escape

from hub.run.results import RunResults
from hub.run.steps_file import StepEntry
from hub.run.text import printable
from hub.space.answers import ClassScore
from hub.space.changes import Change


#: Rows of a table of classes that are shown; the rest is counted.
MAX_ROWS = 10

CSS = """
.dytox table {border-collapse: collapse; border: 0 !important; width: 100%; font-variant-numeric: tabular-nums}
.dytox caption {text-align: left; font-weight: 600; padding: .3em 0}
.dytox th, .dytox td {text-align: left; padding: .3em .6em; border-width: 0 0 1px 0 !important;
    border-color: var(--border-color-primary) !important; word-break: normal; max-width: 20em}
.dytox tr {border: 0 !important}
.dytox th {min-width: 4.5em}
.dytox td.number, .dytox th.number {text-align: right; white-space: nowrap}
.dytox .scroll {overflow-x: auto}
.dytox meter {width: 100%; min-width: 3em}
.dytox [role=alert] {border: 2px solid currentColor; border-radius: .4em; padding: .6em .8em}
"""


def message(text: str) -> str:
    """Something went wrong, or there is nothing to show: one sentence, which a screen reader reads out."""
    return f'<div class="dytox"><p role="alert">{text_of(text)}</p></div>'


def note(text: str) -> str:
    """A sentence beside a table."""
    return f'<div class="dytox"><p>{text_of(text)}</p></div>'


def text_of(name: str) -> str:
    """A name as HTML; what steers a terminal or a browser is escaped."""
    return escape(printable(name))


def scores_table(step: int, scores: Sequence[ClassScore], unknown: Sequence[str]) -> str:
    """The classes that a step gives an image the highest scores of, and those that it cannot know."""
    rows = [
        [text_of(score.name), f"step {score.step}", f"{score.score:.1%}", _meter(score.score)]
        for score in scores[:MAX_ROWS]
    ]
    more = len(scores) - len(rows)
    shown = table(f"What step {step} says", ["class", "learned in", "score", ""], rows, numbers={2})
    if more:
        shown += f"<p>and {more} more classes with lower scores</p>"
    if unknown:
        shown += f"<p><strong>Not learned yet at step {step}:</strong> {_listed(unknown)}</p>"
    return _block(shown)


def every_step_table(answers: Sequence[tuple[int, ClassScore]]) -> str:
    """The class with the highest score, step by step."""
    rows = [[f"step {step}", text_of(best.name), f"step {best.step}", f"{best.score:.1%}"] for step, best in answers]
    return _block(
        table("What each step says of this image", ["step", "class", "learned in", "score"], rows, numbers={3})
    )


def changes_table(earlier: int, later: int, changes: Sequence[Change]) -> str:
    """What became of the classes between two steps."""
    rows = [
        [
            _listed(change.classes),
            f"step {change.step}",
            change.word,
            _percent(change.before),
            _percent(change.after),
            "–" if change.difference is None else f"{100 * change.difference:+.1f}",
        ]
        for change in changes
    ]
    columns = ["class", "learned in", "what became of it", f"after step {earlier}", f"after step {later}", "points"]
    words = [change.word for change in changes for _ in change.classes]
    counted = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    shown = table(f"From step {earlier} to step {later}: {counted}", columns, rows, numbers={3, 4, 5})
    by_step = (
        ""
        if all(len(change.classes) == 1 for change in changes)
        else (
            "<p>The accuracy of single classes was not recorded: that of the classes of a step together is shown.</p>"
        )
    )
    return _block(shown + by_step + "<p>Accuracy on test images, among all classes that the step knows.</p>")


def steps_table(entries: Sequence[StepEntry]) -> str:
    """What was recorded of each step."""
    rows = [
        [
            f"step {entry.step}",
            _listed(entry.classes),
            str(entry.num_seen_classes),
            _percent(entry.accuracy),
            _percent(entry.average_incremental_accuracy),
            _percent(entry.forgetting),
        ]
        for entry in entries
    ]
    columns = ["step", "new classes", "classes known", "accuracy", "average so far", "forgetting"]
    return _block(table("Accuracy after each step", columns, rows, numbers={2, 3, 4, 5}))


def matrix_table(results: RunResults) -> str:
    """The accuracy on the classes of each step, after each step."""
    columns = ["after", *(f"on step {step.step}" for step in results.steps)]
    rows = [
        [
            f"step {step.step}",
            *map(_percent, step.accuracy_per_step),
            *[""] * (len(results.steps) - len(step.accuracy_per_step)),
        ]
        for step in results.steps
    ]
    return _block(table("Accuracy on the classes of each step", columns, rows, numbers=set(range(1, len(columns)))))


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> str:
    """
    A table that a screen reader announces cell by cell.

    Args:
        caption (`str`): plain text.
        columns (`Sequence[str]`): headers, plain text.
        rows (`Sequence[Sequence[str]]`): cells as HTML; the first of each is its header.
        numbers (`set[int]`): columns that are aligned to the right.
    """
    head = "".join(
        f'<th scope="col"{_class(place in numbers)}>{escape(name)}</th>' for place, name in enumerate(columns)
    )
    body = "".join(f"<tr>{_row(row, numbers)}</tr>" for row in rows)
    title = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table><caption>{title}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[str], numbers: set[int]) -> str:
    first, *others = cells
    return f'<th scope="row">{first}</th>' + "".join(
        f"<td{_class(place in numbers)}>{cell}</td>" for place, cell in enumerate(others, start=1)
    )


def _class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _block(content: str) -> str:
    return f'<div class="dytox">{content}</div>'


def _meter(score: float) -> str:
    return f'<meter min="0" max="1" value="{score:.4f}" aria-hidden="true"></meter>'


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _listed(names: Sequence[str], most: int = 20) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(text_of, names[:most])) + rest
