"""Metrics against hand-worked cases and independent oracles; as functions and as modules of `evaluate`."""

import doctest
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import binary_calibration_error, multiclass_accuracy

from training.metrics import (
    AverageIncrementalAccuracy,
    BackwardTransfer,
    ExpectedCalibrationError,
    Forgetting,
    ForgettingAsPublished,
    LastAccuracy,
    OldNewBias,
    TopKAccuracy,
    accuracies_from_matrix,
    average_incremental_accuracy,
    backward_transfer,
    expected_calibration_error,
    forgetting,
    forgetting_as_published,
    last_accuracy,
    model_metrics,
    old_new_bias,
    reliability_bins,
    run_metrics,
    task_aware_predictions,
    top_k_accuracy,
)


# Three steps. Step 1 was best after step 2 (0.9) and ends at 0.5; step 2 falls from 0.8 to 0.7.
MATRIX = [[0.8], [0.9, 0.8], [0.5, 0.7, 0.6]]
RANGES = [[0, 3], [3, 5], [5, 9]]
RUN_METRICS = [AverageIncrementalAccuracy, LastAccuracy, Forgetting, ForgettingAsPublished, BackwardTransfer]

Columns = dict[str, list[int]]


def random_matrix(num_steps: int, seed: int) -> np.ndarray:
    """Square, with nan above the diagonal, where nothing is measured."""
    values = np.random.default_rng(seed).random((num_steps, num_steps))
    return np.where(np.tri(num_steps, dtype=bool), values, np.nan)


def as_rows(matrix: np.ndarray) -> list[list[float]]:
    return [row[: length + 1].tolist() for length, row in enumerate(matrix)]


def random_run(seed: int, error_rate: float = 0.5) -> Columns:
    """Predictions after each of three steps on the images of all classes seen; classes have 1 to 9 images each."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(9), generator.integers(1, 10, 9))
    run: Columns = {"predictions": [], "references": [], "steps": []}
    for step, (_, stop) in enumerate(RANGES, start=1):
        seen = labels[labels < stop]
        wrong = generator.random(len(seen)) < error_rate
        run["predictions"] += np.where(wrong, generator.integers(0, stop, len(seen)), seen).tolist()
        run["references"] += seen.tolist()
        run["steps"] += [step] * len(seen)
    return run


def count_by_hand(run: Columns) -> tuple[list[list[float]], list[float], list[int]]:
    """Accuracy matrix, accuracies on all seen and images of each step's classes, by counting one by one."""
    step_of = {label: step for step, (start, stop) in enumerate(RANGES) for label in range(start, stop)}
    right = [[0] * (step + 1) for step in range(3)]
    total = [[0] * (step + 1) for step in range(3)]
    for predicted, true, step in zip(run["predictions"], run["references"], run["steps"], strict=True):
        total[step - 1][step_of[true]] += 1
        right[step - 1][step_of[true]] += predicted == true
    matrix = [[r / t for r, t in zip(*rows, strict=True)] for rows in zip(right, total, strict=True)]
    return matrix, [sum(r) / sum(t) for r, t in zip(right, total, strict=True)], total[-1]


def shuffled(columns: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    order = np.random.default_rng(seed).permutation(len(columns["references"]))
    return {name: np.asarray(values)[order] for name, values in columns.items()}


# Formulas.


def test_hand_worked_case() -> None:
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.7)) / 2)
    assert backward_transfer(MATRIX) == pytest.approx(((0.5 - 0.8) + (0.7 - 0.8)) / 2)
    # Published: step 2 is neither counted nor a best, but divided by.
    assert forgetting_as_published(MATRIX) == pytest.approx((0.8 - 0.5) / 2)
    assert average_incremental_accuracy([0.8, 0.85, 0.6]) == pytest.approx(0.75)
    assert last_accuracy([0.8, 0.85, 0.6]) == 0.6
    assert accuracies_from_matrix(MATRIX, [30, 10, 60]) == pytest.approx([0.8, 0.875, 0.58])
    assert accuracies_from_matrix(MATRIX) == pytest.approx([0.8, 0.85, 0.6])


def test_published_forgetting_gives_a_published_log() -> None:
    # The authors' third step: the first classes went from 92.5 % to 80.0 %, and the log says 6.25.
    assert forgetting_as_published([[0.925], [0.85, 0.9], [0.8, 0.7, 0.9]]) == pytest.approx(0.0625)


