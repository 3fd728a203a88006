"""`results.json`: what is written is read, what earlier versions wrote is understood, what cannot be is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.run.errors import StepFolderError
from hub.run.results import OVER_ALL_CLASSES, RunResults
from tests.hub.fake_run import fake_results, make_ancestors, make_results, with_calibration


# What users and other tools read.
KEYS = set("dataset num_steps class_order seed method steps code_version method_card last_accuracy".split())
KEYS |= {"average_incremental_accuracy", "forgetting", "backward_transfer"}
STEP_KEYS = set("step classes num_seen_classes accuracy top5_accuracy accuracy_per_step num_parameters".split())
STEP_KEYS |= {"expected_calibration_error", "memory_size", "train_seconds"}


def with_task_aware_zeros(results: RunResults) -> RunResults:
    steps = [
        replace(step, task_aware_accuracy=0.0, task_aware_accuracy_per_step=(0.0,) * step.step, old_new_bias=-0.5)
        for step in results.steps
    ]
    return replace(results, steps=tuple(steps), average_task_aware_accuracy=0.0)


@pytest.mark.parametrize(
    "results",
    [
        make_results(1),
        with_calibration(make_results(12, 3)),
        with_task_aware_zeros(make_results(2)),
        make_results(5, ancestors=make_ancestors(2, 3)),
        replace(make_results(2, names=["ñ", "\udcff", '"\\udcff"', "\u2028"]), code_version=None, method_card=None),
    ],
)
def test_results_are_read_as_they_were_written(results: RunResults, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path)
    assert RunResults.read(path) == results
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content == results.to_json_object(), "plain JSON"
    assert content.keys() >= KEYS and all(step.keys() >= STEP_KEYS for step in content["steps"])
    for step in content["steps"]:
        assert ("accuracy_of_measured" in step) == ("measured_classes" in step) == (step["accuracy"] is None)


def test_numbers_that_no_run_measured_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    make_results(2).write(path)
    before = path.read_bytes()
    with pytest.raises(StepFolderError, match="accuracy is nan"):
        replace(make_results(2), last_accuracy=float("nan")).write(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def as_earlier_version(results: RunResults) -> dict[str, Any]:
    """`results.json` as version 0.1.0 wrote it."""
    content = results.to_json_object() | {"an_extra_key": 1}
    del content["code_version"], content["method_card"], content["class_order"]
    for step in content["steps"]:
        del step["forgetting"], step["backward_transfer"]
        if step["accuracy"] is None:
            numbers = {name: step["accuracy_of_measured"] for name in OVER_ALL_CLASSES if name != "calibration"}
            step.update(numbers, calibration=[{"confidence": 0.5, "accuracy": 0.5, "count": 1}], an_extra_key=[])
            del step["accuracy_of_measured"], step["measured_classes"]
    content["average_incremental_accuracy"] = content["average_incremental_accuracy"] or 0.5
    content["last_accuracy"] = content["steps"][-1]["accuracy"]
    for name in ("forgetting", "backward_transfer"):
        content[name] = 0.0 if len(content["steps"]) == 1 else content[name] or 0.25
    return content


@pytest.mark.parametrize("today", [make_results(1), make_results(4), make_results(4, ancestors=make_ancestors(1, 2))])
def test_results_of_earlier_versions_say_what_was_measured(today: RunResults) -> None:
    expected = [replace(step, forgetting=None, backward_transfer=None) for step in today.steps[:-1]]
    read = RunResults.from_dict(as_earlier_version(today))
    assert read == replace(today, steps=(*expected, today.last), code_version=None, method_card=None)


def edited(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    results = with_calibration(make_results(4, ancestors=make_ancestors(1, 2))).to_json_object()
    edit(results)
    return results


WITHOUT_GAPS = fake_results(4)
CONTRADICTIONS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda r: r.pop("method"), "method is missing"),
    (lambda r: r.update(steps=[]), "steps is empty"),
    (lambda r: r.update(num_steps=1), "expected at most num_steps = 1"),
    (
        lambda r: r.update(seed=2**64),
        "seed is 18446744073709551616, expected a whole number in 0..1844674407370955161",
    ),
    (lambda r: r.update(last_accuracy=0.1234), "last_accuracy is 0.1234, but that of the last step is None"),
    (lambda r: r.update(average_incremental_accuracy=0.2), "average_incremental_accuracy is 0.2, expected null"),
    (lambda r: r.update(WITHOUT_GAPS | {"average_incremental_accuracy": None}), "accuracy is null, expected a number"),
    (lambda r: r.update(forgetting=0.1), "forgetting is 0.1, but that of the last step is None"),
    (lambda r: r["steps"][0].update(accuracy=76.8), "steps[0].accuracy is 76.8, expected a number in 0..1"),
    (lambda r: r["steps"][0].update(accuracy=True), "steps[0].accuracy is True"),
    (lambda r: r["steps"][0].update(accuracy=None), "step 1: accuracy is null, expected a number in 0..1, or"),
    (lambda r: r["steps"][1].update(accuracy=0.5), "step 2: accuracy is 0.5, expected null"),
    (lambda r: r["steps"][1].update(top5_accuracy=0.5), "step 2: top5_accuracy is 0.5, expected null"),
    (lambda r: r["steps"][1].update(measured_classes=["?"]), "step 2: measured_classes is ['?'], expected some"),
    (lambda r: r["steps"][1].update(measured_classes=r["class_order"][:4]), "expected some, not all"),
    (lambda r: r["steps"][1].update(num_seen_classes=9), "num_seen_classes is 9, expected 4"),
    (lambda r: r["steps"][1]["accuracy_per_step"].pop(), "length of accuracy_per_step is 1, expected 2"),
    (
        lambda r: r["steps"][1].update(task_aware_accuracy_per_step=[1]),
        "task_aware_accuracy_per_step is 1, expected 2",
    ),
    (lambda r: r["steps"].reverse(), "step 1: step is 4, expected 1"),
    (lambda r: r["steps"][0]["calibration"][0].update(count=0), "step 1: calibration has an empty bin"),
    (lambda r: r["steps"][0]["calibration"].reverse(), "step 1: calibration has an empty bin or one out of order"),
    (lambda r: r["steps"][0].update(expected_calibration_error=None), "expected the number that calibration gives"),
    (lambda r: r["ancestors"][1].update(num_steps=1), "ancestor 2: num_steps is 1, expected more than 1"),
    (lambda r: r["ancestors"][1].update(num_steps=4), "less than 4, all steps"),
    (lambda r: r["ancestors"][0].update(commit="main"), "ancestor 1: commit is 'main', expected 40"),
]


@pytest.mark.parametrize(("edit", "expected"), CONTRADICTIONS)
def test_a_contradiction_is_one_line_that_names_it(edit: Callable[[dict[str, Any]], object], expected: str) -> None:
    with pytest.raises(StepFolderError, match=re.escape(expected)) as caught:
        RunResults.from_dict(edited(edit))
    assert str(caught.value).startswith("results.json")
