"""What a run measured: after each step, and over all steps."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.errors import InputError
from training.files import write_aside
from training.metrics import average_incremental_accuracy, backward_transfer, forgetting, last_accuracy


@dataclass(frozen=True)
class StepResults:
    """
    Measured after one step on the test images of all classes seen. Fractions are in 0..1.

    Args:
        step (`int`): from 1.
        classes (`list[str]`): the classes this step added.
        num_seen_classes (`int`): classes known by now.
        accuracy, top5_accuracy (`float`): on all classes seen.
        accuracy_per_step (`list[float]`): accuracy on the classes of each step so far, among all classes seen.
        expected_calibration_error (`float`): of the sigmoid score of the predicted class.
        num_parameters (`int`): of the model.
        memory_size (`int`): exemplars in the rehearsal memory.
        train_seconds (`float`): time this step took to learn.
    """

    step: int
    classes: list[str]
    num_seen_classes: int
    accuracy: float
    top5_accuracy: float
    accuracy_per_step: list[float]
    expected_calibration_error: float
    num_parameters: int
    memory_size: int
    train_seconds: float


@dataclass
class Results:
    """The results of a run so far; `write` and `read` keep them as `results.json`."""

    dataset: str
    num_steps: int
    class_order: list[str]
    seed: int
    method: str
    steps: list[StepResults] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The content of `results.json`, with the metrics over all steps so far."""
        accuracies = [step.accuracy for step in self.steps]
        matrix = [step.accuracy_per_step for step in self.steps]
        return asdict(self) | {
            "average_incremental_accuracy": average_incremental_accuracy(accuracies),
            "last_accuracy": last_accuracy(accuracies),
            "forgetting": forgetting(matrix),
            "backward_transfer": backward_transfer(matrix),
        }

    def write(self, path: Path) -> None:
        """Replaces the file as a whole."""
        write_aside(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Results":
        """
        Reads what `write` wrote.

        Raises:
            InputError: the file is missing or damaged.
        """
        own = ("dataset", "num_steps", "class_order", "seed", "method")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            steps = [StepResults(**step) for step in content["steps"]]
            return cls(**{name: content[name] for name in own}, steps=steps)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no results.json of a run ({' '.join(str(error).split())}): restore the file, or start "
                "anew with --overwrite_output_dir."
            ) from error

    def table(self) -> str:
        """The steps as a table for the terminal."""
        lines = ["step  classes  accuracy  top-5   calibration error  memory  parameters  seconds"]
        for step in self.steps:
            lines.append(
                f"{step.step:>4}  {step.num_seen_classes:>7}  {step.accuracy:>8.2%}  {step.top5_accuracy:>6.2%}  "
                f"{step.expected_calibration_error:>17.2%}  {step.memory_size:>6}  {step.num_parameters:>10,}  "
                f"{step.train_seconds:>7.1f}"
            )
        overall = self.to_dict()
        lines.append(
            f"average incremental accuracy {overall['average_incremental_accuracy']:.2%}, last accuracy "
            f"{overall['last_accuracy']:.2%}, forgetting {overall['forgetting']:.2%}, backward transfer "
            f"{overall['backward_transfer']:+.2%}"
        )
        return "\n".join(lines)
