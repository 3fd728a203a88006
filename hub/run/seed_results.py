"""`seeds.json`: what runs of the same recipe with other seeds measured, up to the step of the folder it lies in."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hub.run.errors import StepFolderError
from hub.run.results import Fields, RunResults, read_json


OTHER_RUNS_FILE = "seeds.json"


@dataclass(frozen=True)
class OtherRun:
    """
    Another run of the same recipe up to the same step. Fractions in 0..1, None where it was not measured.

    `accuracy` has one value a step, the others are those after the last of these steps.
    """

    seed: int
    same_class_order: bool
    accuracy: tuple[float, ...]
    top5_accuracy: float | None
    forgetting: float | None
    backward_transfer: float | None

    @property
    def average_incremental_accuracy(self) -> float:
        """Mean of the accuracies, the first included."""
        return sum(self.accuracy) / len(self.accuracy)

    @classmethod
    def of(cls, results: RunResults, same_class_order: bool) -> "OtherRun":
        """The numbers of a run's results."""
        return cls(
            seed=results.seed,
            same_class_order=same_class_order,
            accuracy=tuple(step.accuracy for step in results.steps),
            top5_accuracy=results.last.top5_accuracy,
            forgetting=results.forgetting,
            backward_transfer=results.backward_transfer,
        )


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (the divisor is one less than the number of values)."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """Of two values or more; None where one of them was not measured."""
        measured = list(values)
        known = [value for value in measured if value is not None]
        return cls(statistics.fmean(known), statistics.stdev(known)) if len(known) == len(measured) > 1 else None


def read_other_runs(folder: Path, num_steps: int) -> tuple[OtherRun, ...]:
    """
    The other runs in the `seeds.json` of a step folder; none where there is no such file.

    Raises:
        StepFolderError: the file cannot be read, breaks the schema, or is of another step than `num_steps`.
    """
    path = folder / OTHER_RUNS_FILE
    if not path.exists():
        return ()
    source = f"{folder.name}/{path.name}"
    runs = Fields(read_json(path), source).objects("runs", "run")
    if not runs:
        raise StepFolderError(f"{source}: has no 'runs', expected at least one: write it with python -m hub.seeds")
    return tuple(_read_run(fields, num_steps) for fields in runs)


def to_json_object(runs: Sequence[OtherRun]) -> dict[str, Any]:
    """The content of `seeds.json`."""
    return {"runs": [asdict(run) for run in runs]}


def _read_run(fields: Fields, num_steps: int) -> OtherRun:
    accuracy = [
        fields.number_in(value, f"accuracy[{position}]", 0, 1)
        for position, value in enumerate(fields.list_of("accuracy", object))
    ]
    if len(accuracy) != num_steps:
        raise StepFolderError(
            f"{fields.source}: accuracy has {len(accuracy)} values, expected one a step: {num_steps}"
        )
    return OtherRun(
        seed=fields.count("seed"),
        same_class_order=fields.truth("same_class_order"),
        accuracy=tuple(accuracy),
        top5_accuracy=fields.optional_number("top5_accuracy", 0, 1),
        forgetting=fields.optional_number("forgetting", -1, 1),
        backward_transfer=fields.optional_number("backward_transfer", -1, 1),
    )