@pytest.mark.parametrize("metric", [forgetting, forgetting_as_published, backward_transfer])
def test_one_step_forgets_nothing(metric: Callable[..., float]) -> None:
    assert metric([[0.7]]) == 0


@pytest.mark.parametrize("num_steps", [2, 3, 7])
def test_continual_metrics_against_matrix_algebra(num_steps: int) -> None:
    matrix = random_matrix(num_steps, seed=num_steps)
    rows, last = as_rows(matrix), matrix[-1]
    assert forgetting(rows) == pytest.approx((np.nanmax(matrix[:-1, :-1], axis=0) - last[:-1]).mean())
    assert backward_transfer(rows) == pytest.approx((last - matrix.diagonal())[:-1].mean())
    lost = np.nanmax(matrix[:-2, :-2], axis=0) - last[:-2] if num_steps > 2 else np.zeros(1)
    assert forgetting_as_published(rows) == pytest.approx(lost.sum() / (num_steps - 1))
    images = np.arange(1, num_steps + 1)
    masked = np.ma.masked_invalid(matrix)
    expected = np.ma.average(masked, axis=1, weights=np.broadcast_to(images, matrix.shape))
    assert accuracies_from_matrix(rows, images.tolist()) == pytest.approx(expected.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_forgetting_is_no_less_than_what_was_lost_since_learning(seed: int) -> None:
    rows = as_rows(random_matrix(6, seed))
    assert forgetting(rows) >= -backward_transfer(rows) - 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_continual_metrics_are_over_the_steps_that_were_measured(seed: int) -> None:
    matrix = random_matrix(6, seed)
    # Steps 1 and 2 are of one data set, the others of another, which has images of some of their classes.
    matrix[2:, :2] = np.where(np.random.default_rng(seed).random((4, 2)) < 0.5, np.nan, matrix[2:, :2])
    rows = [[None if np.isnan(value) else value for value in row] for row in as_rows(matrix)]
    best = np.nanmax(matrix[:-1, :-1], axis=0)
    assert forgetting(rows) == pytest.approx(np.nanmean(best - matrix[-1, :-1]))
    assert backward_transfer(rows) == pytest.approx(np.nanmean((matrix[-1] - matrix.diagonal())[:-1]))


@pytest.mark.parametrize("metric", [forgetting, backward_transfer])
def test_nothing_measured_again_is_not_nothing_forgotten(metric: Callable[..., float | None]) -> None:
    assert metric([[0.5], [None, 0.7]]) is None
    assert metric([[0.5], [None, 0.5], [None, 0.25, 1.0]]) == pytest.approx({forgetting: 0.25}.get(metric, -0.25))


# The same as modules, from a matrix and from predictions.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metric", RUN_METRICS)
def test_matrix_and_predictions_agree(metric: type, seed: int) -> None:
    run = random_run(seed)
    matrix, accuracies, images = count_by_hand(run)
    weights = {"num_images": images} if metric in RUN_METRICS[:2] else {}
    of_run, of_matrix = (
        metric().compute(**run, class_ranges=RANGES),
        metric().compute(accuracy_matrix=matrix, **weights),
    )
    assert of_run == pytest.approx(of_matrix)
    assert list(of_run) == [metric().name]
    if metric is AverageIncrementalAccuracy:
        assert of_run == {"average_incremental_accuracy": pytest.approx(sum(accuracies) / 3)}
        assert of_run != metric().compute(accuracy_matrix=matrix), "images were not weighed"


@pytest.mark.parametrize("metric", RUN_METRICS)
def test_order_and_batches_do_not_matter(metric: type) -> None:
    run = random_run(seed=4)
    whole = metric().compute(**run, class_ranges=RANGES)
    mixed, module = shuffled(run), metric()
    module.add(prediction=mixed["predictions"][0], reference=mixed["references"][0], steps=mixed["steps"][0])
    for part in (slice(1, 9), slice(9, None)):
        module.add_batch(**{name: values[part] for name, values in mixed.items()})
    assert module.compute(class_ranges=RANGES) == pytest.approx(whole)
    # Nothing of it is left for the next computation.
    assert module.compute(**run, class_ranges=RANGES) == whole


def test_a_perfect_run() -> None:
    run = random_run(seed=5, error_rate=0)
    values = {
        name: value for metric in RUN_METRICS for name, value in metric().compute(**run, class_ranges=RANGES).items()
    }
    assert values == {
        "average_incremental_accuracy": 1,
        "last_accuracy": 1,
        "forgetting": 0,
        "forgetting_as_published": 0,
        "backward_transfer": 0,
    }


def test_a_run_that_is_not_over_yet() -> None:
    run = random_run(seed=6)
    so_far = {name: [value for value, step in zip(run[name], run["steps"], strict=True) if step < 3] for name in run}
    assert Forgetting().compute(**so_far, class_ranges=RANGES) == Forgetting().compute(
        **so_far, class_ranges=RANGES[:2]
    )


# One model: top-k, calibration, bias.


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    """Logits of 300 images for nine classes, right a little more often than not, and label ids."""
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 9, 300)
    logits = generator.normal(size=(300, 9)).astype(np.float32)
    logits[np.arange(300), labels] += 1.5
    return logits, labels


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_top_k_accuracy_against_torchmetrics(scored: tuple[np.ndarray, np.ndarray], k: int) -> None:
    logits, labels = scored
    scores, targets = torch.from_numpy(logits), torch.from_numpy(labels)
    oracle = multiclass_accuracy(scores, targets, num_classes=9, top_k=k, average="micro").item()
    assert top_k_accuracy(logits, labels, k) == pytest.approx(oracle, abs=1e-6)
    columns = {"predictions": logits, "references": labels}
    assert TopKAccuracy().compute(**shuffled(columns), k=k) == {"top_k_accuracy": pytest.approx(oracle, abs=1e-6)}
    assert top_k_accuracy(logits, labels, k) <= top_k_accuracy(logits, labels, k + 1)


