"""`results.json`: what a run measured, step by step. Training writes it, publishing reads it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hub.run.atomic import write_aside
from hub.run.errors import StepFolderError
from hub.run.layout import RESULTS_FILE
from hub.run.schema import Count, Difference, Fraction, Seconds, decode, read_json, short_name
from hub.run.text import short_repr


#: Of a step, measured over all classes seen: None unless each of these classes has test images.
OVER_ALL_CLASSES = (
    "accuracy",
    "top5_accuracy",
    "expected_calibration_error",
    "old_new_bias",
    "task_aware_accuracy",
    "calibration",
)
# Left out of the file where there is nothing to say.
_OPTIONAL_KEYS = (
    "accuracy_of_measured",
    "measured_classes",
    "head_accuracy",
    "nearest_mean_accuracy",
    "average_task_aware_accuracy",
    "ancestors",
    "exact_across_processes",
)
# Earlier versions may have rounded what they wrote.
_TOLERANCE = 1e-3


#: Bins of confidence, between 0 and 1, of the recorded calibration error.
NUM_CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """
    The predictions whose confidence lies in one bin.

    Args:
        confidence (`float`): mean confidence, in 0..1.
        accuracy (`float`): share of correct predictions, in 0..1.
        count (`int`): number of predictions.
    """

    confidence: Fraction
    accuracy: Fraction
    count: Count


@dataclass(frozen=True, kw_only=True)
class StepResults:
    """
    What was measured after one step on test images, predicted among all classes seen. Fractions are in 0..1.

    Numbers over all classes seen are None unless each of these classes has test images, see [`OVER_ALL_CLASSES`]: no
    number says more than was measured.

    Args:
        step (`int`): number of the step, from 1.
        classes (`tuple[str, ...]`): the classes that this step added.
        num_seen_classes (`int`): number of classes known after the step.
        accuracy (`float`, *optional*): on the test images of all classes seen.
        top5_accuracy (`float`, *optional*): share of these images whose class is among the five highest scores.
        accuracy_per_step (`tuple[float | None, ...]`): accuracy on the classes of each step so far; None for a step
            whose classes have no test images.
        expected_calibration_error (`float`, *optional*): of the score of the predicted class.
        num_parameters (`int`): of the model.
        memory_size (`int`, *optional*): exemplars in the rehearsal memory.
        train_seconds (`float`, *optional*): time that the step took to learn.
        old_new_bias (`float`, *optional*): share of images predicted as a class of this step, less the share that
            are; None after step 1, when there are no old classes.
        task_aware_accuracy (`float`, *optional*): accuracy with the step of each image given: only the classes of
            that step compete (task-incremental learning). None where it was not measured.
        task_aware_accuracy_per_step (`tuple[float | None, ...]`, *optional*): the same on the classes of each step.
        calibration (`tuple[ReliabilityBin, ...]`, *optional*): the bins that give the expected calibration error, by
            rising confidence, without empty ones.
        forgetting, backward_transfer (`float`, *optional*): after this step, see `training.metrics`; None after step
            1, where a term was not measured, and where an earlier version did not record it.
        accuracy_of_measured (`float`, *optional*): accuracy on the test images that there are, where `accuracy` is
            None.
        measured_classes (`tuple[str, ...]`, *optional*): the classes of these images.
        head_accuracy, nearest_mean_accuracy (`float`, *optional*): of the largest logit of the head, and of the
            nearest class mean, where the model has them and predicts by another rule.
    """

    step: Count
    classes: tuple[str, ...]
    num_seen_classes: Count
    accuracy: Fraction | None
    top5_accuracy: Fraction | None = None
    accuracy_per_step: tuple[Fraction | None, ...]
    expected_calibration_error: Fraction | None = None
    num_parameters: Count
    memory_size: Count | None = None
    train_seconds: Seconds | None = None
    old_new_bias: Difference | None = None
    task_aware_accuracy: Fraction | None = None
    task_aware_accuracy_per_step: tuple[Fraction | None, ...] | None = None
    calibration: tuple[ReliabilityBin, ...] | None = None
    forgetting: Difference | None = None
    backward_transfer: Difference | None = None
    accuracy_of_measured: Fraction | None = None
    measured_classes: tuple[str, ...] | None = None
    head_accuracy: Fraction | None = None
    nearest_mean_accuracy: Fraction | None = None

    def accuracy_text(self, percent: Callable[[float], str] = "{:.2%}".format) -> str:
        """
        The accuracy for a reader: `92.78%`, or `54.00% (5 of 10 classes)` where not all classes seen were measured.

        Args:
            percent (`Callable[[float], str]`, *optional*): formats a fraction.
        """
        if self.accuracy is not None:
            return percent(self.accuracy)
        if self.accuracy_of_measured is None:
            return "–"
        measured = len(self.measured_classes or ())
        return f"{percent(self.accuracy_of_measured)} ({measured} of {self.num_seen_classes} classes)"


@dataclass(frozen=True)
class Ancestor:
    """
    A model that the run continues.

    Args:
        model (`str`): a repository on the Hub, or the name of a folder.
        num_steps (`int`): steps up to this one were learned there.
        dataset (`str`): what they were learned on.
        revision (`str`, *optional*): of the repository.
        commit (`str`, *optional*): of the repository, 40 hexadecimal digits.
        method (`str`, *optional*): name of the method they were learned with; None in results of earlier versions.
    """

    model: str
    num_steps: Count
    dataset: str
    revision: str | None = None
    commit: str | None = None
    method: str | None = None


@dataclass(frozen=True)
class MethodCard:
    """
    What a method says about itself in a model card.

    Args:
        title (`str`): its name.
        sentence (`str`): how a model is trained with it, in Markdown, on one line.
        citation (`str`, *optional*): BibTeX entries of its papers.
        tags (`tuple[str, ...]`, *optional*): of the model card, such as `arxiv:2111.11326`.
        can_continue (`bool`, *optional*, defaults to `True`): whether a published model can be taught more classes by
            this method.
    """

    title: str
    sentence: str
    citation: str = ""
    tags: tuple[str, ...] = ()
    can_continue: bool = True


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """
    The results of a run up to the last of `steps`.

    Args:
        dataset (`str`): what the run learns.
        num_steps (`int`): number of steps of the whole scenario.
        class_order (`tuple[str, ...]`): all classes in the order of learning.
        seed (`int`): of the run.
        method (`str`): name of the method.
        steps (`tuple[StepResults, ...]`): in order. Steps of `ancestors` come first.
        average_incremental_accuracy, last_accuracy, forgetting, backward_transfer (`float`, *optional*): over the
            steps so far, see `training.metrics`; None where a term was not measured.
        average_task_aware_accuracy (`float`, *optional*): only where it was measured after every step.
        ancestors (`tuple[Ancestor, ...]`): the models that the run continues, oldest first.
        test_split (`str`, *optional*): the split of `dataset` that the test images are of; None in results of earlier
            versions.
        code_version (`str`, *optional*): version of this project that wrote the results.
        method_card (`MethodCard`, *optional*): the words of the method for the card.
        exact_across_processes (`bool`, *optional*): False where another number of processes gives another model by
            more than rounding and random draws.
    """

    dataset: str
    num_steps: Count
    class_order: tuple[str, ...] = ()
    seed: Count
    method: str
    steps: tuple[StepResults, ...] = ()
    average_incremental_accuracy: Fraction | None = None
    last_accuracy: Fraction | None = None
    forgetting: Difference | None = None
    backward_transfer: Difference | None = None
    average_task_aware_accuracy: Fraction | None = None
    ancestors: tuple[Ancestor, ...] = ()
    test_split: str | None = None
    code_version: str | None = None
    method_card: MethodCard | None = None
    exact_across_processes: bool | None = None

    @property
    def last(self) -> StepResults:
        """The last step measured."""
        return self.steps[-1]

    @property
    def class_names(self) -> list[str]:
        """Names of all classes seen, in the order of learning (index = label id)."""
        return [name for step in self.steps for name in step.classes]

    @property
    def first_own_step(self) -> int:
        """The first step that the run learned itself."""
        return self.ancestors[-1].num_steps + 1 if self.ancestors else 1

    @property
    def datasets(self) -> list[str]:
        """The data sets that were learned, in order, each once."""
        return list(dict.fromkeys([*(ancestor.dataset for ancestor in self.ancestors), self.dataset]))

    def to_json_object(self) -> dict[str, Any]:
        """The content of `results.json` as JSON has it: objects, lists, strings, numbers, truth values and None."""
        content: dict[str, Any] = _to_json(asdict(self))
        return content

    def write(self, path: Path) -> None:
        """
        Replaces `results.json` as a whole.

        Args:
            path (`Path`): the file; its folder exists.

        Raises:
            StepFolderError: the results break the schema, as with a number that no run can have measured.
        """
        content = self.to_json_object()
        RunResults.from_dict(content, path.name)
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        # A name of a file may have bytes that are no UTF-8; `\udcff` is an escape of JSON as well.
        write_aside(path, text.encode("utf-8", "backslashreplace"))

    @classmethod
    def read(cls, path: Path) -> "RunResults":
        """
        Reads a `results.json` of this version or of an earlier one.

        Raises:
            StepFolderError: it cannot be read, or breaks the schema.
        """
        return cls.from_dict(read_json(path), short_name(path))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = RESULTS_FILE) -> "RunResults":
        """
        Checks and types a parsed `results.json` of this version or of an earlier one.

        Args:
            raw (`Mapping[str, Any]`): the JSON object.
            source (`str`, *optional*): names the file in errors.

        Raises:
            StepFolderError: it breaks the schema.
        """
        results = decode(cls, raw, source)
        if not results.steps:
            raise StepFolderError(f"{source}: steps is empty, expected at least one step")
        if "code_version" not in raw:
            results = _of_earlier_version(results)
        _check_steps(results, source)
        _check_summary(results, source)
        _check_ancestors(results, source)
        return results


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in _OPTIONAL_KEYS or item not in (None, ())}
        return {key: _to_json(item) for key, item in kept.items()}
    return [_to_json(item) for item in value] if isinstance(value, tuple) else value


def _of_earlier_version(results: RunResults) -> RunResults:
    """
    The results of a version before `code_version` was recorded, in today's terms.

    There a None in `accuracy_per_step` marks classes that were not measured, and the other numbers are over the rest;
    forgetting was 0 after step 1, and recorded for the last step alone.
    """
    steps = [_step_of_earlier_version(step, results.steps) for step in results.steps]
    class_order = results.class_order or tuple(results.class_names)
    results = replace(results, steps=tuple(steps), class_order=class_order)
    if results.last.accuracy is None:
        results = replace(results, last_accuracy=None)
    has_gaps = any(step.accuracy is None for step in steps)
    if has_gaps:
        results = replace(results, average_incremental_accuracy=None, average_task_aware_accuracy=None)
    if has_gaps or len(steps) == 1:
        results = replace(results, forgetting=None, backward_transfer=None)
    last = replace(steps[-1], forgetting=results.forgetting, backward_transfer=results.backward_transfer)
    return replace(results, steps=(*steps[:-1], last))


def _step_of_earlier_version(step: StepResults, steps: tuple[StepResults, ...]) -> StepResults:
    if None not in step.accuracy_per_step:
        return step
    measured = [
        name
        for other, accuracy in zip(steps, step.accuracy_per_step, strict=False)
        if accuracy is not None
        for name in other.classes
    ]
    unknown: dict[str, Any] = dict.fromkeys(OVER_ALL_CLASSES)
    return replace(step, **unknown, accuracy_of_measured=step.accuracy, measured_classes=tuple(measured))


def _check_steps(results: RunResults, source: str) -> None:
    if len(results.steps) > results.num_steps:
        count = len(results.steps)
        raise StepFolderError(f"{source}: has {count} steps, expected at most num_steps = {results.num_steps}")
    seen: list[str] = []
    for position, step in enumerate(results.steps, 1):
        where = f"{source}, step {position}"
        seen += step.classes
        _expect(where, "step", step.step, position)
        _expect(where, "num_seen_classes", step.num_seen_classes, len(seen))
        _expect(where, "the length of accuracy_per_step", len(step.accuracy_per_step), position)
        if step.task_aware_accuracy_per_step is not None:
            length = len(step.task_aware_accuracy_per_step)
            _expect(where, "the length of task_aware_accuracy_per_step", length, position)
        if not step.classes:
            raise StepFolderError(f"{where}: classes is empty, expected the names of the step's new classes")
        _check_measured(step, set(seen), where)
        _check_calibration(step, where)


def _check_measured(step: StepResults, seen: set[str], where: str) -> None:
    """Either all classes seen were measured, or the file says which, and no number claims more."""
    # What was lost is lost of earlier steps: the new step is no term of it.
    if None in step.accuracy_per_step[:-1] and (step.forgetting is not None or step.backward_transfer is not None):
        raise StepFolderError(
            f"{where}: forgetting or backward_transfer is a number, expected null, as accuracy_per_step has a null"
        )
    if step.accuracy is not None:
        if None in step.accuracy_per_step:
            raise StepFolderError(
                f"{where}: accuracy is {step.accuracy}, expected null, as accuracy_per_step has a null"
            )
        return
    if step.accuracy_of_measured is None or not step.measured_classes:
        raise StepFolderError(
            f"{where}: accuracy is null, expected a number in 0..1, or accuracy_of_measured and measured_classes"
        )
    if not set(step.measured_classes) < seen:
        measured = short_repr(list(step.measured_classes))
        raise StepFolderError(f"{where}: measured_classes is {measured}, expected some, not all, of the classes seen")
    for name in OVER_ALL_CLASSES:
        if (value := getattr(step, name)) is not None:
            raise StepFolderError(f"{where}: {name} is {short_repr(value)}, expected null, as accuracy is null")


def _check_calibration(step: StepResults, where: str) -> None:
    bins = step.calibration or ()
    confidences = [entry.confidence for entry in bins]
    if confidences != sorted(confidences) or not all(entry.count for entry in bins):
        raise StepFolderError(f"{where}: calibration has an empty bin or one out of order, expected rising confidence")
    if bins and step.expected_calibration_error is None:
        raise StepFolderError(
            f"{where}: expected_calibration_error is null, expected the number that calibration gives"
        )


def _check_summary(results: RunResults, source: str) -> None:
    """What the file holds twice is equal, and a mean exists only where its terms do."""
    for name, value in (
        ("last_accuracy", results.last.accuracy),
        ("forgetting", results.last.forgetting),
        ("backward_transfer", results.last.backward_transfer),
    ):
        found = getattr(results, name)
        if (found is None) != (value is None) or abs((found or 0) - (value or 0)) > _TOLERANCE:
            raise StepFolderError(f"{source}: {name} is {found}, but that of the last step is {value}")
    has_gaps = any(step.accuracy is None for step in results.steps)
    if (average := results.average_incremental_accuracy) is None and not has_gaps:
        raise StepFolderError(f"{source}: average_incremental_accuracy is null, expected a number in 0..1")
    if average is not None and has_gaps:
        raise StepFolderError(
            f"{source}: average_incremental_accuracy is {average}, expected null, as the accuracy of a step is null"
        )


def _check_ancestors(results: RunResults, source: str) -> None:
    num_before = 0
    for position, ancestor in enumerate(results.ancestors, 1):
        where = f"{source}, ancestor {position}"
        if not num_before < ancestor.num_steps < len(results.steps):
            raise StepFolderError(
                f"{where}: num_steps is {ancestor.num_steps}, expected more than {num_before}, the steps of those "
                f"before it, and less than {len(results.steps)}, all steps"
            )
        if ancestor.commit is not None and not re.fullmatch("[0-9a-f]{40}", ancestor.commit):
            raise StepFolderError(f"{where}: commit is {short_repr(ancestor.commit)}, expected 40 hexadecimal digits")
        num_before = ancestor.num_steps


def _expect(where: str, name: str, value: int, expected: int) -> None:
    if value != expected:
        raise StepFolderError(f"{where}: {name} is {value}, expected {expected}")
