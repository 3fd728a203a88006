"""`seeds.json`: what runs of the same recipe with other seeds measured, up to the step of the folder it lies in."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hub.run.errors import StepFolderError
from hub.run.layout import SEEDS_FILE
from hub.run.results import RunResults
from hub.run.schema import Count, Difference, Fraction, decode, read_json


@dataclass(frozen=True)
class OtherRun:
    """
    Another run of the same recipe up to the same step. Fractions in 0..1, None where it was not measured.

    Args:
        seed (`int`): of the run.
        same_class_order (`bool`): whether it learned the same classes in the same order.
        accuracy (`tuple[float | None, ...]`): on all classes seen, one value a step.
        top5_accuracy, average_incremental_accuracy, forgetting, backward_transfer (`float`, *optional*): after the
            last of these steps.
    """

    seed: Count
    same_class_order: bool
    accuracy: tuple[Fraction | None, ...]
    top5_accuracy: Fraction | None
    forgetting: Difference | None
    backward_transfer: Difference | None
    average_incremental_accuracy: Fraction | None = None

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
            average_incremental_accuracy=results.average_incremental_accuracy,
        )


@dataclass(frozen=True)
class SeedResults:
    """
    The content of `seeds.json`.

    Args:
        runs (`tuple[OtherRun, ...]`): the other runs.
    """

    runs: tuple[OtherRun, ...]

    def to_json_object(self) -> dict[str, Any]:
        """The content as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Spread:
    """
    Several values of one number.

    Args:
        mean (`float`): their mean.
        deviation (`float`): their sample standard deviation: the divisor is one less than the number of values.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """The spread of two values or more; None where one of them was not measured."""
        measured = list(values)
        known = [value for value in measured if value is not None]
        return cls(statistics.fmean(known), statistics.stdev(known)) if len(known) == len(measured) > 1 else None


def read_other_runs(folder: Path, num_steps: int) -> Sequence[OtherRun]:
    """
    The other runs in the `seeds.json` of a step folder; none where there is no such file.

    Args:
        folder (`Path`): the step folder.
        num_steps (`int`): its step.

    Raises:
        StepFolderError: the file cannot be read, breaks the schema, or is of another step.
    """
    path = folder / SEEDS_FILE
    if not path.exists():
        return ()
    source = f"{folder.name}/{path.name}"
    runs = decode(SeedResults, read_json(path), source).runs
    if not runs:
        raise StepFolderError(f"{source}: runs is empty, expected at least one: write it with python -m hub.seeds")
    for run in runs:
        if len(run.accuracy) != num_steps:
            raise StepFolderError(
                f"{source}: accuracy has {len(run.accuracy)} values, expected one a step: {num_steps}"
            )
    return runs
