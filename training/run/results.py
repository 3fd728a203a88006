"""Adds what a step measured to the results of a run, and shows the results as a table."""

from dataclasses import replace

from hub.run.results import RunResults, StepResults
from training.metrics import average_incremental_accuracy, backward_transfer, forgetting, last_accuracy


def add_step(results: RunResults, step: StepResults) -> RunResults:
    """
    The results with one more step, and the metrics over all steps so far.

    Args:
        results (`RunResults`): of the steps before.
        step (`StepResults`): what was measured after the step; forgetting and backward transfer are added here.
    """
    return with_metrics(replace(results, steps=(*results.steps, step)))


def with_metrics(results: RunResults) -> RunResults:
    """The results with all metrics over their steps, also those that an earlier version did not record."""
    matrix = [step.accuracy_per_step for step in results.steps]
    accuracies = [step.accuracy for step in results.steps]
    steps = tuple(
        replace(step, forgetting=forgetting(matrix[:count]), backward_transfer=backward_transfer(matrix[:count]))
        for count, step in enumerate(results.steps, start=1)
    )
    return replace(
        results,
        steps=steps,
        average_incremental_accuracy=average_incremental_accuracy(accuracies),
        last_accuracy=last_accuracy(accuracies),
        forgetting=steps[-1].forgetting,
        backward_transfer=steps[-1].backward_transfer,
        average_task_aware_accuracy=average_incremental_accuracy([step.task_aware_accuracy for step in steps]),
    )


def table(results: RunResults) -> str:
    """The steps as a table for the terminal; task-aware accuracy has a column only where it was measured."""
    has_task_aware = any(step.task_aware_accuracy is not None for step in results.steps)
    width = max(8, *(len(step.accuracy_text()) for step in results.steps))
    header = f"step  classes  {'accuracy':>{width}}    top-5  calibration error  memory  parameters  seconds"
    summary = (
        f"average incremental accuracy {_percent(results.average_incremental_accuracy)}, last accuracy "
        f"{results.last.accuracy_text()}, forgetting {_percent(results.forgetting)}, backward transfer "
        f"{_percent(results.backward_transfer, '+.2%')}"
    )
    if results.average_task_aware_accuracy is not None:
        summary += f", average task-aware accuracy {results.average_task_aware_accuracy:.2%}"
    rows = [_row(step, width, has_task_aware) for step in results.steps]
    return "\n".join([header + "  task-aware" * has_task_aware, *rows, summary])


def _row(step: StepResults, width: int, has_task_aware: bool) -> str:
    row = (
        f"{step.step:>4}  {step.num_seen_classes:>7}  {step.accuracy_text():>{width}}  "
        f"{_percent(step.top5_accuracy):>7}  {_percent(step.expected_calibration_error):>17}  "
        f"{_or_dash(step.memory_size):>6}  {step.num_parameters:>10,}  {_or_dash(step.train_seconds, '.1f'):>7}"
    )
    return f"{row}  {_percent(step.task_aware_accuracy):>10}" if has_task_aware else row


def _or_dash(value: float | None, form: str = "") -> str:
    return "–" if value is None else format(value, form)


def _percent(fraction: float | None, form: str = ".2%") -> str:
    return "–" if fraction is None else format(fraction, form)
