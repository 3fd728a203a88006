"""Metrics against hand-worked cases and independent oracles; as functions and as modules of `evaluate`."""

import doctest
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import binary_calibration_error, multiclass_accuracy

from tests.warm import warm_python, without_hub_settings
from training.metrics import (
    AverageIncrementalAccuracy,
    BackwardTransfer,
    ExpectedCalibrationError,
    Forgetting,
    LastAccuracy,
    OldNewBias,
    TopKAccuracy,
    average_incremental_accuracy,
    backward_transfer,
    confidences_of,
    expected_calibration_error,
    forgetting,
    last_accuracy,
    modules,
    old_new_bias,
    reliability_bins,
    scores_of,
    task_aware_predictions,
    top_k_accuracy,
)


# Three steps. Step 1 was best after step 2 (0.9) and ends at 0.5; step 2 falls from 0.8 to 0.7.
MATRIX = [[0.8], [0.9, 0.8], [0.5, 0.7, 0.6]]
RANGES = [[0, 3], [3, 5], [5, 9]]

Rows = list[list[float | None]]


def random_matrix(num_steps: int, seed: int = 0, missing: float = 0.0) -> Rows:
    generator = np.random.default_rng(seed)
    sizes = range(1, num_steps + 1)
    return [[None if generator.random() < missing else generator.random() for _ in range(size)] for size in sizes]


def mean_or_none(groups: Sequence[Sequence[float | None]], term: Callable[..., float]) -> float | None:
    """Mean of `term` over groups of the values that it needs; None where there is no group or a value is missing."""
    if not groups or any(None in values for values in groups):
        return None
    return sum(term(values) for values in groups) / len(groups)


# Metrics of a run.


def test_hand_worked_case() -> None:
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.7)) / 2)
    assert backward_transfer(MATRIX) == pytest.approx(((0.5 - 0.8) + (0.7 - 0.8)) / 2)
    assert average_incremental_accuracy([0.8, 0.85, 0.6]) == pytest.approx(0.75)
    assert last_accuracy([0.8, 0.85, 0.6]) == 0.6
    images = {"num_images": [30, 10, 60]}
    average = AverageIncrementalAccuracy().compute(accuracy_matrix=MATRIX, **images)
    assert average == {"average_incremental_accuracy": pytest.approx((0.8 + 0.875 + 0.58) / 3)}
    assert LastAccuracy().compute(accuracy_matrix=MATRIX, **images) == {"last_accuracy": pytest.approx(0.58)}
    assert LastAccuracy().compute(accuracy_matrix=MATRIX) == {"last_accuracy": pytest.approx(0.6)}


@pytest.mark.parametrize("num_steps", [1, 3, 7])
def test_averages_weigh_every_image_the_same(num_steps: int) -> None:
    rows, images = random_matrix(num_steps), np.random.default_rng(num_steps).integers(1, 9, num_steps)
    # The images that were recognized, over those that were seen.
    accuracies = [np.dot(row, images[: len(row)]) / images[: len(row)].sum() for row in rows]
    average = AverageIncrementalAccuracy().compute(accuracy_matrix=rows, num_images=images)
    assert average == {"average_incremental_accuracy": pytest.approx(np.mean(accuracies))}


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
def test_a_run_metric_is_none_exactly_where_a_term_is_missing(num_steps: int) -> None:
    none = set()
    for seed in range(50):
        rows = random_matrix(num_steps, seed, missing=0.2)
        columns = [[row[step] for row in rows[step:]] for step in range(num_steps - 1)]
        ends = [(column[0], column[-1]) for column in columns]
        found = forgetting(rows), backward_transfer(rows), average_incremental_accuracy(rows[-1])
        expected = (
            mean_or_none(columns, lambda values: max(values[:-1]) - values[-1]),
            mean_or_none(ends, lambda values: values[1] - values[0]),
            mean_or_none([(value,) for value in rows[-1]], lambda values: values[0]),
        )
        assert found == pytest.approx(expected)
        assert last_accuracy(rows[-1]) == rows[-1][-1]
        none |= {(metric, value is None) for metric, value in enumerate(found)}
    # After step 1 there is no earlier step; of more steps each metric is None now and then.
    assert none == {(metric, flag) for metric in range(3) for flag in (True, num_steps == 1 and metric < 2)}


