"""Results of a run, step by step: the metrics over all steps, and the table for the terminal."""

from typing import Any

from hub.run.results import RunResults, StepResults
from training.run.results import add_step, table


def results_of(*rows: list[float | None], **more: Any) -> RunResults:
    """A run of one class a step with these rows of accuracies; `more` fields are those of its last step."""
    results = RunResults(dataset="digits", num_steps=3, class_order=("a", "b", "c"), seed=0, method="dytox")
    for number, row in enumerate(rows, start=1):
        measured = None in row
        step = StepResults(
            step=number,
            classes=(f"class {number}",),
            num_seen_classes=number,
            accuracy=None if measured else 0.5,
            top5_accuracy=None if measured else 1.0,
            accuracy_per_step=tuple(row),
            expected_calibration_error=None if measured else 0.1,
            num_parameters=10,
            **(more if number == len(rows) else {}),
        )
        results = add_step(results, step)
    return results


def test_each_step_adds_the_metrics_over_the_steps_so_far() -> None:
    results = results_of([1.0], [0.5, 0.75], [0.75, 0.25, 0.5])
    assert [step.forgetting for step in results.steps] == [None, 0.5, 0.375]
    assert [step.backward_transfer for step in results.steps] == [None, -0.5, -0.375]
    assert (results.forgetting, results.backward_transfer, results.last_accuracy) == (0.375, -0.375, 0.5)
    assert results.average_incremental_accuracy == 0.5 and results.average_task_aware_accuracy is None


def test_what_was_not_measured_is_shown_as_missing() -> None:
    results = results_of([0.5], [0.5, 0.5], [None, None, 0.5], accuracy_of_measured=0.5, measured_classes=("c",))
    assert results.average_incremental_accuracy is None and results.steps[2].forgetting is None
    header, *rows, summary = table(results).splitlines()
    assert "50.00% (1 of 3 classes)" in rows[2] and {len(row) for row in rows} == {len(header)}
    assert summary.endswith("last accuracy 50.00% (1 of 3 classes), forgetting –, backward transfer –")


def test_the_table_has_a_task_aware_column_only_where_it_was_measured() -> None:
    assert "task-aware" not in table(results_of([0.5], [0.5, 0.5]))
    header, first, second, summary = table(results_of([0.5], [0.5, 0.5], task_aware_accuracy=0.75)).splitlines()
    assert header.endswith("  task-aware") and first.endswith(" –") and second.endswith(" 75.00%")
    assert len(header) == len(first) == len(second)
    assert "task-aware" not in summary, "the average would be of some steps alone"
    assert table(results_of([0.5], task_aware_accuracy=0.75)).endswith("average task-aware accuracy 75.00%")
