"""
Metrics over the steps of a run.

The accuracy matrix has one row for each step: `matrix[i][j]` is the accuracy after step i + 1 on the test images of
the classes of step j + 1 (j <= i), among all classes seen by then. All values are fractions in 0..1. In the formulas
steps count from 1: `a[l][j]` is the accuracy after step l on the classes of step j.
"""

from collections.abc import Sequence

from training.metrics.checks import check_accuracies, check_accuracy_matrix


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


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """
    Mean over the earlier steps of what was lost since their best: with k steps, the mean over j < k of
    `max_{j <= l < k} a[l][j] - a[k][j]` (Chaudhry et al., ECCV 2018, equation 3). In -1..1, negative where the last
    step is the best; 0 after the first step.

    Args:
        matrix (`Sequence[Sequence[float]]`): the accuracy matrix.

    Raises:
        ValueError: the matrix is not lower triangular, or a value is outside 0..1.
    """
    matrix = check_accuracy_matrix(matrix)
    earlier, last = matrix[:-1], matrix[-1]
    losses = [max(row[step] for row in earlier[step:]) - last[step] for step in range(len(earlier))]
    return sum(losses) / len(losses) if losses else 0.0


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


def backward_transfer(matrix: Sequence[Sequence[float]]) -> float:
    """
    Mean over the earlier steps of the change since they were learned: with k steps, the mean over j < k of
    `a[k][j] - a[j][j]` (Lopez-Paz and Ranzato, NeurIPS 2017). In -1..1, negative where old classes got worse; 0 after
    the first step.

    Args:
        matrix (`Sequence[Sequence[float]]`): the accuracy matrix.

    Raises:
        ValueError: the matrix is not lower triangular, or a value is outside 0..1.
    """
    matrix = check_accuracy_matrix(matrix)
    last = matrix[-1]
    changes = [last[step] - row[step] for step, row in enumerate(matrix[:-1])]
    return sum(changes) / len(changes) if changes else 0.0