def test_top_five_of_four_classes_are_all() -> None:
    assert TopKAccuracy().compute(predictions=[[4.0, 3, 2, 1]], references=[3]) == {"top_k_accuracy": 1}


def test_calibration_error_against_torchmetrics() -> None:
    generator = np.random.default_rng(1)
    confidences = generator.random(500)
    correct = generator.random(500) < confidences**2
    oracle = binary_calibration_error(torch.from_numpy(confidences), torch.from_numpy(correct).long(), n_bins=15)
    assert expected_calibration_error(confidences, correct) == pytest.approx(oracle.item(), abs=1e-6)


@pytest.mark.parametrize("num_bins", [1, 4, 15])
@pytest.mark.parametrize("seed", range(5))
def test_reliability_bins_are_the_images_of_each_bin_and_give_the_error(seed: int, num_bins: int) -> None:
    generator = np.random.default_rng(seed)
    # Few images and high confidence leave bins empty; the ends and the borders of bins are among them.
    confidences = np.concatenate([generator.random(20) ** 0.2, [0.0, 1.0, 0.25, 0.5]])
    correct = generator.random(24) < confidences
    edges = [(number / num_bins, (number + 1) / num_bins) for number in range(num_bins)]
    expected = []
    for low, high in edges:
        held = [i for i, value in enumerate(confidences) if low < value <= high or low == value == 0]
        if held:
            means = np.mean(confidences[held]), np.mean(correct[held])
            expected.append({"confidence": means[0], "accuracy": means[1], "count": len(held)})
    bins = reliability_bins(confidences, correct, num_bins)
    assert [dict(found) for found in bins] == [pytest.approx(wanted) for wanted in expected]

    gaps = [found["count"] / 24 * abs(found["accuracy"] - found["confidence"]) for found in bins]
    assert sum(gaps) == pytest.approx(expected_calibration_error(confidences, correct, num_bins), abs=1e-9)


