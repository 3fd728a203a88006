"""Two revisions side by side: which classes were gained, and what became of the others."""

from collections.abc import Sequence
from dataclasses import dataclass

from hub.run.confusion import Confusion
from hub.run.results import RunResults


@dataclass(frozen=True)
class Change:
    """
    What became of a class, or of the classes of a step, between an earlier and a later revision.

    Args:
        classes (`tuple[str, ...]`): one class, or all of the step where their accuracies were not recorded one by one.
        step (`int`): the step that learned them.
        before, after (`float`, *optional*): accuracy on their test images in 0..1, among all classes that the revision
            knows; None where it was not measured, or the class not known yet.
        is_new (`bool`): whether the earlier revision did not know them.
    """

    classes: tuple[str, ...]
    step: int
    before: float | None
    after: float | None
    is_new: bool

    @property
    def difference(self) -> float | None:
        """Accuracy gained, negative where it was lost; None where one of the two was not measured."""
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def word(self) -> str:
        """The change in a word."""
        if self.is_new:
            return "new"
        if self.difference is None:
            return "not measured"
        if self.after == 0 and self.difference < 0:
            return "forgotten"
        return "worse" if self.difference < 0 else "better" if self.difference > 0 else "unchanged"


def changes(
    earlier: RunResults, later: RunResults, confusions: tuple[Confusion | None, Confusion | None] = (None, None)
) -> list[Change]:
    """
    What became of every class of the later revision: by class where both confusion matrices were recorded, else by
    step. The largest losses come first, then what was gained.

    Args:
        earlier, later (`RunResults`): results up to the two steps, of the same run.
        confusions (`tuple[Confusion | None, Confusion | None]`, *optional*): after the two steps.
    """
    before, after = confusions
    if before is None or after is None:
        found = _by_step(earlier, later)
    else:
        found = _by_class(later, len(earlier.class_names), _accuracies(before), _accuracies(after))
    return sorted(found, key=lambda change: (change.is_new, change.difference is None, change.difference or 0.0))


def _by_step(earlier: RunResults, later: RunResults) -> list[Change]:
    before: Sequence[float | None] = earlier.last.accuracy_per_step
    after = later.last.accuracy_per_step
    return [
        Change(
            step.classes,
            step.step,
            before[index] if index < len(before) else None,
            after[index],
            is_new=index >= len(before),
        )
        for index, step in enumerate(later.steps)
    ]


def _by_class(later: RunResults, num_known: int, before: dict[int, float], after: dict[int, float]) -> list[Change]:
    steps = [step.step for step in later.steps for _ in step.classes]
    return [
        Change((name,), steps[label], before.get(label), after.get(label), is_new=label >= num_known)
        for label, name in enumerate(later.class_names)
    ]


def _accuracies(confusion: Confusion) -> dict[int, float]:
    return {entry.label: entry.accuracy for entry in confusion.per_class()}
