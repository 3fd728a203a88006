"""
Metrics over the steps of a run.

The accuracy matrix has one row for each step: `matrix[i][j]` is the accuracy after step i + 1 on the test images of
the classes of step j + 1 (j <= i), among all classes seen by then. All values are fractions in 0..1.
"""

from collections.abc import Sequence


def average_incremental_accuracy(accuracies: Sequence[float]) -> float:
    """
    Mean over the steps, the first included, of the accuracy on all classes seen ("Avg"; Rebuffi et al., CVPR 2017).

    Args:
        accuracies (`Sequence[float]`): accuracy on all classes seen, after each step.
    """
    return sum(accuracies) / len(accuracies)


def last_accuracy(accuracies: Sequence[float]) -> float:
    """Accuracy on all classes after the last step ("Last")."""
    return accuracies[-1]


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """
    Mean over the earlier steps of what was lost since their best: with k steps, the mean over j < k of
    `max_{l < k} a[l][j] - a[k][j]` (Chaudhry et al., ECCV 2018). 0 after the first step.
    """
    earlier, last = matrix[:-1], matrix[-1]
    losses = [max(row[step] for row in earlier[step:]) - last[step] for step in range(len(earlier))]
    return sum(losses) / len(losses) if losses else 0.0


def backward_transfer(matrix: Sequence[Sequence[float]]) -> float:
    """
    Mean over the earlier steps of the change since they were learned: with k steps, the mean over j < k of
    `a[k][j] - a[j][j]` (Lopez-Paz and Ranzato, NeurIPS 2017). 0 after the first step.
    """
    last = matrix[-1]
    changes = [last[step] - row[step] for step, row in enumerate(matrix[:-1])]
    return sum(changes) / len(changes) if changes else 0.0
