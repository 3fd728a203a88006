"""
Metrics over the steps of a run.

The accuracy matrix has one row for each step: `matrix[i][j]` is the accuracy after step i + 1 on the test images of
the classes of step j + 1 (j <= i), among all classes seen by then. All values are fractions in 0..1. In the formulas
steps count from 1: `a[l][j]` is the accuracy after step l on the classes of step j.

A step that continues a model of another data set may have no test images of earlier classes: the cell is None then.
"""

from collections.abc import Sequence

from training.metrics.checks import check_accuracies, check_accuracy_matrix, check_partial_matrix


def average_incremental_accuracy(accuracies: Sequence[float]) -> float:
    """
    Mean over the steps, the first included, of the accuracy on all classes seen ("Avg"; Rebuffi et al., CVPR 2017).
    In 0..1.

    Args:
        accuracies (`Sequence[float]`): accuracy on all classes seen, after each step.

    Raises:
        ValueError: there is no accuracy, or one is outside 0..1.
    """
    accuracies = check_accuracies(accuracies)
    return sum(accuracies) / len(accuracies)


def last_accuracy(accuracies: Sequence[float]) -> float:
    """
    Accuracy on all classes after the last step ("Last"). In 0..1.

    Args:
        accuracies (`Sequence[float]`): accuracy on all classes seen, after each step.

    Raises:
        ValueError: there is no accuracy, or one is outside 0..1.
    """
    return check_accuracies(accuracies)[-1]


def forgetting(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """
    Mean over the earlier steps of what was lost since their best: with k steps, the mean over j < k of
    `max_{j <= l < k} a[l][j] - a[k][j]` (Chaudhry et al., ECCV 2018, equation 3). In -1..1, negative where the last
    step is the best; 0 after the first step. The mean is over the earlier steps that were measured after step k, the
    best over the steps after which they were; None where none was.

    Args:
        matrix (`Sequence[Sequence[float | None]]`): the accuracy matrix.

    Raises:
        ValueError: the matrix is not lower triangular, or a value is outside 0..1.
    """
    *earlier, last = check_partial_matrix(matrix)
    losses = [_best(earlier, step) - now for step, now in enumerate(last[:-1]) if now is not None]
    return _mean_or_none(losses, earlier)


def forgetting_as_published(matrix: Sequence[Sequence[float]]) -> float:
    """
    Forgetting as the authors' code logs it, by continuum 1.2.7: with k steps,
    `sum_{j <= k - 2} (max_{j <= l <= k - 2} a[l][j] - a[k][j]) / (k - 1)`. It differs from [`forgetting`], the
    definition that it cites, in leaving out step k - 1, both as a step whose loss counts and as one that may have been
    the best, while it still divides by k - 1. In -1..1; 0 after the first two steps. For comparison with published
    logs only.

    Args:
        matrix (`Sequence[Sequence[float]]`): the accuracy matrix.

    Raises:
        ValueError: the matrix is not lower triangular, or a value is outside 0..1.
    """
    matrix = check_accuracy_matrix(matrix)
    earlier, last = matrix[:-2], matrix[-1]
    losses = [max(row[step] for row in earlier[step:]) - last[step] for step in range(len(earlier))]
    return sum(losses) / (len(matrix) - 1) if losses else 0.0


def backward_transfer(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """
    Mean over the earlier steps of the change since they were learned: with k steps, the mean over j < k of
    `a[k][j] - a[j][j]` (Lopez-Paz and Ranzato, NeurIPS 2017). In -1..1, negative where old classes got worse; 0 after
    the first step. The mean is over the earlier steps that were measured after step k; None where none was.

    Args:
        matrix (`Sequence[Sequence[float | None]]`): the accuracy matrix.

    Raises:
        ValueError: the matrix is not lower triangular, or a value is outside 0..1.
    """
    *earlier, last = check_partial_matrix(matrix)
    pairs = [(row[-1], now) for row, now in zip(earlier, last, strict=False)]
    return _mean_or_none([now - first for first, now in pairs if now is not None and first is not None], earlier)


def _best(rows: Sequence[Sequence[float | None]], step: int) -> float:
    return max(value for row in rows[step:] if (value := row[step]) is not None)


def _mean_or_none(values: Sequence[float], earlier: Sequence[object]) -> float | None:
    """Mean over the earlier steps measured; 0 where there is no earlier step, None where there is but unmeasured."""
    if not earlier:
        return 0.0
    return sum(values) / len(values) if values else None
