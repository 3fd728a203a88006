"""Evaluation of a model on images, and the entry of `results.json` that it makes."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image as PILImage

from hub.run.results import ReliabilityBin
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from modeling_dytox.image_processing import make_image_processor
from training.data.examples import Examples
from training.loop.evaluation import Evaluation, Evaluator, summarize


RANGES = [[0, 2], [2, 5]]
SIGMOID = "multi_label_classification"


def test_evaluation_against_one_image_at_a_time(
    make_examples: Callable[..., Examples], noise_image: Callable[..., PILImage.Image]
) -> None:
    images = [noise_image(seed, 8, 8) for seed in range(30)]
    test, processor = make_examples(images, [0, 1, 2, 3, 4, 4] * 5), make_image_processor(8)
    torch.manual_seed(0)
    # The weights are large, so that logits differ.
    sizes = {"image_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DyToxForImageClassification(DyToxConfig(**sizes, initializer_range=0.5, class_ranges=RANGES)).train()
    evaluator = Evaluator(Accelerator(), processor, batch_size=7, num_workers=0)
    evaluation = evaluator.evaluate(model, test, task_aware=True)
    assert model.training, "training continues as before"
    without = {"task_aware_accuracy": None, "task_aware_accuracy_per_step": None}
    assert evaluator.evaluate(model, test) == replace(evaluation, **without), "no other number uses the step"

    model.eval()
    hits: dict[str, list[tuple[int, bool]]] = {"accuracy": [], "task_aware_accuracy": []}
    new, pairs = 0, Counter[tuple[int, int]]()
    for image, label in zip(images, test.labels.tolist(), strict=True):
        with torch.no_grad():
            logits = model(processor(image, return_tensors="pt")["pixel_values"]).logits[0].tolist()
        step = int(label >= 2)
        predicted = max(range(5), key=logits.__getitem__)
        pairs[label, predicted] += 1
        hits["accuracy"].append((step, predicted == label))
        hits["task_aware_accuracy"].append((step, max(range(*RANGES[step]), key=logits.__getitem__) == label))
        new += (predicted >= 2) - (label >= 2)
    for name, right in hits.items():
        assert getattr(evaluation, name) == pytest.approx(np.mean([hit for _, hit in right]))
        per_step = [np.mean([hit for step, hit in right if step == wanted]) for wanted in (0, 1)]
        assert getattr(evaluation, f"{name}_per_step") == pytest.approx(per_step)
    assert evaluation.old_new_bias == pytest.approx(new / 30)
    counts = evaluator.predict(model, test).confusion().counts
    assert list(counts.items()) == sorted(pairs.items()) and len(counts) > 5
    assert evaluation.task_aware_accuracy != evaluation.accuracy, "the case would prove nothing"


def test_summary_of_logits() -> None:
    logits = np.array([[3.0, 0, 0, 0, 0, 0, -1], [0, 3, 0, 0, 0, 0, -1], [5, 4, 3, 2, 1, 0, 6], [9, 8, 7, 6, 5, 4, 0]])
    # One image of each class in between, predicted right with a logit of 1.
    logits = np.concatenate([logits, np.eye(7)[1:6]])
    summary = summarize(logits, np.array([0, 0, 6, 6, 1, 2, 3, 4, 5]), [[0, 6], [6, 7]], SIGMOID, task_aware=True)
    assert summary.accuracy == 7 / 9
    assert summary.accuracy_per_step == [6 / 7, 0.5]
    # The class of the fourth image is the seventh of seven by score.
    assert summary.top5_accuracy == 8 / 9
    # One new image is taken for an old one, and no old one for a new one.
    assert summary.old_new_bias == -1 / 9
    # The second step has one class: nothing competes with it.
    assert summary.task_aware_accuracy_per_step == [6 / 7, 1]
    assert summary.task_aware_accuracy == 8 / 9
    # Sigmoids of 1 are in one bin, those of 3, 3, 6 and 9 in the last.
    low, high = 1 / (1 + math.exp(-1)), sum(1 / (1 + math.exp(-logit)) for logit in (3, 3, 6, 9)) / 4
    assert summary.calibration == [
        {"confidence": pytest.approx(low), "accuracy": 1.0, "count": 5},
        {"confidence": pytest.approx(high), "accuracy": 0.5, "count": 4},
    ]
    assert summary.expected_calibration_error == pytest.approx((5 * (1 - low) + 4 * (high - 0.5)) / 9)
    assert summary.measured_labels is None and summary.accuracy_of_measured is None


@pytest.mark.parametrize("seed", range(10))
def test_knowing_the_step_never_hurts(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(5), generator.integers(0, 5, 45)])
    summary = summarize(generator.normal(size=(50, 5)), labels, RANGES, SIGMOID, task_aware=True)
    assert summary.task_aware_accuracy is not None and summary.task_aware_accuracy_per_step is not None
    assert summary.task_aware_accuracy >= (summary.accuracy or 0)
    pairs = zip(summary.task_aware_accuracy_per_step, summary.accuracy_per_step, strict=True)
    assert all(aware >= plain for aware, plain in pairs if aware is not None and plain is not None)
    first = summarize(generator.normal(size=(20, 3)), np.arange(20) % 3, [[0, 3]], SIGMOID, task_aware=True)
    assert first.old_new_bias is None and first.task_aware_accuracy == first.accuracy, "nothing is old, one step"


def test_classes_without_images_have_no_accuracy() -> None:
    logits = np.array([[3.0, 0, 0], [0, 3, 0], [9, 0, 3]])
    summary = summarize(logits, np.array([1, 1, 2]), [[0, 1], [1, 2], [2, 3]], SIGMOID, task_aware=True)
    measured = {
        "accuracy_per_step": [None, 0.5, 0.0],
        "task_aware_accuracy_per_step": [None, 1.0, 1.0],
        "accuracy_of_measured": pytest.approx(1 / 3),
        "measured_labels": [1, 2],
    }
    assert summary == Evaluation(**dict.fromkeys([field.name for field in fields(Evaluation)]) | measured)  # type: ignore[arg-type]


def test_logits_that_are_not_finite_are_an_error() -> None:
    logits = np.zeros((4, 2))
    logits[1, 0] = logits[3, 1] = np.nan
    with pytest.raises(FloatingPointError, match="2 of 4 test images"):
        summarize(logits, np.zeros(4, dtype=int), [[0, 2]], SIGMOID)


def test_results_keep_every_number_of_an_evaluation() -> None:
    values: dict[str, Any] = {
        field.name: 0.5 - 0.01 * number if "per_step" not in field.name else [0.5 - 0.01 * number] * 2
        for number, field in enumerate(fields(Evaluation))
    }
    values |= {"calibration": [{"confidence": 0.4, "accuracy": 0.5, "count": 2}], "measured_labels": [2, 0]}
    others = {"step": 2, "classes": ("c",), "num_seen_classes": 3, "num_parameters": 10}
    entry = Evaluation(**values).step_results(["a", "b", "c"], **others)
    assert entry.measured_classes == ("c", "a") and entry.classes == ("c",)
    assert entry.calibration == (ReliabilityBin(0.4, 0.5, 2),)
    for name in values.keys() - {"calibration", "measured_labels"}:
        value = getattr(entry, name)
        assert (list(value) if isinstance(value, tuple) else value) == values[name]
