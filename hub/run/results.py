"""`results.json`: what a run measured, step by step. Training writes it, publishing reads it."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hub.run.atomic import write_aside
from hub.run.errors import StepFolderError
from hub.run.layout import RESULTS_FILE
from hub.run.schema import Count, Difference, Fraction, Seconds, decode, read_json


@dataclass(frozen=True)
class ReliabilityBin:
    """
    The predictions whose confidence lies in one bin.

    Args:
        confidence (`float`): mean confidence, in 0..1.
        accuracy (`float`): share that is right, in 0..1.
        count (`int`): how many predictions there are.
    """

    confidence: Fraction
    accuracy: Fraction
    count: Count


@dataclass(frozen=True)
class StepResults:
    """
    What was measured after one step, on test images, always among all classes seen. Fractions are in 0..1.

    Numbers over all classes seen (accuracy, top-5 accuracy, calibration error, old-new bias, task-aware accuracy) are
    None unless every one of these classes has test images. No number says more than was measured.

    Args:
        step (`int`): from 1.
        classes (`tuple[str, ...]`): the classes that this step added.
        num_seen_classes (`int`): classes known by now.
        accuracy (`float`, *optional*): on the test images of all classes seen.
        top5_accuracy (`float`, *optional*): share of these images whose class is among the five highest scores.
        accuracy_per_step (`tuple[float | None, ...]`): accuracy on the classes of each step so far; None for a step
            whose classes have no test images.
        expected_calibration_error (`float`, *optional*): of the score of the predicted class.
        num_parameters (`int`): of the model.
        memory_size (`int`, *optional*): exemplars in the rehearsal memory.
        train_seconds (`float`, *optional*): time that this step took to learn.
        old_new_bias (`float`, *optional*): share of images predicted as a class of this step, less the share that
            are; None after step 1, when there are no old classes.
        task_aware_accuracy (`float`, *optional*): accuracy with the step of each image given: only the classes of
            that step compete (task-incremental learning). None where it was not measured.
        task_aware_accuracy_per_step (`tuple[float | None, ...]`, *optional*): the same on the classes of each step.
        calibration (`tuple[ReliabilityBin, ...]`, *optional*): the bins that give the expected calibration error, by
            rising confidence, without empty ones.
        forgetting, backward_transfer (`float`, *optional*): after this step, see `training.metrics`; None after the
            first step, and where an earlier step was not measured again.
        accuracy_of_measured (`float`, *optional*): accuracy on the test images that there are; only where `accuracy`
            is None.
        measured_classes (`tuple[str, ...]`, *optional*): the classes that these images are of.
    """

    step: Count
    classes: tuple[str, ...]
    num_seen_classes: Count
    accuracy: Fraction | None
    top5_accuracy: Fraction | None
    accuracy_per_step: tuple[Fraction | None, ...]
    expected_calibration_error: Fraction | None
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

    def accuracy_text(self, form: str = ".2%") -> str:
        """
        The accuracy for a reader: `92.78%`, or `54.00% (5 of 10 classes)` where not all classes seen were measured.

        Args:
            form (`str`): format of the number.
        """
        if self.accuracy is not None:
            return format(self.accuracy, form)
        if self.accuracy_of_measured is None:
            return "–"
        classes = f"{len(self.measured_classes or ())} of {self.num_seen_classes} classes"
        return f"{format(self.accuracy_of_measured, form)} ({classes})"


@dataclass(frozen=True)
class Ancestor:
    """
    A model that the run continues.

    Args:
        model (`str`): a repository on the Hub, or the name of a folder.
        revision (`str`, *optional*): of that repository.
        commit (`str`, *optional*): of that repository, 40 hexadecimal digits.
        num_steps (`int`): steps up to this one were learned there.
        dataset (`str`): what they were learned on.
        method (`str`, *optional*): the method they were learned with; None in results of earlier versions.
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
    What a method says of itself in a model card.

    Args:
        title (`str`): its name.
        sentence (`str`): how a model is trained with it, in Markdown.
        citation (`str`): BibTeX entries of its papers; may be empty.
        tags (`tuple[str, ...]`): of the model card, such as `arxiv:2111.11326`.
        can_continue (`bool`): whether a published model can be taught more classes by this method.
    """

    title: str
    sentence: str
    citation: str = ""
    tags: tuple[str, ...] = ()
    can_continue: bool = True


@dataclass(frozen=True)
class RunResults:
    """
    The results of a run up to the last of `steps`.

    Args:
        dataset (`str`): what the run learns.
        num_steps (`int`): steps of the whole scenario.
        class_order (`tuple[str, ...]`): all classes in the order of learning.
        seed (`int`): of the run.
        method (`str`): name of the method.
        steps (`tuple[StepResults, ...]`): in order. Steps of `ancestors` come first.
        average_incremental_accuracy, last_accuracy, forgetting, backward_transfer (`float`, *optional*): over the
            steps so far, see `training.metrics`; None where a term was not measured.
        average_task_aware_accuracy (`float`, *optional*): only where it was measured after every step.
        ancestors (`tuple[Ancestor, ...]`): the models that the run continues, oldest first.
        code_version (`str`, *optional*): version of this project that wrote the results.
        method_card (`MethodCard`, *optional*): the words of the method for the card.
    """

    dataset: str
    num_steps: Count
    class_order: tuple[str, ...]
    seed: Count
    method: str
    steps: tuple[StepResults, ...] = ()
    average_incremental_accuracy: Fraction | None = None
    last_accuracy: Fraction | None = None
    forgetting: Difference | None = None
    backward_transfer: Difference | None = None
    average_task_aware_accuracy: Fraction | None = None
    ancestors: tuple[Ancestor, ...] = ()
    code_version: str | None = None
    method_card: MethodCard | None = None

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
        """The content of `results.json`; what the run does not have is left out."""
        optional = ("average_task_aware_accuracy", "ancestors")
        content = {name: value for name, value in asdict(self).items() if value or name not in optional}
        content["steps"] = [_step_to_json(step) for step in content["steps"]]
        return content

    def write(self, path: Path) -> None:
        """
        Replaces `results.json` as a whole.

        Raises:
            StepFolderError: a number is one that no run can have measured.
        """
        content = json.dumps(self.to_json_object(), indent=2, ensure_ascii=False) + "\n"
        RunResults.from_dict(json.loads(content), path.name)
        write_aside(path, content)

    @classmethod
    def read(cls, path: Path) -> "RunResults":
        """
        Reads a `results.json` of this version or of an earlier one.

        Raises:
            StepFolderError: it cannot be read, or breaks the schema.
        """
        return cls.from_dict(read_json(path), f"{path.parent.name}/{path.name}")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = RESULTS_FILE) -> "RunResults":
        """
        Checks and types a parsed `results.json`.

        Args:
            raw (`Mapping[str, Any]`): the JSON object.
            source (`str`): names the file in errors.

        Raises:
            StepFolderError: it breaks the schema.
        """
        results = decode(cls, raw if "code_version" in raw else _of_earlier_version(raw), source)
        _check_steps(results, source)
        _check_ancestors(results, source)
        return results


def _step_to_json(step: dict[str, Any]) -> dict[str, Any]:
    optional = ("accuracy_of_measured", "measured_classes")
    return {name: value for name, value in step.items() if value is not None or name not in optional}


def _of_earlier_version(raw: Mapping[str, Any]) -> dict[str, Any]:
    """
    The results of a version before `code_version` was recorded, in today's terms: a null in `accuracy_per_step` marks
    a step that was not measured, though `accuracy` is over the others; forgetting was 0 after the first step.
    """
    steps = raw.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return dict(raw)
    upgraded = [_step_of_earlier_version(step, steps) for step in steps]
    content = dict(raw) | {"steps": upgraded}
    if any(step.get("accuracy") is None for step in upgraded):
        content["average_incremental_accuracy"] = None
    if upgraded and upgraded[-1].get("accuracy") is None:
        content["last_accuracy"] = None
    if len(upgraded) == 1 or (upgraded and upgraded[-1].get("accuracy") is None):
        content |= {"forgetting": None, "backward_transfer": None}
    if upgraded:
        upgraded[-1] |= {name: content.get(name) for name in ("forgetting", "backward_transfer")}
    return {"class_order": [name for step in steps for name in step.get("classes", [])]} | content


def _step_of_earlier_version(step: Mapping[str, Any], steps: list[Any]) -> dict[str, Any]:
    content = {"accuracy": None, "top5_accuracy": None, "expected_calibration_error": None} | dict(step)
    per_step = step.get("accuracy_per_step")
    if not isinstance(per_step, list) or None not in per_step:
        return content
    measured = [other.get("classes", []) for other, value in zip(steps, per_step, strict=False) if value is not None]
    of_all = ("accuracy", "top5_accuracy", "expected_calibration_error", "old_new_bias", "task_aware_accuracy")
    return (
        content
        | dict.fromkeys((*of_all, "calibration"))
        | {
            "accuracy_of_measured": step.get("accuracy"),
            "measured_classes": [name for names in measured for name in names],
        }
    )


def _check_steps(results: RunResults, source: str) -> None:
    if not results.steps:
        raise StepFolderError(f"{source}: steps is empty, expected at least one step")
    if len(results.steps) > results.num_steps:
        count = len(results.steps)
        raise StepFolderError(f"{source}: has {count} steps, expected at most num_steps = {results.num_steps}")
    seen = 0
    for position, step in enumerate(results.steps, 1):
        where = f"{source}, step {position}"
        seen += len(step.classes)
        _expect(where, "step", step.step, position)
        _expect(where, "num_seen_classes", step.num_seen_classes, seen)
        _expect(where, "the length of accuracy_per_step", len(step.accuracy_per_step), position)
        if not step.classes:
            raise StepFolderError(f"{where}: classes is empty, expected the names of the step's new classes")
        _check_measured(step, where)
        _check_calibration(step, where)


def _check_measured(step: StepResults, where: str) -> None:
    """Either all classes seen were measured, or it is said which."""
    if step.accuracy is None and (step.accuracy_of_measured is None or not step.measured_classes):
        raise StepFolderError(
            f"{where}: accuracy is None, expected a number in 0..1, or accuracy_of_measured and measured_classes"
        )
    if step.accuracy is not None and None in step.accuracy_per_step:
        raise StepFolderError(f"{where}: accuracy is {step.accuracy}, expected None as accuracy_per_step has a None")


def _check_calibration(step: StepResults, where: str) -> None:
    bins = step.calibration or ()
    confidences = [held.confidence for held in bins]
    if confidences != sorted(confidences) or not all(held.count for held in bins):
        raise StepFolderError(f"{where}: calibration has an empty bin or one out of order, expected rising confidence")


def _check_ancestors(results: RunResults, source: str) -> None:
    before = 0
    for position, ancestor in enumerate(results.ancestors, 1):
        where = f"{source}, ancestor {position}"
        if not before < ancestor.num_steps < len(results.steps):
            raise StepFolderError(
                f"{where}: num_steps is {ancestor.num_steps}, expected more than {before}, those before it, and less "
                f"than {len(results.steps)}, all steps"
            )
        if ancestor.commit is not None and not re.fullmatch("[0-9a-f]{40}", ancestor.commit):
            raise StepFolderError(f"{where}: commit is {ancestor.commit[:60]!r}, expected 40 hexadecimal digits")
        before = ancestor.num_steps


def _expect(where: str, name: str, value: int, expected: int) -> None:
    if value != expected:
        raise StepFolderError(f"{where}: {name} is {value}, expected {expected}")
