"""How far a model's confidence can be believed."""

from typing import Any, TypedDict

import numpy as np

from hub.run.results import NUM_CALIBRATION_BINS
from training.metrics.checks import check_fractions, check_same_length, check_whole_numbers


class ReliabilityBin(TypedDict):
    """The predictions whose confidence lies in one bin: their means, in 0..1, and how many there are."""

    confidence: float
    accuracy: float
    count: int


def sigmoid_confidences(logits: np.ndarray) -> np.ndarray:
    """
    Confidence of each prediction where every class has a sigmoid of its own: the sigmoid of the largest logit.

    Args:
        logits (`np.ndarray` of shape `(n, C)`): scores of all classes seen.

    Returns:
        `np.ndarray` of shape `(n,)`: confidences in 0..1.
    """
    largest = logits.max(axis=1).astype(np.float64)
    # Unlike 1 / (1 + exp(-x)) this never overflows.
    return np.exp(-np.logaddexp(0, -largest))


def softmax_confidences(logits: np.ndarray) -> np.ndarray:
    """
    Confidence of each prediction where the classes compete: the softmax score of the largest logit.

    Args:
        logits (`np.ndarray` of shape `(n, C)`): scores of all classes seen.

    Returns:
        `np.ndarray` of shape `(n,)`: confidences in 0..1.
    """
    differences = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return 1 / np.exp(differences).sum(axis=1)


def confidences_of(logits: np.ndarray, problem_type: str | None) -> np.ndarray:
    """
    Confidence of each prediction as pipelines of transformers show it.

    Args:
        logits (`np.ndarray` of shape `(n, C)`): scores of all classes seen.
        problem_type (`str`, *optional*): of the model's config.

    Returns:
        `np.ndarray` of shape `(n,)`: confidences in 0..1.
    """
    return (sigmoid_confidences if _is_sigmoid(logits, problem_type) else softmax_confidences)(logits)


def scores_of(logits: np.ndarray, problem_type: str | None) -> np.ndarray:
    """
    Scores of all classes as pipelines of transformers show them.

    Args:
        logits (`np.ndarray` of shape `(n, C)`): scores of all classes seen.
        problem_type (`str`, *optional*): of the model's config.

    Returns:
        `np.ndarray` of shape `(n, C)`: scores in 0..1, in single precision.
    """
    logits = logits.astype(np.float64)
    if _is_sigmoid(logits, problem_type):
        scores = np.exp(-np.logaddexp(0, -logits))
    else:
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    return scores.astype(np.float32)


def _is_sigmoid(logits: np.ndarray, problem_type: str | None) -> bool:
    """Whether each class has a sigmoid of its own; else they compete in a softmax."""
    return problem_type == "multi_label_classification" or logits.shape[1] == 1


def reliability_bins(confidences: Any, correct: Any, num_bins: int = NUM_CALIBRATION_BINS) -> list[ReliabilityBin]:
    """
    Mean confidence and accuracy over bins of equal width: the points of a reliability diagram (Guo et al., ICML 2017,
    figure 1).

    Args:
        confidences (`(n,)`): score of the predicted class, in 0..1. Bins are open at the lower end.
        correct (`(n,)`): whether the prediction is right.
        num_bins (`int`): bins between 0 and 1.

    Returns:
        `list[ReliabilityBin]`: the bins that have images, from low confidence to high.

    Raises:
        ValueError: there is no bin or no image, lengths differ, or a confidence is outside 0..1.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}, expected a whole number of 1 or more: give e.g. 15.")
    confidences = check_fractions(confidences, "confidences")
    correct = check_whole_numbers(correct, "correct", stop=2, advice="give 1 where the prediction is right, else 0")
    check_same_length(confidences=confidences, correct=correct)
    bins = np.clip(np.ceil(confidences * num_bins).astype(int) - 1, 0, num_bins - 1)
    totals = zip(*(np.bincount(bins, weights) for weights in (confidences, correct, None)), strict=True)
    return [
        {"confidence": float(confidence / count), "accuracy": float(right / count), "count": int(count)}
        for confidence, right, count in totals
        if count
    ]


def expected_calibration_error(confidences: Any, correct: Any, num_bins: int = NUM_CALIBRATION_BINS) -> float:
    """
    Mean distance between confidence and accuracy over bins of equal width, weighted by the images in each
    (Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3):
    `sum_b n_b / n * |accuracy_b - mean confidence_b|`. In 0..1; 0 for a model whose confidence is its accuracy.
    Arguments and errors are those of [`reliability_bins`].
    """
    bins = reliability_bins(confidences, correct, num_bins)
    gaps = sum(points["count"] * abs(points["accuracy"] - points["confidence"]) for points in bins)
    return gaps / sum(points["count"] for points in bins)
