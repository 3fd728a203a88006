"""Metrics against hand-worked cases and independent oracles."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from training.evaluation import summarize
from training.metrics import (
    average_incremental_accuracy,
    backward_transfer,
    expected_calibration_error,
    forgetting,
    last_accuracy,
)


# Three steps. Step 1 was best after step 2 (0.9) and ends at 0.5; step 2 falls from 0.8 to 0.7.
MATRIX = [[0.8], [0.9, 0.8], [0.5, 0.7, 0.6]]


def test_hand_worked_case() -> None:
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.7)) / 2)
    assert backward_transfer(MATRIX) == pytest.approx(((0.5 - 0.8) + (0.7 - 0.8)) / 2)
    assert average_incremental_accuracy([0.8, 0.85, 0.6]) == pytest.approx(0.75)
    assert last_accuracy([0.8, 0.85, 0.6]) == 0.6


def test_one_step_forgets_nothing() -> None:
    assert forgetting([[0.7]]) == 0 and backward_transfer([[0.7]]) == 0


def test_forgetting_and_transfer_against_matrix_algebra() -> None:
    matrix = np.tril(np.random.default_rng(0).random((6, 6)))
    rows = [matrix[step, : step + 1].tolist() for step in range(6)]
    lost = matrix[:5, :5].max(axis=0) - matrix[5, :5]
    assert forgetting(rows) == pytest.approx(lost.mean())
    assert backward_transfer(rows) == pytest.approx((matrix[5, :5] - matrix.diagonal()[:5]).mean())


def test_calibration_error_against_torchmetrics() -> None:
    generator = np.random.default_rng(1)
    confidences = generator.random(500)
    correct = generator.random(500) < confidences**2
    oracle = binary_calibration_error(torch.from_numpy(confidences), torch.from_numpy(correct).long(), n_bins=15)
    assert expected_calibration_error(confidences, correct) == pytest.approx(oracle.item(), abs=1e-6)


def test_summary_of_logits() -> None:
    logits = np.array([[3.0, 0, 0, 0, 0, 0, -1], [0, 3, 0, 0, 0, 0, -1], [5, 4, 3, 2, 1, 0, 6], [9, 8, 7, 6, 5, 4, 0]])
    labels, steps = np.array([0, 0, 6, 6]), np.array([0, 0, 1, 1])
    summary = summarize(logits, labels, steps)
    assert summary.accuracy == 0.5
    assert summary.accuracy_per_step == [0.5, 0.5]
    # The last image's class is the seventh of seven by score.
    assert summary.top5_accuracy == 0.75
