"""`results.json`, typed and checked: what a run has measured, step by step."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.run.errors import StepFolderError


# Headline numbers may have been rounded when they were written; a wrong number differs by more than this.
_TOLERANCE = 1e-3


_PLURALS = {str: "strings", dict: "objects", object: "numbers"}


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose confidence lies in one bin: mean confidence and accuracy in 0..1, and their number."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Ancestor:
    """
    A model that the run continues: steps up to `num_steps` were learned there, on `dataset`.

    `model` is an id on the Hub or the name of a folder. `commit` has 40 hexadecimal digits.
    """

    model: str
    num_steps: int
    dataset: str
    revision: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class StepResults:
    """
    Measurements after one step. Accuracies are fractions in 0..1, on test images, among all classes seen.

    `accuracy_per_step` has None for steps learned on another data set, where the one at hand has no images of theirs.
    `calibration` goes from low confidence to high, without empty bins; it is empty where it was not recorded.
    """

    step: int
    classes: tuple[str, ...]
    num_seen_classes: int
    accuracy: float
    accuracy_per_step: tuple[float | None, ...]
    num_parameters: int
    top5_accuracy: float | None = None
    expected_calibration_error: float | None = None
    memory_size: int | None = None
    train_seconds: float | None = None
    calibration: tuple[ReliabilityBin, ...] = ()


@dataclass(frozen=True)
class RunResults:
    """
    A run up to its last step in `steps`; `num_steps` is the number of steps the scenario has in all. A run that
    continues other models has these as `ancestors`, oldest first, and their steps first in `steps`.
    """

    dataset: str
    method: str
    num_steps: int
    seed: int
    steps: tuple[StepResults, ...]
    average_incremental_accuracy: float
    last_accuracy: float
    forgetting: float | None
    backward_transfer: float | None
    ancestors: tuple[Ancestor, ...] = ()

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

    def forgetting_after(self, step: int) -> float | None:
        """
        Mean of `max_{l<step} a[l, j] - a[step, j]` over the earlier steps j that were measured; None where none was,
        as after the first step.
        """
        *earlier, last = (result.accuracy_per_step for result in self.steps[:step])
        drops = [
            max(value for row in earlier[j:] if (value := row[j]) is not None) - now
            for j, now in enumerate(last[:-1])
            if now is not None
        ]
        return sum(drops) / len(drops) if drops else None

    @classmethod
    def from_file(cls, path: Path) -> "RunResults":
        """Reads `results.json`. Raises [`StepFolderError`] if it cannot be read or breaks the schema."""
        return cls.from_dict(read_json(path), source=f"{path.parent.name}/{path.name}")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = "results.json") -> "RunResults":
        """Checks and types a parsed `results.json`; `source` names it in errors ([`StepFolderError`])."""
        fields = Fields(raw, source)
        raw_steps = fields.list_of("steps", dict)
        if not raw_steps:
            raise StepFolderError(f"{source}: 'steps' is empty, expected at least one step")
        results = cls(
            dataset=fields.text("dataset"),
            method=fields.text("method"),
            num_steps=fields.count("num_steps"),
            seed=fields.count("seed"),
            steps=tuple(_read_step(Fields(step, f"{source}, step {i}")) for i, step in enumerate(raw_steps, 1)),
            average_incremental_accuracy=fields.fraction("average_incremental_accuracy"),
            last_accuracy=fields.fraction("last_accuracy"),
            forgetting=fields.optional_number("forgetting", -1, 1),
            backward_transfer=fields.optional_number("backward_transfer", -1, 1),
            ancestors=tuple(_read_ancestor(each) for each in fields.objects("ancestors", "ancestor")),
        )
        _check_run(results, source)
        return results


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises [`StepFolderError`] if there is none."""
    name = f"{path.parent.name}/{path.name}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StepFolderError(f"{name}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise StepFolderError(f"{name}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise StepFolderError(f"{name}: holds a {type(content).__name__}, expected a JSON object")
    return content


def _read_step(fields: "Fields") -> StepResults:
    return StepResults(
        step=fields.count("step"),
        classes=tuple(fields.list_of("classes", str)),
        num_seen_classes=fields.count("num_seen_classes"),
        accuracy=fields.fraction("accuracy"),
        accuracy_per_step=tuple(
            None if value is None else fields.number_in(value, f"accuracy_per_step[{j}]", 0, 1)
            for j, value in enumerate(fields.list_of("accuracy_per_step", object))
        ),
        num_parameters=fields.count("num_parameters"),
        top5_accuracy=fields.optional_number("top5_accuracy", 0, 1),
        expected_calibration_error=fields.optional_number("expected_calibration_error", 0, 1),
        memory_size=None if fields.raw.get("memory_size") is None else fields.count("memory_size"),
        train_seconds=fields.optional_number("train_seconds", 0, math.inf),
        calibration=tuple(_read_bin(each) for each in fields.objects("calibration", "bin")),
    )


def _read_bin(fields: "Fields") -> ReliabilityBin:
    return ReliabilityBin(
        confidence=fields.fraction("confidence"), accuracy=fields.fraction("accuracy"), count=fields.count("count")
    )


def _read_ancestor(fields: "Fields") -> Ancestor:
    return Ancestor(
        model=fields.text("model"),
        num_steps=fields.count("num_steps"),
        dataset=fields.text("dataset"),
        revision=fields.optional_text("revision"),
        commit=fields.optional_text("commit"),
    )


def _check_run(results: RunResults, source: str) -> None:
    if len(results.steps) > results.num_steps:
        count = len(results.steps)
        raise StepFolderError(f"{source}: has {count} steps, expected at most num_steps = {results.num_steps}")
    _check_ancestors(results, source)
    seen = 0
    for position, step in enumerate(results.steps, 1):
        where = f"{source}, step {position}"
        seen += len(step.classes)
        _expect(where, "step", step.step, position)
        _expect(where, "num_seen_classes", step.num_seen_classes, seen)
        _expect(where, "the length of accuracy_per_step", len(step.accuracy_per_step), position)
        if not step.classes:
            raise StepFolderError(f"{where}: 'classes' is empty, expected the names of the step's new classes")
        _check_measured(results, step, where)
        _check_calibration(step, where)
    accuracies = [step.accuracy for step in results.steps]
    _expect_close(source, "last_accuracy", results.last_accuracy, accuracies[-1])
    average = sum(accuracies) / len(accuracies)
    _expect_close(source, "average_incremental_accuracy", results.average_incremental_accuracy, average)


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


def _check_measured(results: RunResults, step: StepResults, where: str) -> None:
    """Images of a step's classes can only be missing after a change of the data set."""
    for of, accuracy in enumerate(step.accuracy_per_step, 1):
        if accuracy is None and not any(of <= each.num_steps < step.step for each in results.ancestors):
            raise StepFolderError(
                f"{where}: accuracy_per_step[{of - 1}] is None, expected a number in 0..1, as no ancestor lies between"
            )


def _check_calibration(step: StepResults, where: str) -> None:
    confidences = [each.confidence for each in step.calibration]
    if confidences != sorted(confidences) or not all(each.count for each in step.calibration):
        raise StepFolderError(f"{where}: calibration has an empty bin or one out of order, expected rising confidence")
    if step.calibration and step.expected_calibration_error is not None:
        gaps = sum(each.count * abs(each.accuracy - each.confidence) for each in step.calibration)
        error = gaps / sum(each.count for each in step.calibration)
        if abs(error - step.expected_calibration_error) > _TOLERANCE:
            raise StepFolderError(
                f"{where}: expected_calibration_error is {step.expected_calibration_error:.6g}, but the bins of "
                f"calibration give {error:.6g}"
            )


def _expect(where: str, name: str, value: int, expected: int) -> None:
    if value != expected:
        raise StepFolderError(f"{where}: {name} is {value}, expected {expected}")


def _expect_close(where: str, name: str, value: float, expected: float) -> None:
    if abs(value - expected) > _TOLERANCE:
        raise StepFolderError(f"{where}: {name} is {value:.6g}, but the steps' accuracies give {expected:.6g}")


@dataclass(frozen=True)
class Fields:
    """Typed access to a JSON object; every error names the object, the key and what was expected."""

    raw: Mapping[str, Any]
    source: str

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise self._error(key, value, "a string")
        return value

    def truth(self, key: str) -> bool:
        value = self._get(key)
        if not isinstance(value, bool):
            raise self._error(key, value, "true or false")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.raw.get(key) is None else self.text(key)

    def objects(self, key: str, name: str) -> list["Fields"]:
        """The objects of an optional list; each is called `name` and its number in errors."""
        listed = [] if self.raw.get(key) is None else self.list_of(key, dict)
        return [Fields(each, f"{self.source}, {name} {i}") for i, each in enumerate(listed, 1)]

    def count(self, key: str) -> int:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._error(key, value, "a whole number, 0 or more")
        return value

    def fraction(self, key: str) -> float:
        return self.number_in(self._get(key), key, 0, 1)

    def optional_number(self, key: str, low: float, high: float) -> float | None:
        value = self.raw.get(key)
        return None if value is None else self.number_in(value, key, low, high)

    def number_in(self, value: Any, key: str, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self._error(key, value, f"a number in {low}..{high}")
        return float(value)

    def list_of(self, key: str, kind: type) -> list[Any]:
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise self._error(key, value, f"a list of {_PLURALS[kind]}")
        return value

    def _get(self, key: str) -> Any:
        if key not in self.raw:
            raise StepFolderError(f"{self.source}: '{key}' is missing")
        return self.raw[key]

    def _error(self, key: str, value: Any, expected: str) -> StepFolderError:
        shown = repr(value)
        return StepFolderError(f"{self.source}: {key} is {shown[:60]}{'…' * (len(shown) > 60)}, expected {expected}")
