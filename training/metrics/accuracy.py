"""Accuracies of one model from its logits: among the best k classes, and with the step of each image given."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.metrics.checks import check_class_ranges, check_scored_labels


def top_k_accuracy(logits: Any, labels: Any, k: int = 5) -> float:
    """
    Share of images for which fewer than k classes score higher than the true one (Russakovsky et al., IJCV 2015, with
    k = 5). Classes with equal scores do not outrank one another.

    Args:
        logits (`(n, C)`): scores of all classes seen.
        labels (`(n,)`): label ids.
        k (`int`): from 1.

    Returns:
        `float`: the share, in 0..1; 1 where there are at most k classes.

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
        labels (`(n,)`): label ids; each gives the step of its image.
        class_ranges (`Sequence[Sequence[int]]`): for each step the half-open range `[start, stop)` of its label ids;
            together the C classes.

    Returns:
        `np.ndarray` of shape `(n,)`: predicted label ids.

    Raises:
        ValueError: lengths differ, a score is not finite, a label id is not in 0..C-1, or the class ranges do not
            cover the C classes.
    """
    logits, labels = check_scored_labels(logits, labels)
    predictions = np.empty(len(labels), dtype=np.int64)
    for start, stop in check_class_ranges(class_ranges, num_classes=logits.shape[1]):
        in_step = (labels >= start) & (labels < stop)
        predictions[in_step] = start + logits[in_step, start:stop].argmax(axis=1)
    return predictions
