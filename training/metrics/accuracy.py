"""Accuracies of one model from its logits: among the best few classes, and with the step of each image given."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.metrics.checks import check_class_ranges, check_logits, check_same_length, check_whole_numbers


def top_k_accuracy(logits: Any, labels: Any, k: int = 5) -> float:
    """
    Share of images for which fewer than k classes score higher than the true one (Russakovsky et al., IJCV 2015, with
    k = 5). In 0..1; 1 where there are at most k classes. Of classes with equal scores none is above the other.

    Args:
        logits (`(n, C)`): scores of all classes seen.
        labels (`(n,)`): label ids.
        k (`int`): from 1.

    Raises:
        ValueError: k is below 1, lengths differ, a score is not finite, or a label id is not in 0..C-1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected a whole number of 1 or more: give e.g. 5.")
    logits, labels = check_scored_labels(logits, labels)
    higher = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    return float((higher < k).mean())


def task_aware_predictions(logits: Any, labels: Any, class_ranges: Sequence[Sequence[int]]) -> np.ndarray:
    """
    Predictions with the step of each image given: the largest logit among the classes of that step alone. This is
    task-incremental learning (van de Ven et al., Nature Machine Intelligence 2022), an easier problem than
    class-incremental learning, where the step of an image is not known.

    Args:
        logits (`(n, C)`): scores of all classes seen.
        labels (`(n,)`): label ids; each tells the step of its image.
        class_ranges: for each step its half-open range `[start, stop)` of label ids; together the C classes.

    Returns:
        `np.ndarray` of shape `(n,)`: predicted label ids.

    Raises:
        ValueError: lengths differ, a score is not finite, a label id is not in 0..C-1, or the class ranges do not
            cover the C classes.
    """
    logits, labels = check_scored_labels(logits, labels)
    ranges = check_ranges_of(logits, class_ranges)
    predictions = np.empty(len(labels), dtype=np.int64)
    for start, stop in ranges:
        of_step = (labels >= start) & (labels < stop)
        predictions[of_step] = start + logits[of_step, start:stop].argmax(axis=1)
    return predictions


def check_scored_labels(
    logits: Any, labels: Any, names: tuple[str, str] = ("logits", "labels")
) -> tuple[np.ndarray, np.ndarray]:
    """
    Logits `(n, C)` and label ids `(n,)` as arrays.

    Raises:
        ValueError: lengths differ, a score is not finite, or a label id is not in 0..C-1.
    """
    scores = check_logits(logits, names[0])
    label_ids = check_whole_numbers(labels, names[1], 0, scores.shape[1] or None)
    check_same_length(**{names[0]: scores, names[1]: label_ids})
    return scores, label_ids


def check_ranges_of(logits: np.ndarray, class_ranges: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """
    The class ranges as pairs.

    Raises:
        ValueError: they are no class ranges, or do not cover the classes that the logits score.
    """
    ranges = check_class_ranges(class_ranges)
    if ranges[-1][1] != logits.shape[1]:
        raise ValueError(
            f"class_ranges ends at {ranges[-1][1]}, expected {logits.shape[1]}, as the logits score so many classes: "
            "give the ranges of the steps that this model has learned."
        )
    return ranges
