"""What a run measured: after each step, and over all steps."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hub.run.atomic import write_aside
from hub.run.errors import InputError, one_line
from training.metrics import average_incremental_accuracy, backward_transfer, forgetting, last_accuracy
from training.metrics.calibration import ReliabilityBin


@dataclass(frozen=True)
class StepResults:
    """
    Measured after one step on the test images of all classes seen. Fractions are in 0..1.

    Args:
        step (`int`): from 1.
        classes (`list[str]`): the classes this step added.
        num_seen_classes (`int`): classes known by now.
        accuracy, top5_accuracy (`float`): on all classes seen.
        accuracy_per_step (`list[float | None]`): accuracy on the classes of each step so far, among all classes seen;
            None where a continued model was measured on a data set without images of them.
        expected_calibration_error (`float`): of the sigmoid score of the predicted class.
        num_parameters (`int`): of the model.
        memory_size (`int`): exemplars in the rehearsal memory.
        train_seconds (`float`): time this step took to learn.
        old_new_bias (`float`, *optional*): share of images predicted as a class of this step, less the share that
            are; None after step 1, when there are no old classes.
        task_aware_accuracy (`float`, *optional*): accuracy with the step of each image given: only the classes of
            that step compete (task-incremental learning). None where it was not measured.
        task_aware_accuracy_per_step (`list[float | None]`, *optional*): the same on the classes of each step so far.
        calibration (`list[ReliabilityBin]`, *optional*): the bins that give the expected calibration error; None in
            results written before they were recorded.
    """

    step: int
    classes: list[str]
    num_seen_classes: int
    accuracy: float
    top5_accuracy: float
    accuracy_per_step: list[float | None]
    expected_calibration_error: float
    num_parameters: int
    memory_size: int
    train_seconds: float
    old_new_bias: float | None = None
    task_aware_accuracy: float | None = None
    task_aware_accuracy_per_step: list[float | None] | None = None
    calibration: list[ReliabilityBin] | None = None


@dataclass
class Results:
    """
    The results of a run so far; `write` and `read` keep them as `results.json`.

    Args:
        ancestors (`list[dict]`): the models that the run continues, oldest first: `model`, `revision`, `commit`,
            `num_steps` and `dataset` of each. Steps up to `num_steps` were learned there, on that data set; they come
            first in `steps`. Empty, and not written, for a run from step 1.
    """

    dataset: str
    num_steps: int
    class_order: list[str]
    seed: int
    method: str
    steps: list[StepResults] = field(default_factory=list)
    ancestors: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """
        The content of `results.json`, with the metrics over all steps so far; forgetting and backward transfer are
        None where no earlier step was measured again.

        Raises:
            ValueError: a number is one that no run can have measured.
        """
        self._check_measured()
        accuracies = [step.accuracy for step in self.steps]
        matrix = [step.accuracy_per_step for step in self.steps]
        overall: dict[str, float | None] = {
            "average_incremental_accuracy": average_incremental_accuracy(accuracies),
            "last_accuracy": last_accuracy(accuracies),
            "forgetting": forgetting(matrix),
            "backward_transfer": backward_transfer(matrix),
        }
        task_aware = [step.task_aware_accuracy for step in self.steps if step.task_aware_accuracy is not None]
        if len(task_aware) == len(self.steps):
            overall["average_task_aware_accuracy"] = average_incremental_accuracy(task_aware)
        content = asdict(self) | overall
        return content if self.ancestors else {name: content[name] for name in content if name != "ancestors"}

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
            ancestors = content.get("ancestors", [])
            results = cls(**{name: content[name] for name in own}, steps=steps, ancestors=ancestors)
            # Numbers that no run can have measured show here rather than when the next step is written.
            results.to_dict()
            return results
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no results.json of a run ({one_line(error)}): restore the file, or start "
                "anew with --overwrite_output_dir."
            ) from error

    def _check_measured(self) -> None:
        """Images of earlier classes can only be missing where those were learned on another data set."""
        for step in self.steps:
            for of, accuracy in enumerate(step.accuracy_per_step, start=1):
                continued = any(of <= ancestor["num_steps"] < step.step for ancestor in self.ancestors)
                if accuracy is None and not continued:
                    raise ValueError(
                        f"accuracy_matrix[{step.step - 1}][{of - 1}] is None, but step {of} was learned on the same "
                        f"data set as step {step.step}"
                    )

    def table(self) -> str:
        """The steps as a table for the terminal; task-aware accuracy has a column only where it was measured."""
        overall = self.to_dict()
        has_task_aware = any(step.task_aware_accuracy is not None for step in self.steps)
        header = "step  classes  accuracy    top-5  calibration error  memory  parameters  seconds"
        summary = (
            f"average incremental accuracy {overall['average_incremental_accuracy']:.2%}, last accuracy "
            f"{overall['last_accuracy']:.2%}, forgetting {_percent(overall['forgetting'])}, backward transfer "
            f"{_percent(overall['backward_transfer'], '+.2%')}"
        )
        if "average_task_aware_accuracy" in overall:
            summary += f", average task-aware accuracy {overall['average_task_aware_accuracy']:.2%}"
        rows = [_row(step, has_task_aware) for step in self.steps]
        return "\n".join([header + "  task-aware" * has_task_aware, *rows, summary])


def _row(step: StepResults, has_task_aware: bool) -> str:
    row = (
        f"{step.step:>4}  {step.num_seen_classes:>7}  {step.accuracy:>8.2%}  {step.top5_accuracy:>7.2%}  "
        f"{step.expected_calibration_error:>17.2%}  {step.memory_size:>6}  {step.num_parameters:>10,}  "
        f"{step.train_seconds:>7.1f}"
    )
    return f"{row}  {_percent(step.task_aware_accuracy):>10}" if has_task_aware else row


def _percent(fraction: float | None, form: str = ".2%") -> str:
    return "-" if fraction is None else format(fraction, form)
