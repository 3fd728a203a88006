"""
Metrics over the steps of a run.

The accuracy matrix has one row for each step: `matrix[i][j]` is the accuracy after step i + 1 on the test images of
the classes of step j + 1 (j <= i), among all classes seen by then. All values are fractions in 0..1. In the formulas
steps count from 1: `a[l][j]` is the accuracy after step l on the classes of step j. After each step k the metrics are
those of `matrix[:k]`.

A value that was not measured is None, as where a step's classes have no test images. A metric is None where a term is
missing: no number says more than was measured.
"""

from collections.abc import Sequence

import numpy as np

from training.metrics.checks import check_accuracies, check_accuracy_matrix


def average_incremental_accuracy(accuracies: Sequence[float | None]) -> float | None:
    """
    Mean over the steps, the first included, of the accuracy on all classes seen ("Avg"; Rebuffi et al., CVPR 2017).

    Args:
        accuracies (`Sequence[float | None]`): accuracy on all classes seen, after each step.

    Returns:
        `float`, *optional*: the mean in 0..1; None where an accuracy is.

    Raises:
        ValueError: there is no accuracy, or one is outside 0..1.
    """
    return _mean(check_accuracies(accuracies))


def last_accuracy(accuracies: Sequence[float | None]) -> float | None:
    """
    Accuracy on all classes after the last step ("Last"), in 0..1; None where it was not measured. Arguments and errors
    are those of [`average_incremental_accuracy`].
    """
    return _mean(check_accuracies(accuracies)[-1:])


def forgetting(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """
    Mean over the earlier steps of what was lost since their best: with k steps, the mean over j < k of
    `max_{j <= l < k} a[l][j] - a[k][j]` (Chaudhry et al., ECCV 2018, equation 3).

    Args:
        matrix (`Sequence[Sequence[float | None]]`): the accuracy matrix.

    Returns:
        `float`, *optional*: the mean in -1..1, negative where the last step is the best; None after the first step,
        and where an accuracy on the classes of an earlier step is missing.

    Raises:
        ValueError: the matrix is not lower triangular, or a value is outside 0..1.
    """
    *earlier, last = check_accuracy_matrix(matrix)
    # `np.max`, unlike `max`, is nan where one of its values is.
    best = [np.max([row[step] for row in earlier[step:]]) for step in range(len(earlier))]
    return _mean([before - now for before, now in zip(best, last, strict=False)])


def backward_transfer(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """
    Mean over the earlier steps of the change since they were learned: with k steps, the mean over j < k of
    `a[k][j] - a[j][j]` (Lopez-Paz and Ranzato, NeurIPS 2017).

    Args:
        matrix (`Sequence[Sequence[float | None]]`): the accuracy matrix.

    Returns:
        `float`, *optional*: the mean in -1..1, negative where old classes got worse; None after the first step, and
        where an accuracy on the classes of an earlier step, right after it or after step k, is missing.

    Raises:
        ValueError: as for [`forgetting`].
    """
    *earlier, last = check_accuracy_matrix(matrix)
    return _mean([now - row[-1] for row, now in zip(earlier, last, strict=False)])


def _mean(terms: Sequence[float]) -> float | None:
    return float(sum(terms) / len(terms)) if len(terms) and not np.isnan(terms).any() else None
