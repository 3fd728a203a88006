"""`results.json`, typed and checked: what a run has measured, step by step."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.errors import StepFolderError


# Headline numbers may have been rounded when they were written; a wrong number differs by more than this.
_TOLERANCE = 1e-3


_PLURALS = {str: "strings", dict: "objects", object: "numbers"}


@dataclass(frozen=True)
class StepResults:
    """Measurements after one step. Accuracies are fractions in 0..1, on test images, among all classes seen."""

    step: int
    classes: tuple[str, ...]
    num_seen_classes: int
    accuracy: float
    accuracy_per_step: tuple[float, ...]
    num_parameters: int
    top5_accuracy: float | None = None
    expected_calibration_error: float | None = None
    memory_size: int | None = None
    train_seconds: float | None = None


@dataclass(frozen=True)
class Ancestor:
    model: str
    revision: str | None
    commit: str | None
    num_steps: int
    dataset: str


@dataclass(frozen=True)
class RunResults:
    """A run up to its last step in `steps`; `num_steps` is the number of steps the scenario has in all."""

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

    def forgetting_after(self, step: int) -> float | None:
        """Mean over the earlier steps j of `max_{l<step} a[l, j] - a[step, j]`; None after the first step."""
        rows = [result.accuracy_per_step for result in self.steps[:step]]
        if len(rows) < 2:
            return None
        drops = [max(row[j] for row in rows[j:-1]) - rows[-1][j] for j in range(len(rows) - 1)]
        return sum(drops) / len(drops)

    @classmethod
    def from_file(cls, path: Path) -> "RunResults":
        """Reads `results.json`. Raises [`StepFolderError`] if it cannot be read or breaks the schema."""
        return cls.from_dict(read_json(path), source=f"{path.parent.name}/{path.name}")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = "results.json") -> "RunResults":
        """Checks and types a parsed `results.json`; `source` names it in errors ([`StepFolderError`])."""
        fields = _Fields(raw, source)
        raw_steps = fields.list_of("steps", dict)
        if not raw_steps:
            raise StepFolderError(f"{source}: 'steps' is empty, expected at least one step")
        results = cls(
            dataset=fields.text("dataset"),
            method=fields.text("method"),
            num_steps=fields.count("num_steps"),
            seed=fields.count("seed"),
            steps=tuple(_read_step(_Fields(step, f"{source}, step {i}")) for i, step in enumerate(raw_steps, 1)),
            average_incremental_accuracy=fields.fraction("average_incremental_accuracy"),
            last_accuracy=fields.fraction("last_accuracy"),
            forgetting=fields.optional_number("forgetting", -1, 1),
            backward_transfer=fields.optional_number("backward_transfer", -1, 1),
            ancestors=tuple(Ancestor(**a) for a in raw.get("ancestors", [])),
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


def _read_step(fields: "_Fields") -> StepResults:
    return StepResults(
        step=fields.count("step"),
        classes=tuple(fields.list_of("classes", str)),
        num_seen_classes=fields.count("num_seen_classes"),
        accuracy=fields.fraction("accuracy"),
        accuracy_per_step=tuple(
            fields.number_in(value, f"accuracy_per_step[{j}]", 0, 1)
            for j, value in enumerate(fields.list_of("accuracy_per_step", object))
        ),
        num_parameters=fields.count("num_parameters"),
        top5_accuracy=fields.optional_number("top5_accuracy", 0, 1),
        expected_calibration_error=fields.optional_number("expected_calibration_error", 0, 1),
        memory_size=None if fields.raw.get("memory_size") is None else fields.count("memory_size"),
        train_seconds=fields.optional_number("train_seconds", 0, math.inf),
    )


def _check_run(results: RunResults, source: str) -> None:
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
            raise StepFolderError(f"{where}: 'classes' is empty, expected the names of the step's new classes")
    accuracies = [step.accuracy for step in results.steps]
    _expect_close(source, "last_accuracy", results.last_accuracy, accuracies[-1])
    average = sum(accuracies) / len(accuracies)
    _expect_close(source, "average_incremental_accuracy", results.average_incremental_accuracy, average)


def _expect(where: str, name: str, value: int, expected: int) -> None:
    if value != expected:
        raise StepFolderError(f"{where}: {name} is {value}, expected {expected}")


def _expect_close(where: str, name: str, value: float, expected: float) -> None:
    if abs(value - expected) > _TOLERANCE:
        raise StepFolderError(f"{where}: {name} is {value:.6g}, but the steps' accuracies give {expected:.6g}")


@dataclass(frozen=True)
class _Fields:
    """Typed access to a JSON object; every error names the object, the key and what was expected."""

    raw: Mapping[str, Any]
    source: str

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise self._error(key, value, "a string")
        return value

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