def test_calibration_error_of_each_step_against_torchmetrics(scored: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = scored

    def oracle(chosen: np.ndarray) -> float:
        largest, predicted = torch.from_numpy(logits[chosen]).double().max(dim=1)
        right = (predicted == torch.from_numpy(labels[chosen])).long()
        return binary_calibration_error(largest.sigmoid(), right, n_bins=10).item()

    columns = {"predictions": logits, "references": labels}
    result = ExpectedCalibrationError().compute(**shuffled(columns), class_ranges=RANGES, num_bins=10)
    per_step = [oracle((labels >= start) & (labels < stop)) for start, stop in RANGES]
    assert result["expected_calibration_error"] == pytest.approx(oracle(labels >= 0), abs=1e-6)
    assert result["expected_calibration_error_per_step"] == pytest.approx(per_step, abs=1e-6)
    confidences = torch.from_numpy(logits).double().sigmoid().amax(dim=1)
    again = ExpectedCalibrationError("confidences").compute(
        predictions=logits.argmax(axis=1),
        references=labels,
        confidences=confidences,
        class_ranges=RANGES,
        num_bins=10,
    )
    assert again["expected_calibration_error"] == pytest.approx(result["expected_calibration_error"])
    assert again["expected_calibration_error_per_step"] == pytest.approx(per_step, abs=1e-6)


def test_calibration_error_without_images_of_a_step_and_at_the_ends() -> None:
    metric = ExpectedCalibrationError("confidences")
    result = metric.compute(
        predictions=[0, 1], references=[0, 0], confidences=[1.0, 0.0], class_ranges=[[0, 1], [1, 2]]
    )
    assert result == {"expected_calibration_error": 0, "expected_calibration_error_per_step": [0, None]}
    assert metric.compute(predictions=[0], references=[0], confidences=[0.25]) == {"expected_calibration_error": 0.75}
    extreme = ExpectedCalibrationError().compute(predictions=[[-1e4, 1e4], [-1e4, -2e4]], references=[1, 1])
    assert extreme == {"expected_calibration_error": 0}


def test_old_new_bias_by_hand() -> None:
    # Of four old images three are taken for new ones, of two new images one for an old one: (3 - 1) / 6.
    bias = OldNewBias().compute(
        predictions=[0, 4, 4, 3, 0, 4], references=[0, 1, 2, 0, 3, 4], class_ranges=[[0, 1], [1, 3], [3, 5]]
    )
    assert bias == {
        "old_new_bias": pytest.approx(2 / 6),
        "old_predicted_as_new": 0.75,
        "new_predicted_as_old": 0.5,
    }


@pytest.mark.parametrize("seed", range(3))
def test_old_new_bias_against_a_confusion_matrix(seed: int) -> None:
    generator = np.random.default_rng(seed)
    predictions, labels = generator.integers(0, 9, (2, 200))
    counts = confusion_matrix(labels, predictions, labels=range(9))
    as_new, as_old = counts[:5, 5:].sum(), counts[5:, :5].sum()
    expected = ((as_new - as_old) / 200, as_new / counts[:5].sum(), as_old / counts[5:].sum())
    assert old_new_bias(predictions, labels, 5) == pytest.approx(expected)
    columns = shuffled({"predictions": predictions, "references": labels})
    assert list(OldNewBias().compute(**columns, class_ranges=RANGES).values()) == pytest.approx(expected)


def test_old_new_bias_at_its_ends() -> None:
    labels = np.repeat(np.arange(10), 9)
    assert old_new_bias(labels, labels, 8) == (0, 0, 0)
    assert old_new_bias(np.full(90, 9), labels, 8) == (0.8, 1, 0)
    assert old_new_bias(np.zeros(90), labels, 8) == (-0.2, 0, 1)
    # A wrong guess, evenly among the other classes, favours none.
    evenly = np.concatenate([np.delete(np.arange(10), label) for label in range(10)])
    assert old_new_bias(evenly, labels, 8).old_new_bias == 0
    assert old_new_bias([0, 1], [0, 1], 8) == (0, 0, None)
    none = {"old_new_bias": None, "old_predicted_as_new": None, "new_predicted_as_old": None}
    assert OldNewBias().compute(predictions=[0], references=[1], class_ranges=[[0, 2]]) == none


@pytest.mark.parametrize("seed", range(5))
def test_task_aware_predictions_against_a_mask(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = torch.from_numpy(generator.normal(size=(100, 9))), torch.from_numpy(generator.integers(0, 9, 100))
    step_of = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    masked = torch.where(step_of[labels][:, None] == step_of[None], logits, -torch.inf)
    predictions = task_aware_predictions(logits, labels, RANGES)
    assert predictions.tolist() == masked.argmax(dim=1).tolist()
    # Whoever finds the class among all finds it among those of its step.
    right = logits.argmax(dim=1) == labels
    assert (predictions[right] == labels[right].numpy()).all()


# Bad input.

ONE = {"predictions": [0], "references": [0]}
BAD = {
    "no row": (lambda: Forgetting().compute(accuracy_matrix=[]), ("accuracy_matrix is empty", "step 1")),
    "square": (lambda: forgetting([[1, 0], [1, 1]]), ("accuracy_matrix[0] holds 2 value(s)", "expected 1")),
    "short row": (
        lambda: Forgetting().compute(accuracy_matrix=[[1], [1]]),
        ("accuracy_matrix[1] holds 1", "expected 2"),
    ),
    "percent": (
        lambda: BackwardTransfer().compute(accuracy_matrix=[[92.5]]),
        ("accuracy_matrix[0][0] is 92.5", "0..1"),
    ),
    "nan": (lambda: forgetting([[1.0], [float("nan"), 1]]), ("accuracy_matrix[1][0] is nan", "0..1")),
    "not measured right after the step": (
        lambda: forgetting([[None], [None, 1.0]]),
        ("accuracy_matrix[0][0] is None", "0..1"),
    ),
    "percent beside what is missing": (
        lambda: backward_transfer([[0.9], [0.9, 0.9], [None, 90.0, 0.9]]),
        ("accuracy_matrix[2][1] is 90.0", "0..1"),
    ),
    "all steps seen are needed": (
        lambda: accuracies_from_matrix([[0.9], [None, 0.9]]),  # type: ignore[list-item]
        ("accuracy_matrix[1][0] is None",),
    ),
    "negative": (lambda: average_incremental_accuracy([0.5, -0.1]), ("accuracies[1] is -0.1", "0..1")),
    "no accuracy": (lambda: last_accuracy([]), ("accuracies is empty",)),
    "missing value": (lambda: last_accuracy([None]), ("accuracies[0] is None",)),  # type: ignore[list-item]
    "images of too few steps": (lambda: accuracies_from_matrix(MATRIX, [1, 2]), ("num_images holds 2", "expected 3")),
    "no images of a step": (lambda: accuracies_from_matrix(MATRIX, [1, 0, 2]), ("num_images[1] is 0", "1 or more")),
    "both": (
        lambda: Forgetting().compute(accuracy_matrix=[[1]], **ONE),
        ("accuracy_matrix came together", "predictions"),
    ),
    "neither": (lambda: LastAccuracy().compute(), ("has no images", "predictions, references, steps")),
    "no steps": (lambda: LastAccuracy().compute(**ONE, class_ranges=[[0, 1]]), ("steps is missing",)),
    "no ranges": (lambda: LastAccuracy().compute(**ONE, steps=[1]), ("class_ranges is None", "[[0, 2], [2, 4]]")),
    "gap": (
        lambda: OldNewBias().compute(**ONE, class_ranges=[[0, 2], [3, 4]]),
        ("class_ranges[1] is [3, 4]", "[2, stop]"),
    ),
    "empty range": (lambda: OldNewBias().compute(**ONE, class_ranges=[[0, 0]]), ("class_ranges[0] is [0, 0]",)),
    "step 0": (lambda: LastAccuracy().compute(**ONE, steps=[0], class_ranges=[[0, 1]]), ("steps[0] is 0", "in 1..1")),
    "step without a range": (
        lambda: LastAccuracy().compute(**ONE, steps=[2], class_ranges=[[0, 1]]),
        ("steps[0] is 2",),
    ),
    "unknown label": (
        lambda: Forgetting().compute(predictions=[0], references=[2], steps=[1], class_ranges=[[0, 2], [2, 4]]),
        ("references[0] is 2", "below 2", "after step 1"),
    ),
    "unknown prediction": (
        lambda: Forgetting().compute(
            predictions=[0, 3], references=[0, 1], steps=[2, 1], class_ranges=[[0, 2], [2, 4]]
        ),
        ("predictions[1] is 3", "below 2", "after step 1"),
    ),
    "label outside the ranges": (
        lambda: OldNewBias().compute(predictions=[0], references=[4], class_ranges=[[0, 2], [2, 4]]),
        ("references[0] is 4", "0..3"),
    ),
    "step not evaluated": (
        lambda: Forgetting().compute(
            predictions=[0, 2], references=[0, 2], steps=[1, 2], class_ranges=[[0, 2], [2, 4]]
        ),
        ("0 predictions after step 2", "step 1's classes"),
    ),
    "lengths": (lambda: OldNewBias().compute(predictions=[0, 1], references=[0]), ("2 predictions, 1 references",)),
    "no image": (lambda: expected_calibration_error([], []), ("0 confidences", "at least one image")),
    "half a label": (lambda: OldNewBias().compute(predictions=[0.5], references=[0]), ("predictions[0] is 0.5",)),
    "nan label": (
        lambda: OldNewBias().compute(predictions=[float("nan")], references=[0]),
        ("predictions[0] is nan",),
    ),
    "infinite label": (lambda: old_new_bias([float("inf")], [0], 1), ("predictions[0] is inf",)),
    "names as labels": (lambda: OldNewBias().compute(predictions=["cat"], references=[0]), ("predictions has shape",)),
    "unknown column": (
        lambda: OldNewBias().add_batch(**ONE, steps=[1]),
        ("steps is unknown", "predictions, references"),
    ),
    "no old class": (lambda: old_new_bias([0], [0], 0), ("num_old_classes is 0", "step 2")),
    "nan logit": (
        lambda: TopKAccuracy().compute(predictions=[[0, np.nan]], references=[0]),
        ("predictions[0][1] is nan",),
    ),
    "label without a logit": (
        lambda: TopKAccuracy().compute(predictions=[[0, 1]], references=[2]),
        ("references[0] is 2",),
    ),
    "ragged logits": (lambda: top_k_accuracy([[1, 2], [1]], [0, 0]), ("rows of different lengths",)),
    "top 0": (lambda: TopKAccuracy().compute(predictions=[[0, 1]], references=[0], k=0), ("k is 0",)),
    "labels instead of logits": (
        lambda: TopKAccuracy().compute(**ONE),
        ("predictions has shape (1,)", "one score a class"),
    ),
    "logit as a confidence": (
        lambda: ExpectedCalibrationError("confidences").compute(**ONE, confidences=[3.0]),
        ("confidences[0] is 3.0", "not its logit"),
    ),
    "no bins": (lambda: expected_calibration_error([0.5], [1], num_bins=0), ("num_bins is 0",)),
    "ranges of another model": (
        lambda: ExpectedCalibrationError().compute(predictions=[[0, 1]], references=[0], class_ranges=[[0, 3]]),
        ("class_ranges ends at 3", "expected 2"),
    ),
    "unknown variant": (lambda: ExpectedCalibrationError("softmax"), ("'softmax'", "'confidences'")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_with_what_to_do(case: str) -> None:
    call, parts = BAD[case]
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and ": " in message
    for part in parts:
        assert part in message


# As modules of `evaluate`.


@pytest.mark.parametrize("module", [run_metrics, model_metrics])
def test_examples_in_the_docstrings(module: Any) -> None:
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    for name, entry in vars(module).items():
        if getattr(entry, "__module__", None) == module.__name__ and entry.__doc__:
            # A fence right below an example would be taken for its output.
            text = entry.__doc__.replace("```", "")
            runner.run(parser.get_doctest(text, vars(module).copy(), name, None, None))
    assert runner.summarize().attempted >= 2 and runner.summarize().failed == 0


@pytest.mark.parametrize("metric", [*RUN_METRICS, TopKAccuracy, ExpectedCalibrationError, OldNewBias])
def test_modules_describe_themselves(metric: type) -> None:
    module = metric()
    assert module.description and "Raises:" in module.inputs_description and "Returns:" in module.compute.__doc__
    assert set(module.features) >= {"predictions", "references"}


OFFLINE = """
import socket
def refuse(*args, **kwargs): raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from training.metrics import *
Forgetting().compute(accuracy_matrix=[[1.0], [0.5, 1.0]])
Forgetting().compute(predictions=[0], references=[0], steps=[1], class_ranges=[[0, 1]])
for metric in (TopKAccuracy(), ExpectedCalibrationError()):
    metric.compute(predictions=[[1.0, 0.0]], references=[0])
OldNewBias().compute(predictions=[0], references=[0], class_ranges=[[0, 1], [1, 2]])
"""


def test_nothing_is_written_and_no_network_is_needed(root: Path, tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env = own | {
        "HF_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], cwd=root, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
