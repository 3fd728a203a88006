"""`seeds.json`: what runs of the same recipe with other seeds measured, up to the step of the folder it lies in."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hub.run.atomic import write_aside
from hub.run.errors import StepFolderError
from hub.run.layout import SEEDS_FILE
from hub.run.results import RunResults
from hub.run.schema import Count, Difference, Fraction, decode, read_json, short_name


@dataclass(frozen=True)
class OtherRun:
    """
    Another run of the same recipe up to the same step. Fractions are in 0..1, and None where not measured.

    Args:
        seed (`int`): of the run.
        same_class_order (`bool`): whether it learned the same classes in the same order.
        accuracy (`tuple[float | None, ...]`): on all classes seen, one value a step.
        top5_accuracy, forgetting, backward_transfer, average_incremental_accuracy (`float`, *optional*): after the
            last of these steps.
    """

    seed: Count
    same_class_order: bool
    accuracy: tuple[Fraction | None, ...]
    top5_accuracy: Fraction | None = None
    forgetting: Difference | None = None
    backward_transfer: Difference | None = None
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
        values = list(values)
        known = [value for value in values if value is not None]
        return cls(statistics.fmean(known), statistics.stdev(known)) if len(known) == len(values) > 1 else None

    def text(self, form: str = ".2f", scale: float = 100) -> str:
        """Both for a reader, each times `scale`: in percent `95.73 ± 0.44`."""
        return f"{self.mean * scale:{form}} ± {self.deviation * scale:{form}}"


def write_other_runs(folder: Path, runs: Sequence[OtherRun]) -> None:
    """
    Replaces the `seeds.json` of a step folder.

    Args:
        folder (`Path`): the step folder.
        runs (`Sequence[OtherRun]`): what the other runs measured up to its step.
    """
    write_aside(folder / SEEDS_FILE, json.dumps(asdict(_SeedsFile(tuple(runs))), indent=2) + "\n")


def read_other_runs(folder: Path, num_steps: int) -> Sequence[OtherRun]:
    """
    The other runs in the `seeds.json` of a step folder; none where there is no such file.

    Args:
        folder (`Path`): the step folder.
        num_steps (`int`): number of its step.

    Raises:
        StepFolderError: the file cannot be read, breaks the schema, or is of another step.
    """
    path = folder / SEEDS_FILE
    if not path.exists():
        return ()
    source = short_name(path)
    runs = decode(_SeedsFile, read_json(path), source).runs
    if not runs:
        raise StepFolderError(f"{source}: runs is empty, expected at least one: write it with python -m hub.seeds")
    for index, run in enumerate(runs):
        if len(run.accuracy) != num_steps:
            raise StepFolderError(
                f"{source}: runs[{index}].accuracy has {len(run.accuracy)} values, expected one a step: {num_steps}"
            )
    return runs


@dataclass(frozen=True)
class _SeedsFile:
    """The content of the file."""

    runs: tuple[OtherRun, ...]
