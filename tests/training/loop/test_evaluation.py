"""Evaluation of a model on images, and what `results.json` keeps of it."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image as PILImage

from hub.run.errors import InputError
from hub.run.results import RunResults
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from modeling_dytox.image_processing import make_image_processor
from training.data.examples import Examples
from training.loop.evaluation import Evaluation, Evaluator, summarize
from training.run.comparison import compare
from training.run.results import Results, StepResults


RANGES = [[0, 2], [2, 5]]


@pytest.fixture
def model() -> DyToxForImageClassification:
    """Knows five classes in two steps; the weights are large, so that logits differ."""
    torch.manual_seed(0)
    config = DyToxConfig(
        image_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        class_ranges=RANGES,
    )
    return DyToxForImageClassification(config).train()


@pytest.fixture
def examples(
    make_examples: Callable[..., Examples], noise_image: Callable[..., PILImage.Image]
) -> tuple[Examples, list[PILImage.Image]]:
    """Thirty images of five classes, and the same images outside of a data set."""
    images = [noise_image(seed, 8, 8) for seed in range(30)]
    labels = [0, 1, 2, 3, 4, 4] * 5
    return make_examples(images, labels), images


def test_evaluation_against_one_image_at_a_time(
    model: DyToxForImageClassification, examples: tuple[Examples, list[PILImage.Image]]
) -> None:
    test, images = examples
    processor = make_image_processor(8)
    evaluation = Evaluator(Accelerator(), processor, batch_size=7, num_workers=0).evaluate(
        model, test, task_aware=True
    )
    assert model.training, "training goes on as before"

    model.eval()
    hits: dict[str, list[tuple[int, bool]]] = {"accuracy": [], "task_aware_accuracy": []}
    new = 0
    for image, label in zip(images, test.labels.tolist(), strict=True):
        with torch.no_grad():
            logits = model(processor(image, return_tensors="pt")["pixel_values"]).logits[0].tolist()
        step = int(label >= 2)
        predicted = max(range(5), key=logits.__getitem__)
        hits["accuracy"].append((step, predicted == label))
        hits["task_aware_accuracy"].append((step, max(range(*RANGES[step]), key=logits.__getitem__) == label))
        new += (predicted >= 2) - (label >= 2)
    for name, right in hits.items():
        assert getattr(evaluation, name) == pytest.approx(np.mean([hit for _, hit in right]))
        per_step = [np.mean([hit for step, hit in right if step == wanted]) for wanted in (0, 1)]
        assert getattr(evaluation, f"{name}_per_step") == pytest.approx(per_step)
    assert evaluation.old_new_bias == pytest.approx(new / 30)
    assert evaluation.task_aware_accuracy != evaluation.accuracy, "the case tells nothing"


def test_task_aware_numbers_change_no_other(
    model: DyToxForImageClassification, examples: tuple[Examples, list[PILImage.Image]]
) -> None:
    evaluator = Evaluator(Accelerator(), make_image_processor(8), batch_size=30, num_workers=0)
    plain, task_aware = evaluator.evaluate(model, examples[0]), evaluator.evaluate(model, examples[0], task_aware=True)
    assert plain.task_aware_accuracy is None and plain.task_aware_accuracy_per_step is None
    assert replace(task_aware, task_aware_accuracy=None, task_aware_accuracy_per_step=None) == plain


def test_summary_of_logits() -> None:
    logits = np.array([[3.0, 0, 0, 0, 0, 0, -1], [0, 3, 0, 0, 0, 0, -1], [5, 4, 3, 2, 1, 0, 6], [9, 8, 7, 6, 5, 4, 0]])
    summary = summarize(logits, np.array([0, 0, 6, 6]), [[0, 6], [6, 7]], task_aware=True)
    assert summary.accuracy == 0.5
    assert summary.accuracy_per_step == [0.5, 0.5]
    # The last image's class is the seventh of seven by score.
    assert summary.top5_accuracy == 0.75
    # One new image is taken for an old one, and no old one for a new one.
    assert summary.old_new_bias == -0.25
    # Confidences are the sigmoids of 3, 3, 6 and 9, all in the last bin.
    mean = pytest.approx((2 * 0.95257413 + 0.99752738 + 0.99987661) / 4, abs=1e-7)
    assert summary.calibration == [{"confidence": mean, "accuracy": 0.5, "count": 4}]
    assert summary.expected_calibration_error == pytest.approx(summary.calibration[0]["confidence"] - 0.5)
    # The second step has one class: nothing competes with it.
    assert summary.task_aware_accuracy_per_step == [0.5, 1]
    assert summary.task_aware_accuracy == 0.75


@pytest.mark.parametrize("seed", range(10))
def test_knowing_the_step_never_hurts(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(5), generator.integers(0, 5, 45)])
    summary = summarize(generator.normal(size=(50, 5)), labels, RANGES, task_aware=True)
    assert summary.task_aware_accuracy is not None and summary.task_aware_accuracy_per_step is not None
    assert summary.task_aware_accuracy >= summary.accuracy
    pairs = zip(summary.task_aware_accuracy_per_step, summary.accuracy_per_step, strict=True)
    assert all(aware >= plain for aware, plain in pairs)


def test_after_the_first_step_nothing_is_old_and_the_step_tells_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 3))
    summary = summarize(logits, np.arange(20) % 3, [[0, 3]], task_aware=True)
    assert summary.old_new_bias is None
    assert summary.task_aware_accuracy == summary.accuracy


def test_logits_that_are_not_finite_are_an_error() -> None:
    logits = np.zeros((4, 2))
    logits[1, 0] = logits[3, 1] = np.nan
    with pytest.raises(FloatingPointError, match="2 of 4 test images"):
        summarize(logits, np.zeros(4, dtype=int), [[0, 2]])


# What `results.json` keeps.


def step_results(number: int, **more: Any) -> StepResults:
    classes = [f"class {number}"]
    return StepResults(number, classes, number, 0.5, 1.0, [0.5] * number, 0.1, 10, 4, 1.0, **more)


def results_of(*steps: StepResults) -> Results:
    return Results("digits", 3, ["class 1", "class 2", "class 3"], 0, "dytox", list(steps))


BINS = [{"confidence": 0.4, "accuracy": 0.5, "count": 2}, {"confidence": 0.6, "accuracy": 0.5, "count": 2}]
TASK_AWARE = [
    {"task_aware_accuracy": 0.5, "task_aware_accuracy_per_step": [0.5]},
    {
        "old_new_bias": -0.25,
        "task_aware_accuracy": 0.75,
        "task_aware_accuracy_per_step": [0.5, 1.0],
        "calibration": BINS,
    },
]


def test_every_number_of_an_evaluation_is_kept(tmp_path: Path) -> None:
    assert {field.name for field in fields(Evaluation)} <= {field.name for field in fields(StepResults)}
    results = results_of(*(step_results(number, **more) for number, more in enumerate(TASK_AWARE, start=1)))
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["steps"][1] == asdict(results.steps[1])
    assert content["steps"][1]["calibration"] == BINS
    assert content["average_task_aware_accuracy"] == 0.625


def test_results_written_before_can_be_read(tmp_path: Path) -> None:
    results_of(step_results(1), step_results(2)).write(tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text())
    assert "average_task_aware_accuracy" not in content
    for step in content["steps"]:
        for name in ("old_new_bias", "task_aware_accuracy", "task_aware_accuracy_per_step", "calibration"):
            assert step.pop(name) is None
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert Results.read(tmp_path / "results.json") == results_of(step_results(1), step_results(2))


def test_what_publishes_reads_results_with_and_without_the_new_numbers(tmp_path: Path) -> None:
    for steps in ([step_results(1), step_results(2)], [step_results(n, **m) for n, m in enumerate(TASK_AWARE, 1)]):
        results_of(*steps).write(tmp_path / "results.json")
        assert [step.accuracy for step in RunResults.from_file(tmp_path / "results.json").steps] == [0.5, 0.5]


ANCESTORS = [{"model": "org/cifar", "revision": "step2", "commit": None, "num_steps": 2, "dataset": "cifar"}]


def continued(*third_row: float | None) -> Results:
    """Two steps of a published model, and a third on another data set."""
    third = replace(step_results(3), accuracy_per_step=list(third_row))
    return replace(results_of(step_results(1), step_results(2), third), ancestors=ANCESTORS)


def test_a_continued_run_keeps_its_ancestors_and_what_it_could_not_measure(tmp_path: Path) -> None:
    results = continued(None, None, 0.5)
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["ancestors"] == ANCESTORS and content["steps"][2]["accuracy_per_step"] == [None, None, 0.5]
    assert content["forgetting"] is None and content["backward_transfer"] is None
    assert results.table().endswith("forgetting -, backward transfer -")
    assert continued(None, 0.25, 0.5).to_dict()["forgetting"] == 0.25

    results_of(step_results(1)).write(tmp_path / "results.json")
    assert "ancestors" not in json.loads((tmp_path / "results.json").read_text()), "as before"


def test_images_of_a_step_are_not_missing_on_its_own_data_set(tmp_path: Path) -> None:
    for results, cell in (
        (replace(continued(None, 0.5, 0.5), ancestors=[]), "[2][0]"),
        (continued(0, 0, None), "[2][2]"),
    ):
        with pytest.raises(ValueError, match=f"accuracy_matrix{re.escape(cell)} is None"):
            results.to_dict()


def test_steps_without_images_have_no_accuracy() -> None:
    logits = np.array([[3.0, 0, 0], [0, 3, 0], [9, 0, 3]])
    summary = summarize(logits, np.array([1, 1, 2]), [[0, 1], [1, 2], [2, 3]], task_aware=True)
    assert summary.accuracy_per_step == [None, 0.5, 0.0]
    assert summary.task_aware_accuracy_per_step == [None, 1.0, 1.0]
    assert summary.accuracy == pytest.approx(1 / 3)
    assert [number.label for number in compare(summary, {}) if "of step 1" in number.label] == []


def test_the_table_has_a_task_aware_column_only_where_it_was_measured() -> None:
    without = results_of(step_results(1), step_results(2)).table()
    assert "task-aware" not in without
    header, first, second, overall = results_of(step_results(1), step_results(2, **TASK_AWARE[1])).table().splitlines()
    assert header.endswith("  task-aware") and first.endswith(" -") and second.endswith(" 75.00%")
    assert len(header) == len(first) == len(second)
    assert "task-aware" not in overall, "the average would be of some steps alone"
    everywhere = results_of(*(step_results(n, **more) for n, more in enumerate(TASK_AWARE, 1))).table()
    assert everywhere.endswith("average task-aware accuracy 62.50%")


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("accuracy", 50.0, "accuracies[1] is 50.0"),
        ("accuracy_per_step", [0.5], "accuracy_matrix[1] holds 1 value(s), expected 2"),
        ("accuracy_per_step", [0.5, None], "accuracy_matrix[1][1] is None"),
    ],
)
def test_numbers_that_no_run_can_have_measured_are_named(tmp_path: Path, name: str, value: Any, part: str) -> None:
    path = tmp_path / "results.json"
    results_of(step_results(1), step_results(2)).write(path)
    content = json.loads(path.read_text())
    content["steps"][1][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        Results.read(path)
    assert part in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
