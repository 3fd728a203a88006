"""Numbers measured again beside those that a run recorded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedConfig

from hub.run.errors import InputError
from hub.run.results import StepResults
from training.loop.evaluation import Evaluation
from training.run.model_source import ModelSource


# Sums in another order, as on another device, differ by less; one image more or less right by more.
TOLERANCE = 1e-6
LABELS = {
    "accuracy": "accuracy",
    "accuracy_of_measured": "accuracy on classes with images",
    "top5_accuracy": "top-5 accuracy",
    "accuracy_per_step": "accuracy, classes of step {}",
    "expected_calibration_error": "expected calibration error",
    "old_new_bias": "old-new bias",
    "head_accuracy": "accuracy of the head",
    "nearest_mean_accuracy": "accuracy of the nearest mean",
    "task_aware_accuracy": "task-aware accuracy",
    "task_aware_accuracy_per_step": "task-aware, classes of step {}",
}


@dataclass(frozen=True)
class RecordedStep:
    """
    What `results.json` records of a step.

    Args:
        results (`StepResults`, *optional*): its entry; None where there is none.
        problem (`str`, *optional*): why there is none.
        classes (`Sequence[str]`): classes of the model, by label id.
    """

    results: StepResults | None
    problem: str | None
    classes: Sequence[str]

    @classmethod
    def read(cls, source: ModelSource, config: PreTrainedConfig) -> "RecordedStep":
        """The record of a step, where it has one."""
        step = len(config.step_class_ranges)
        try:
            steps = source.results().steps
        except InputError as error:
            return cls(None, str(error), config.class_names)
        if len(steps) < step:
            return cls(None, f"results.json of {source} holds no step {step}.", config.class_names)
        return cls(steps[step - 1], None, config.class_names)

    @property
    def measured_classes(self) -> set[str]:
        """The classes that were measured: all, unless the record names them."""
        if self.results is None or self.results.measured_classes is None:
            return set(self.classes)
        return set(self.results.measured_classes)

    def comparable_with(self, measured: Evaluation, class_ranges: Sequence[Sequence[int]]) -> Mapping[str, Any]:
        """
        Recorded numbers over the same classes as those measured now, by name: all of them, or only those of single
        steps where other classes have test images now.

        Args:
            measured (`Evaluation`): what was measured now.
            class_ranges (`Sequence[Sequence[int]]`): for each step its half-open range `[start, stop)` of label ids.
        """
        if self.results is None:
            return {}
        labels = range(len(self.classes)) if measured.measured_labels is None else measured.measured_labels
        changed = {self.classes[label] for label in labels} ^ self.measured_classes
        if not changed:
            return asdict(self.results)
        is_same = [changed.isdisjoint(self.classes[start:stop]) for start, stop in class_ranges]
        per_step = {name: getattr(self.results, name) or () for name in LABELS if name.endswith("_per_step")}
        return {
            name: [value if same else None for value, same in zip(values, is_same, strict=False)]
            for name, values in per_step.items()
        }


@dataclass(frozen=True)
class ComparedMetric:
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
        """Whether both values are the same up to rounding; None where none was recorded."""
        return None if self.recorded is None else abs(self.measured - self.recorded) <= TOLERANCE

    @property
    def row(self) -> str:
        """The number as a row of a table."""
        recorded = "-" if self.recorded is None else _percent(self.recorded)
        verdict = {None: "not recorded", True: "agrees", False: "differs"}[self.agrees]
        if self.agrees is False and self.recorded is not None:
            verdict += f" by {self.measured - self.recorded:+.6f}"
        return f"{self.label:<32}  {_percent(self.measured):>8}  {recorded:>8}  {verdict}"


def compare(measured: Evaluation, recorded: Mapping[str, Any]) -> list[ComparedMetric]:
    """
    The numbers of an evaluation beside the recorded ones, those of lists one by one. The bins of the calibration are
    left out: the calibration error stands for them.

    Args:
        measured (`Evaluation`): what was measured now; what was not is left out.
        recorded (`Mapping[str, Any]`): an entry of `steps` in `results.json`; empty where there is none.
    """
    return [
        ComparedMetric(label.format(position), value, _number_at(recorded.get(name), position))
        for name, label in LABELS.items()
        for position, value in _numbers(getattr(measured, name))
    ]


def to_table(metrics: Sequence[ComparedMetric]) -> str:
    """The numbers as a table for the terminal."""
    return "\n".join([f"{'':<32}  {'measured':>8}  {'recorded':>8}", *(metric.row for metric in metrics)])


def conclusion(metrics: Sequence[ComparedMetric]) -> str:
    """A sentence on whether the recorded numbers were found again."""
    compared = [metric for metric in metrics if metric.agrees is not None]
    differing = [metric for metric in compared if not metric.agrees]
    if not compared:
        return "Nothing was recorded to compare with."
    if not differing:
        return f"All {len(compared)} recorded numbers agree within {TOLERANCE:g}."
    return (
        f"{len(differing)} of {len(compared)} recorded numbers differ: compare data set, split and images of a class "
        "with training_config.yaml; another device alone may differ by rounding."
    )


def agreement(metrics: Sequence[ComparedMetric]) -> bool | None:
    """Whether all recorded numbers were found again; None where none was recorded."""
    compared = [metric.agrees for metric in metrics if metric.agrees is not None]
    return all(compared) if compared else None


def _numbers(values: Any) -> Iterator[tuple[int, float]]:
    """Numbers with their positions from 1; a number alone is at 1, None is left out."""
    listed = values if isinstance(values, list | tuple) else [values]
    yield from ((position, value) for position, value in enumerate(listed, start=1) if value is not None)


def _number_at(values: Any, position: int) -> float | None:
    found = dict(_numbers(values)).get(position)
    return float(found) if isinstance(found, int | float) else None


def _percent(value: float) -> str:
    return f"{value:.2%}"
