"""Numbers measured again beside those that a run recorded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hub.run.errors import InputError
from modeling_dytox import DyToxConfig
from training.loop.evaluation import Evaluation
from training.run.model_source import PublishedStep


# Sums in another order, as on another device, differ by less; one image more or less right by more.
TOLERANCE = 1e-6
LABELS = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "accuracy_per_step": "accuracy, classes of step {}",
    "expected_calibration_error": "expected calibration error",
    "old_new_bias": "old-new bias",
    "task_aware_accuracy": "task-aware accuracy",
    "task_aware_accuracy_per_step": "task-aware, classes of step {}",
}


@dataclass(frozen=True)
class Record:
    """
    What `results.json` tells of a step.

    Args:
        numbers (`Mapping[str, Any]`): its entry of `steps`; empty where there is none.
        lacks (`str`, *optional*): why there is none.
        classes_without_images (`Sequence[str]`): classes of the steps that were not measured, as a continued run had
            no test images of them.
    """

    numbers: Mapping[str, Any]
    lacks: str | None = None
    classes_without_images: Sequence[str] = ()

    @classmethod
    def read(cls, step: PublishedStep, config: DyToxConfig) -> "Record":
        """The record of a step, where it has one."""
        ranges = config.step_class_ranges
        try:
            numbers = step.recorded(len(ranges))
        except InputError as error:
            return cls({}, lacks=str(error))
        accuracies = zip(ranges, _accuracy_per_step(numbers), strict=False)
        skipped = [class_range for class_range, accuracy in accuracies if accuracy is None]
        return cls(numbers, None, [name for start, stop in skipped for name in config.class_names[start:stop]])

    def comparable_with(self, measured: Evaluation) -> Mapping[str, Any]:
        """The numbers but for those over all images, where they were over those of other steps than now."""
        pairs = zip(measured.accuracy_per_step, _accuracy_per_step(self.numbers), strict=False)
        if all((now is None) == (then is None) for now, then in pairs):
            return self.numbers
        return {name: value for name, value in self.numbers.items() if name.endswith("_per_step")}


@dataclass(frozen=True)
class Number:
    """
    One number of an evaluation.

    Args:
        label (`str`): what it is.
        measured (`float`): its value now.
        recorded (`float`, *optional*): its value in `results.json`, where it has one.
    """

    label: str
    measured: float
    recorded: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether both values are the same but for rounding; None where none was recorded."""
        return None if self.recorded is None else abs(self.measured - self.recorded) <= TOLERANCE

    @property
    def row(self) -> str:
        """The number as a row of a table."""
        recorded = "-" if self.recorded is None else _percent(self.recorded)
        verdict = {None: "not recorded", True: "agrees", False: "differs"}[self.agrees]
        if self.agrees is False and self.recorded is not None:
            verdict += f" by {self.measured - self.recorded:+.6f}"
        return f"{self.label:<32}  {_percent(self.measured):>8}  {recorded:>8}  {verdict}"


def compare(measured: Evaluation, recorded: Mapping[str, Any]) -> list[Number]:
    """
    The numbers of an evaluation that have a label, those that are lists one by one. The bins of the calibration
    error are told by the error itself.

    Args:
        measured (`Evaluation`): what was measured now; what was not is left out.
        recorded (`Mapping[str, Any]`): an entry of `steps` in `results.json`; empty where there is none.
    """
    return [
        Number(label.format(position), value, _number_at(recorded.get(name), position))
        for name, label in LABELS.items()
        for position, value in _numbers(getattr(measured, name))
    ]


def to_table(numbers: Sequence[Number]) -> str:
    """The numbers as a table for the terminal."""
    return "\n".join([f"{'':<32}  {'measured':>8}  {'recorded':>8}", *(number.row for number in numbers)])


def conclusion(numbers: Sequence[Number]) -> str:
    """In one sentence whether the recorded numbers were found again."""
    compared = [number for number in numbers if number.agrees is not None]
    differing = [number for number in compared if not number.agrees]
    if not compared:
        return "Nothing was recorded to compare with."
    if not differing:
        return f"All {len(compared)} recorded numbers agree within {TOLERANCE:g}."
    return (
        f"{len(differing)} of {len(compared)} recorded numbers differ: compare data set, split and images of a class "
        "with training_config.yaml; another device alone may differ by rounding."
    )


def agreement(numbers: Sequence[Number]) -> bool | None:
    """Whether all recorded numbers were found again; None where none was recorded."""
    compared = [number.agrees for number in numbers if number.agrees is not None]
    return all(compared) if compared else None


def _accuracy_per_step(recorded: Mapping[str, Any]) -> list[Any]:
    """As a list, whatever the file says."""
    accuracies = recorded.get("accuracy_per_step")
    return accuracies if isinstance(accuracies, list) else []


def _numbers(values: Any) -> Iterator[tuple[int, float]]:
    """Numbers with their positions from 1; a number alone is at 1, None is left out."""
    listed = values if isinstance(values, list) else [values]
    yield from ((position, value) for position, value in enumerate(listed, start=1) if value is not None)


def _number_at(values: Any, position: int) -> float | None:
    found = dict(_numbers(values)).get(position)
    return float(found) if isinstance(found, int | float) else None


def _percent(value: float) -> str:
    return f"{value:.2%}"