def test_averages_are_none_where_a_step_has_no_images_or_no_accuracy() -> None:
    rows: Rows = [[0.5], [0.5, None]]
    for matrix, options in ((rows, {}), (MATRIX[:2], {"num_images": [3, 0]}), (MATRIX[:2], {"num_images": [0, 3]})):
        for metric in (AverageIncrementalAccuracy(), LastAccuracy()):
            assert metric.compute(accuracy_matrix=matrix, **options) == {metric.name: None}
    # Nothing is missing after step 1.
    assert LastAccuracy().compute(accuracy_matrix=rows[:1]) == {"last_accuracy": 0.5}


# Metrics of one model.


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    """Logits of 300 images for nine classes, right a little more often than not, and label ids."""
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 9, 300)
    logits = generator.normal(size=(300, 9)).astype(np.float32)
    logits[np.arange(300), labels] += 1.5
    return logits, labels


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_top_k_accuracy_against_torchmetrics(scored: tuple[np.ndarray, np.ndarray], k: int) -> None:
    logits, labels = scored
    scores, targets = torch.from_numpy(logits), torch.from_numpy(labels)
    oracle = multiclass_accuracy(scores, targets, num_classes=9, top_k=k, average="micro").item()
    assert top_k_accuracy(logits, labels, k) == pytest.approx(oracle, abs=1e-6)
    module = TopKAccuracy().compute(predictions=logits, references=labels, k=k)
    assert module == {"top_k_accuracy": pytest.approx(oracle, abs=1e-6)}
    assert top_k_accuracy(logits, labels, k=10) == 1, "of nine classes ten are all"


@pytest.mark.parametrize("num_bins", [1, 4, 15])
@pytest.mark.parametrize("seed", range(5))
def test_reliability_bins_are_the_images_of_each_bin(seed: int, num_bins: int) -> None:
    generator = np.random.default_rng(seed)
    # Few images and high confidence leave bins empty; the ends and the borders of bins are among them.
    confidences = np.concatenate([generator.random(20) ** 0.2, [0.0, 1.0, 0.25, 0.5]])
    correct = generator.random(24) < confidences
    expected = []
    for low, high in [(number / num_bins, (number + 1) / num_bins) for number in range(num_bins)]:
        chosen = [i for i, value in enumerate(confidences) if low < value <= high or low == value == 0]
        if chosen:
            means = np.mean(confidences[chosen]), np.mean(correct[chosen])
            expected.append({"confidence": means[0], "accuracy": means[1], "count": len(chosen)})
    bins = reliability_bins(confidences, correct, num_bins)
    assert [dict(found) for found in bins] == [pytest.approx(wanted) for wanted in expected]
    gaps = [points["count"] / 24 * abs(points["accuracy"] - points["confidence"]) for points in expected]
    assert expected_calibration_error(confidences, correct, num_bins) == pytest.approx(sum(gaps))


