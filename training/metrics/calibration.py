"""How far a model's confidence can be believed."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from training.metrics.checks import check_class_ranges, check_fractions, check_same_length, check_whole_numbers


class ReliabilityBin(TypedDict):
    """The predictions whose confidence lies in one bin: their means, in 0..1, and how many there are."""

    confidence: float
    accuracy: float
    count: int


def sigmoid_confidences(logits: np.ndarray) -> np.ndarray:
    """
    `(n,)` confidence of each prediction: the sigmoid of its largest logit, in 0..1, as every class has a sigmoid of
    its own.

    Args:
        logits (`np.ndarray` of shape `(n, C)`): of all classes seen.
    """
    largest = logits.max(axis=1).astype(np.float64)
    # Unlike 1 / (1 + exp(-x)) this never overflows.
    return np.exp(-np.logaddexp(0, -largest))


def reliability_bins(confidences: Any, correct: Any, num_bins: int = 15) -> list[ReliabilityBin]:
    """
    Mean confidence and accuracy over bins of equal width, from low confidence to high: the points of a reliability
    diagram (Guo et al., ICML 2017, figure 1). Bins without images are left out.

    Args:
        confidences (`(n,)`): score of the predicted class, in 0..1. Bins are open at the lower end.
        correct (`(n,)`): whether the prediction is right.
        num_bins (`int`): bins between 0 and 1.

    Raises:
        ValueError: there is no bin or no image, lengths differ, or a confidence is outside 0..1.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}, expected a whole number of 1 or more: give e.g. 15.")
    confidences, correct = check_fractions(confidences, "confidences"), check_whole_numbers(correct, "correct", 0, 2)
    check_same_length(confidences=confidences, correct=correct)
    bins = np.clip(np.ceil(confidences * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    sums = [np.bincount(bins, weights=values, minlength=num_bins) for values in (confidences, correct)]
    return [
        {
            "confidence": float(sums[0][held] / counts[held]),
            "accuracy": float(sums[1][held] / counts[held]),
            "count": int(counts[held]),
        }
        for held in np.flatnonzero(counts)
    ]


def expected_calibration_error(confidences: Any, correct: Any, num_bins: int = 15) -> float:
    """
    Mean distance between confidence and accuracy over bins of equal width, weighted by the images in each
    (Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3):
    `sum_b n_b / n * |accuracy_b - mean confidence_b|`. In 0..1; 0 for a model whose confidence is its accuracy.

    Args:
        confidences, correct, num_bins: as for [`reliability_bins`].

    Raises:
        ValueError: as for [`reliability_bins`].
    """
    bins = reliability_bins(confidences, correct, num_bins)
    gaps = sum(held["count"] * abs(held["accuracy"] - held["confidence"]) for held in bins)
    return gaps / sum(held["count"] for held in bins)


def expected_calibration_error_per_step(
    confidences: Any, correct: Any, labels: Any, class_ranges: Sequence[Sequence[int]], num_bins: int = 15
) -> list[float | None]:
    """
    [`expected_calibration_error`] on the images of each step's classes; None for a step without images.

    Args:
        confidences, correct, num_bins: as above.
        labels (`(n,)`): label ids; each tells the step of its image.
        class_ranges: for each step its half-open range `[start, stop)` of label ids.

    Raises:
        ValueError: as above, or a label id is outside the class ranges.
    """
    ranges = check_class_ranges(class_ranges)
    labels = check_whole_numbers(labels, "labels", 0, ranges[-1][1])
    confidences, correct = check_fractions(confidences, "confidences"), check_whole_numbers(correct, "correct", 0, 2)
    check_same_length(confidences=confidences, correct=correct, labels=labels)
    of_steps = [(labels >= start) & (labels < stop) for start, stop in ranges]
    return [
        expected_calibration_error(confidences[of_step], correct[of_step], num_bins) if of_step.any() else None
        for of_step in of_steps
    ]
