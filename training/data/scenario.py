"""The scenario: a data set cut into steps of new classes, in a chosen order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hub.run.errors import InputError
from hub.run.text import printable, short_repr, shorten
from training.arguments import DataArguments
from training.data.class_order import resolve_class_order
from training.data.examples import Examples, concatenate
from training.data.splits import LabelledSplits


# With more classes, only the one with the fewest images and the one with the most are named.
MAX_LISTED_CLASSES = 20


@dataclass(frozen=True)
class Step:
    """
    One increment of new classes.

    Args:
        number (`int`): 1 for the first step.
        class_names (`list[str]`): the new classes.
        class_range (`tuple[int, int]`): half-open range of their label ids; all lower ids were learned before.
        train (`Examples`): training images of the new classes, in the order of the data set; behind them those that
            the data set brings of classes that a continued model knows already, if they are to be merged.
    """

    number: int
    class_names: list[str]
    class_range: tuple[int, int]
    train: Examples

    @property
    def num_old_classes(self) -> int:
        """Classes learned in the steps before."""
        return self.class_range[0]

    @property
    def num_seen_classes(self) -> int:
        """Classes learned up to this step."""
        return self.class_range[1]


@dataclass(frozen=True)
class LearnedClasses:
    """
    The classes that a run starts from.

    Args:
        names (`tuple[str, ...]`): in the order of learning; none unless a published model is continued.
        num_steps (`int`): steps in which they were learned.
        policy: what to do with images of these classes, see `--known_classes`.
    """

    names: tuple[str, ...] = ()
    num_steps: int = 0
    policy: Literal["refuse", "test", "merge"] = "refuse"


@dataclass(frozen=True)
class Scenario:
    """
    All steps of a run. Label ids follow the order of learning.

    Args:
        steps (`list[Step]`): the steps in order.
        train (`Examples`): training images of all steps.
        test (`Examples`): test images of all steps, and those that there are of classes known before.
        known (`LearnedClasses`): what a continued model had learned before these steps.
        train_split, test_split (`str`): names of the splits that the images are of.
        notes (`Sequence[str]`): what of the data set is not used and why, a line each.
    """

    steps: list[Step]
    train: Examples
    test: Examples
    known: LearnedClasses
    train_split: str = "train"
    test_split: str = "test"
    notes: Sequence[str] = ()

    @property
    def class_names(self) -> list[str]:
        """All classes in the order of learning."""
        return [*self.known.names, *(name for step in self.steps for name in step.class_names)]

    @property
    def num_steps(self) -> int:
        """Steps after which all classes are learned, those of a continued model included."""
        return self.steps[-1].number

    def describe(self) -> list[str]:
        """How many images of each class each split has, and what is left out: a line each."""
        splits = {self.train_split: self.train, self.test_split: self.test}
        counts = [_describe_counts(name, examples.labels, self.class_names) for name, examples in splits.items()]
        return [*counts, self._describe_steps(), *self._describe_unmeasured(), *self.notes]

    def _describe_steps(self) -> str:
        sizes = [len(step.class_names) for step in self.steps]
        if len(set(sizes)) == 1:
            return f"{len(sizes)} step(s) of {sizes[0]} class(es)"
        return f"{len(sizes)} steps of {', '.join(map(str, sizes[:-1]))} and {sizes[-1]} classes"

    def _describe_unmeasured(self) -> list[str]:
        """The classes without test images, as their accuracy cannot be measured."""
        measured = set(self.test.labels.tolist())
        lacking = [printable(name) for label, name in enumerate(self.class_names) if label not in measured]
        if not lacking:
            return []
        line = f"Not measured, as they have no test image: {len(lacking)} class(es), {shorten(lacking, 80)}"
        if self.known.names and self.known.policy == "refuse":
            line += ". To measure those learned before, add their images to the data set with --known_classes test"
        return [line]

    def steps_after(self, number: int) -> list[Step]:
        """The steps that follow step `number`; all for 0."""
        return [step for step in self.steps if step.number > number]

    def seen_train(self, step: Step) -> Examples:
        """Training images of all classes seen up to `step`."""
        return self.train.of_classes(0, step.num_seen_classes)

    def seen_test(self, step: Step) -> Examples:
        """Test images of all classes seen up to `step`."""
        return self.test.of_classes(0, step.num_seen_classes)


def _describe_counts(split: str, labels: np.ndarray, class_names: Sequence[str]) -> str:
    counts = np.bincount(labels, minlength=len(class_names))
    present = np.flatnonzero(counts)
    line = f"{split}: {len(labels):,} images of {len(present)} class{'es' * (len(present) != 1)}"
    if len(present) <= MAX_LISTED_CLASSES:
        return (
            f"{line}: {', '.join(f'{printable(class_names[label])} {counts[label]:,}' for label in present.tolist())}"
        )
    if len(set(counts[present])) == 1:
        return f"{line}, {counts[present[0]]:,} a class"
    fewest, most = int(present[counts[present].argmin()]), int(present[counts[present].argmax()])
    return (
        f"{line}, from {counts[fewest]:,} ({printable(class_names[fewest])}) to {counts[most]:,} "
        f"({printable(class_names[most])}) a class"
    )


def make_scenario(splits: LabelledSplits, arguments: DataArguments, known: LearnedClasses | None = None) -> Scenario:
    """
    Cuts a data set into steps, after those of `known`.

    Raises:
        InputError: the class order repeats, misses or does not know a class; the steps are not those of all classes; a
            class has no image to learn from, or no class of the first step one to test on; classes are known already
            and that is not allowed for, or no others are left.
    """
    known = known or LearnedClasses()
    names = splits.class_names
    order = resolve_class_order(arguments.class_order, names, arguments.num_classes)
    order = _only_new(order, names, known)
    new_ids = {label: len(known.names) + position for position, label in enumerate(order)}
    known_ids = _known_ids(names, known)
    train = _relabel(splits.train, new_ids, arguments.max_train_samples_per_class)
    test = _relabel(splits.test, known_ids | new_ids, arguments.max_eval_samples_per_class)
    _check_every_class_has_images(train, new_ids, names)
    merged = _relabel(
        splits.train, known_ids if known.policy == "merge" else {}, arguments.max_train_samples_per_class
    )
    steps: list[Step] = []
    for start, stop in class_ranges(len(order), arguments.initial_classes, arguments.classes_per_step):
        class_range = (len(known.names) + start, len(known.names) + stop)
        parts = [train.of_classes(*class_range), *([] if steps else [merged])]
        class_names = [names[label] for label in order[start:stop]]
        steps.append(Step(known.num_steps + len(steps) + 1, class_names, class_range, concatenate(parts)))
    _check_first_step_has_test_images(steps[0], test)
    return Scenario(
        steps, concatenate([train, merged]), test, known, splits.train_split, splits.test_split, splits.notes
    )


def _only_new(order: list[int], names: Sequence[str], known: LearnedClasses) -> list[int]:
    """The label ids of `order` whose classes are not known yet."""
    repeated = [names[label] for label in order if names[label] in known.names]
    if repeated and len(repeated) == len(order):
        subject = f"class {printable(repeated[0])}" if len(order) == 1 else f"all {len(order)} classes"
        raise InputError(
            f"The model knows {subject} already: a step teaches new ones. To learn from more images of known classes, "
            "bring them together with a new class and --known_classes merge, or learn the run again."
        )
    if repeated and known.policy == "refuse":
        raise InputError(
            f"The model knows {repeated[0]!r} already ({len(repeated)} of the {len(order)} classes to learn): "
            "rename it if it is another, leave it out with --class_order and --num_classes, or choose --known_classes "
            "merge or test."
        )
    return [label for label in order if names[label] not in known.names]


def _known_ids(names: Sequence[str], known: LearnedClasses) -> dict[int, int]:
    """The label id in the model of each label id of the data set that stands for a known class to test or to merge."""
    if known.policy == "refuse":
        return {}
    return {label: known.names.index(name) for label, name in enumerate(names) if name in known.names}


def class_ranges(
    num_classes: int, initial_classes: int | None, classes_per_step: Sequence[int] | None
) -> list[tuple[int, int]]:
    """
    The class range of each step, counted from 0.

    Args:
        num_classes (`int`): classes to cut.
        initial_classes (`int`, *optional*): classes of the first step, if they are more or less than in the others.
        classes_per_step (`Sequence[int]`, *optional*): classes of each later step, of which the last may have fewer;
            or several numbers, the steps in turn. By default all at once.

    Raises:
        InputError: the first step has more classes than there are, or several numbers are not those of all classes.
    """
    if classes_per_step is not None and len(classes_per_step) > 1:
        if initial_classes is not None:
            raise InputError(
                f"--initial_classes {initial_classes} and --classes_per_step {_words(classes_per_step)} both say how "
                "many classes the first step has: leave --initial_classes out."
            )
        if sum(classes_per_step) != num_classes:
            raise InputError(
                f"--classes_per_step {_words(classes_per_step)} makes {sum(classes_per_step)} classes of the "
                f"{num_classes} there are: change the numbers, or take the first N classes with --num_classes N."
            )
        stops = np.cumsum(classes_per_step).tolist()
    else:
        first = initial_classes or (classes_per_step[0] if classes_per_step else num_classes)
        if initial_classes is not None and initial_classes > num_classes:
            raise InputError(
                f"--initial_classes {initial_classes} is more than the {num_classes} classes to learn: give fewer."
            )
        per_step = classes_per_step[0] if classes_per_step else max(1, num_classes - first)
        stops = [*range(first, num_classes, per_step), num_classes]
    return list(zip([0, *stops], stops, strict=False))


def _words(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def select_by_name(
    examples: Examples, names: Sequence[str], class_names: Sequence[str], limit: int | None = None
) -> Examples:
    """
    The test images of some classes, found by name; label ids are the positions in `class_names`. Not every class needs
    to have images.

    Args:
        examples (`Examples`): test images, with label ids of the data set.
        names (`Sequence[str]`): name of each of these label ids.
        class_names (`Sequence[str]`): the classes to keep, in the order of learning.
        limit (`int`, *optional*): only the first so many images of each class.

    Raises:
        InputError: a class is named twice, or none has an image.
    """
    repeated = [name for position, name in enumerate(class_names) if name in class_names[:position]]
    if repeated:
        raise InputError(
            f"The model names two classes {repeated[0]!r}, so their images cannot be told apart: give its id2label a "
            "name of its own for each class."
        )
    counts = np.bincount(examples.labels, minlength=len(names))
    ids = {name: label for label, name in enumerate(names) if counts[label]}
    label_ids = {ids[name]: position for position, name in enumerate(class_names) if name in ids}
    if not label_ids:
        raise InputError(
            f"The test split has no image of the {len(class_names)} class(es) that the model knows, such as "
            f"{short_repr(class_names[0])}, but of {shorten(ids, 80)}: give a data set with classes that the model "
            "has learned, or the --label_column that names them."
        )
    return _relabel(examples, label_ids, limit)


def _relabel(examples: Examples, label_ids: Mapping[int, int], limit: int | None) -> Examples:
    """Keeps the classes of `label_ids`, at most `limit` images of each, with the label ids that they get there."""
    num_labels = 1 + max(examples.labels.max(initial=-1), *label_ids, 0)
    new_labels = np.full(num_labels, -1, dtype=np.int64)
    new_labels[list(label_ids)] = list(label_ids.values())
    labels = new_labels[examples.labels]
    kept = labels >= 0
    if limit is not None:
        kept &= _rank_in_class(labels) < limit
    positions = np.flatnonzero(kept)
    selected = examples.select(positions)
    return replace(selected, labels=labels[positions])


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """For each example how many of its class come before it."""
    by_class = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(first, counts)
    return ranks


def _check_every_class_has_images(examples: Examples, label_ids: Mapping[int, int], names: Sequence[str]) -> None:
    present = set(examples.labels.tolist())
    empty = [names[label] for label, label_id in label_ids.items() if label_id not in present]
    if empty:
        raise InputError(
            f"Class {empty[0]!r} has no training image ({len(empty)} such class(es)), so there is nothing to learn of "
            "it: leave it out with --class_order and --num_classes, or add images."
        )


def _check_first_step_has_test_images(step: Step, test: Examples) -> None:
    """Later steps may add classes without test images: what was learned before is measured."""
    if not (test.labels < step.num_seen_classes).any():
        raise InputError(
            f"No class of the first step, {printable(step.class_names[0])} first, has a test image: add some, hold "
            "out more with --holdout, or begin with other classes."
        )