def test_calibration_error_against_torchmetrics(scored: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = scored
    largest, predicted = torch.from_numpy(logits).double().max(dim=1)
    confidences, right = largest.sigmoid(), (predicted == torch.from_numpy(labels)).long()
    oracle = {"expected_calibration_error": pytest.approx(binary_calibration_error(confidences, right, 10).item())}
    columns = {"predictions": logits, "references": labels}
    assert ExpectedCalibrationError().compute(**columns, num_bins=10) == oracle
    columns |= {"predictions": predicted, "confidences": confidences}
    assert ExpectedCalibrationError("confidences").compute(**columns, num_bins=10) == oracle
    extreme = ExpectedCalibrationError().compute(predictions=[[-1e4, 1e4], [-1e4, -2e4]], references=[1, 1])
    assert extreme == {"expected_calibration_error": 0}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_scores_against_torch(problem_type: str | None) -> None:
    logits = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * 10
    logits[0], logits[1, :2] = [1e4, -1e4, 0, 1, 2, 3, -3], 5e3
    scores, given = scores_of(logits, problem_type), torch.from_numpy(logits)
    expected = given.sigmoid() if problem_type else given.softmax(dim=1)
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(scores.max(axis=1), confidences_of(logits, problem_type), atol=1e-6)
    np.testing.assert_allclose(scores_of(logits[:, :1], None), given[:, :1].sigmoid().numpy(), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_old_new_bias_against_a_confusion_matrix(seed: int) -> None:
    predictions, labels = np.random.default_rng(seed).integers(0, 9, (2, 200))
    counts = confusion_matrix(labels, predictions, labels=range(9))
    as_new, as_old = counts[:5, 5:].sum(), counts[5:, :5].sum()
    expected = ((as_new - as_old) / 200, as_new / counts[:5].sum(), as_old / counts[5:].sum())
    assert old_new_bias(predictions, labels, 5) == pytest.approx(expected)
    module = OldNewBias().compute(predictions=predictions, references=labels, class_ranges=RANGES)
    names = ("old_new_bias", "old_predicted_as_new", "new_predicted_as_old")
    assert module == pytest.approx(dict(zip(names, expected, strict=True)))


def test_old_new_bias_is_none_where_there_is_nothing_to_favour() -> None:
    assert old_new_bias([0, 1], [0, 1], 8) == (0, 0, None)
    none = {"old_new_bias": None, "old_predicted_as_new": None, "new_predicted_as_old": None}
    assert OldNewBias().compute(predictions=[0], references=[1], class_ranges=[[0, 2]]) == none


def test_task_aware_predictions_against_a_mask(scored: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = map(torch.from_numpy, scored)
    step_of = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    masked = torch.where(step_of[labels][:, None] == step_of[None], logits, -torch.inf)
    assert task_aware_predictions(logits, labels, RANGES).tolist() == masked.argmax(dim=1).tolist()


# Bad input.

ONE = {"predictions": [0], "references": [0]}


def last(**options: Any) -> object:
    return LastAccuracy().compute(accuracy_matrix=MATRIX, **options)


def bias(**options: Any) -> object:
    return OldNewBias().compute(**ONE | options)


def calibration(**options: Any) -> object:
    return ExpectedCalibrationError().compute(**ONE | options)


BAD: dict[str, tuple[Callable[[], object], Sequence[str]]] = {
    "no row": (lambda: Forgetting().compute(accuracy_matrix=[]), ("accuracy_matrix is []", "step 1")),
    "no list": (lambda: Forgetting().compute(accuracy_matrix=[0.9, 0.8]), ("accuracy_matrix[0] is 0.9",)),
    "square": (lambda: forgetting([[1, 0], [1, 1]]), ("accuracy_matrix[0] holds 2 value(s)", "expected 1")),
    "percent": (lambda: BackwardTransfer().add(accuracy_matrix=[92.5]), ("accuracy_matrix[0][0] is 92.5", "0..1")),
    "nan": (lambda: forgetting([[1.0], [float("nan"), 1]]), ("accuracy_matrix[1][0] is nan", "0..1")),
    "negative": (lambda: last_accuracy([0.5, -0.1]), ("accuracies[1] is -0.1", "0..1")),
    "images of one step": (lambda: last(num_images=[1]), ("num_images holds 1", "expected 3")),
    "negative images": (lambda: last(num_images=[1, -1, 1]), ("num_images[1] is -1", "0 or more", "test images")),
    "no input": (lambda: Forgetting().compute(**ONE), ("given predictions, references,", "expected accuracy_matrix:")),
    "input of a variant": (lambda: calibration(confidences=[1]), ("given confidences,", "expected predictions,")),
    "input missing": (lambda: OldNewBias().add(prediction=0), ("given predictions,", "expected predictions, ref")),
    "nothing": (lambda: LastAccuracy().compute(), ("given nothing", "expected accuracy_matrix")),
    "no ranges": (lambda: bias(), ("class_ranges is None", "[[0, 2], [2, 4]]")),
    "gap": (lambda: bias(class_ranges=[[0, 2], [3, 4]]), ("[3, 4]", "without a gap")),
    "empty range": (lambda: bias(class_ranges=[[0, 0]]), ("class_ranges is [[0, 0]]",)),
    "ranges of another model": (lambda: task_aware_predictions([[0, 1]], [0], [[0, 3]]), ("[[0, 3]]", "from 0 to 2")),
    "label of no range": (lambda: bias(references=[4], class_ranges=[[0, 3]]), ("references[0] is 4", "0..2")),
    "lengths": (lambda: bias(predictions=[0, 1]), ("2 predictions, 1 references",)),
    "no image": (lambda: expected_calibration_error([], []), ("0 confidences", "at least one")),
    "half a label": (lambda: OldNewBias().add(prediction=0.5, reference=0), ("predictions[0] is 0.5",)),
    "infinite label": (lambda: old_new_bias([float("inf")], [0], 1), ("predictions[0] is inf",)),
    "names as labels": (lambda: bias(predictions=["cat"]), ("predictions has shape",)),
    "no old class": (lambda: old_new_bias([0], [0], 0), ("num_old_classes is 0", "step 2")),
    "nan logit": (lambda: TopKAccuracy().add(prediction=[0, np.nan], reference=0), ("predictions[0][1] is nan",)),
    "label without a logit": (lambda: top_k_accuracy([[0, 1]], [2]), ("labels[0] is 2", "0..1")),
    "ragged logits": (lambda: top_k_accuracy([[1, 2], [1]], [0, 0]), ("rows of different lengths",)),
    "top 0": (lambda: top_k_accuracy([[0, 1]], [0], k=0), ("k is 0",)),
    "labels for logits": (lambda: calibration(), ("predictions has shape (1,)", "one score a class")),
    "logit as a confidence": (lambda: expected_calibration_error([3.0], [1]), ("confidences[0] is 3.0", "its logit")),
    "no bins": (lambda: expected_calibration_error([0.5], [1], num_bins=0), ("num_bins is 0",)),
    "unknown variant": (lambda: ExpectedCalibrationError("softmax"), ("'softmax'", "'confidences'")),
}


@pytest.mark.parametrize(("call", "parts"), BAD.values(), ids=BAD)
def test_bad_input_is_named_with_what_to_do(call: Callable[[], object], parts: Sequence[str]) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and ": " in message
    assert [part for part in parts if part not in message] == []


# As modules of `evaluate`.


@pytest.mark.parametrize("metric", [Forgetting, TopKAccuracy])
def test_what_is_added_in_parts_is_computed_as_a_whole(metric: type, scored: tuple[np.ndarray, np.ndarray]) -> None:
    columns: dict[str, Any] = {"accuracy_matrix": random_matrix(9)}
    if metric is TopKAccuracy:
        columns = dict(zip(("predictions", "references"), scored, strict=True))
    module, whole = metric(), metric().compute(**columns)
    module.add(**{name.removesuffix("s"): values[0] for name, values in columns.items()})
    module.add_batch(**{name: values[1:4] for name, values in columns.items()})
    assert module.compute(**{name: values[4:] for name, values in columns.items()}) == whole
    # Nothing is left for the next computation.
    assert module.compute(**{name: values[:1] for name, values in columns.items()}) != whole


def test_modules_combine() -> None:
    run = evaluate.combine([Forgetting(), BackwardTransfer()]).compute(accuracy_matrix=MATRIX)
    assert run == {"forgetting": forgetting(MATRIX), "backward_transfer": backward_transfer(MATRIX)}
    model = evaluate.combine([TopKAccuracy(), ExpectedCalibrationError()])
    model.add(prediction=[-1e4, 1e4], reference=1)
    model.add_batch(predictions=[[1e4, -1e4]], references=[0])
    assert model.compute() == {"top_k_accuracy": 1, "expected_calibration_error": 0}


def test_modules_describe_themselves_with_examples_that_work() -> None:
    assert doctest.testmod(modules) == (0, 1)
    module = AverageIncrementalAccuracy()
    assert module.description and module.citation and "accuracy_matrix (`list" in module.compute.__doc__


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from training.metrics import forgetting
assert "evaluate" not in sys.modules, "the functions do not need it, and it is slow"
from training.metrics import *
Forgetting().compute(accuracy_matrix=[[1.0], [0.5, 1.0]])
TopKAccuracy().compute(predictions=[[1.0, 0.0]], references=[0])
"""


def test_nothing_is_written_and_no_network_is_needed(root: Path, tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = warm_python().run(["-c", OFFLINE], root, without_hub_settings() | home, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
