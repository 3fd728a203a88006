"""
Metrics of a run as modules of `evaluate`, each from the accuracy matrix of the run or from its single predictions.

    >>> Forgetting().compute(accuracy_matrix=[[1.0], [0.5, 0.75]])
    {'forgetting': 0.5}
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from training.metrics.continual import (
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forgetting_as_published,
    last_accuracy,
)
from training.metrics.matrix import RunPredictions, accuracies_from_matrix
from training.metrics.module import WHOLE_NUMBERS, Column, InMemoryMetric


REBUFFI_2017 = "Rebuffi et al. iCaRL: Incremental Classifier and Representation Learning. CVPR 2017."
CHAUDHRY_2018 = (
    "Chaudhry et al. Riemannian Walk for Incremental Learning: Understanding Forgetting and Intransigence. ECCV 2018."
)
LOPEZ_PAZ_2017 = "Lopez-Paz and Ranzato. Gradient Episodic Memory for Continual Learning. NeurIPS 2017."


class RunMetric(InMemoryMetric):
    """What the metrics of a run have in common: `compute` takes an accuracy matrix or predictions, never both."""

    formula: ClassVar[Callable[..., float | None]]

    def columns(self) -> dict[str, Column]:
        """Predicted and true label ids, and the step after which each prediction was made."""
        return dict.fromkeys(("predictions", "references", "steps"), WHOLE_NUMBERS)

    def compute(
        self,
        *,
        predictions: Any = None,
        references: Any = None,
        accuracy_matrix: Sequence[Sequence[float]] | None = None,
        **options: Any,
    ) -> dict[str, float | None] | None:
        """
        Computes the metric.

        Raises:
            ValueError: there is both a matrix and predictions, neither of them, or a value cannot be used.
        """
        if accuracy_matrix is None:
            return super().compute(predictions=predictions, references=references, **options)
        given = {"predictions": predictions, "references": references, **options}
        of_images = [name for name in (*self.columns(), "class_ranges") if given.pop(name, None) is not None]
        if self.writer is not None or of_images:
            raise ValueError(
                f"accuracy_matrix came together with {', '.join(of_images) or 'predictions added before'}, expected "
                "one or the other: leave one out."
            )
        return {self.name: self._of_matrix(accuracy_matrix, **given)}

    def _compute(
        self,
        *,
        predictions: Any,
        references: Any,
        steps: Any,
        class_ranges: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, float | None]:
        return {self.name: self._of_run(RunPredictions.check(predictions, references, steps, class_ranges))}

    def _of_matrix(self, matrix: Sequence[Sequence[float]]) -> float | None:
        return type(self).formula(matrix)

    def _of_run(self, run: RunPredictions) -> float | None:
        return type(self).formula(run.accuracy_matrix())


class _RunMetricOfAllSeen(RunMetric):
    """A metric of the accuracies on all classes seen, which weigh every image the same."""

    def _of_matrix(self, matrix: Sequence[Sequence[float]], num_images: Sequence[int] | None = None) -> float | None:
        return type(self).formula(accuracies_from_matrix(matrix, num_images))

    def _of_run(self, run: RunPredictions) -> float | None:
        return type(self).formula(run.accuracies())


class AverageIncrementalAccuracy(_RunMetricOfAllSeen):
    """
    Average incremental accuracy ("Avg"; Rebuffi et al., CVPR 2017): the mean over the steps, the first included, of
    the accuracy on all classes seen, see [`average_incremental_accuracy`]. In 0..1.

    Args of `compute`, either:
        accuracy_matrix (`list[list[float]]`): row i holds the accuracy after step i + 1 on the classes of each step
            so far, among all classes seen.
        num_images (`list[int]`, *optional*): test images of each step's classes, which weigh the values of a row. By
            default each step is taken to have equally many.
    or:
        predictions, references (`list[int]`): predicted and true label ids. Every image weighs the same.
        steps (`list[int]`): the step, from 1, after which each prediction was made.
        class_ranges (`list[list[int]]`): for each step the half-open range `[start, stop)` of its label ids.

    Returns:
        `{"average_incremental_accuracy": float}`

    Raises:
        ValueError: the matrix is not lower triangular, a value is outside 0..1, lengths differ, a label id is not
            known after its step, or a step was not evaluated on all steps before.

    Example:

    ```python
    >>> AverageIncrementalAccuracy().compute(accuracy_matrix=[[0.9], [0.7, 0.8]], num_images=[100, 100])
    {'average_incremental_accuracy': 0.825}
    ```
    """

    citation = REBUFFI_2017
    formula = staticmethod(average_incremental_accuracy)


class LastAccuracy(_RunMetricOfAllSeen):
    """
    Last accuracy ("Last"): the accuracy on all classes after the last step, see [`last_accuracy`]. In 0..1.

    Args of `compute`: as for [`AverageIncrementalAccuracy`].

    Returns:
        `{"last_accuracy": float}`

    Raises:
        ValueError: as for [`AverageIncrementalAccuracy`].
    """

    formula = staticmethod(last_accuracy)


class Forgetting(RunMetric):
    """
    Forgetting (Chaudhry et al., ECCV 2018, equation 3): with k steps, the mean over j < k of
    `max_{j <= l < k} a[l][j] - a[k][j]`, see [`forgetting`]. In -1..1; 0 after the first step.

    Args of `compute`: as for [`AverageIncrementalAccuracy`], without `num_images`: every step counts the same.

    Returns:
        `{"forgetting": float}`

    Raises:
        ValueError: as for [`AverageIncrementalAccuracy`].

    Example:

    ```python
    >>> Forgetting().compute(
    ...     predictions=[0, 1, 2, 1, 2, 3],
    ...     references=[0, 1, 0, 1, 2, 3],
    ...     steps=[1, 1, 2, 2, 2, 2],
    ...     class_ranges=[[0, 2], [2, 4]],
    ... )
    {'forgetting': 0.5}
    ```
    """

    citation = CHAUDHRY_2018
    formula = staticmethod(forgetting)


class ForgettingAsPublished(RunMetric):
    """
    Forgetting as the authors' code logs it, for comparison with published logs only: step k - 1 is left out, see
    [`forgetting_as_published`]. In -1..1; 0 after the first two steps.

    Args of `compute`: as for [`Forgetting`].

    Returns:
        `{"forgetting_as_published": float}`

    Raises:
        ValueError: as for [`AverageIncrementalAccuracy`].
    """

    citation = CHAUDHRY_2018
    formula = staticmethod(forgetting_as_published)


class BackwardTransfer(RunMetric):
    """
    Backward transfer (Lopez-Paz and Ranzato, NeurIPS 2017): with k steps, the mean over j < k of
    `a[k][j] - a[j][j]`, see [`backward_transfer`]. In -1..1; 0 after the first step.

    Args of `compute`: as for [`Forgetting`].

    Returns:
        `{"backward_transfer": float}`

    Raises:
        ValueError: as for [`AverageIncrementalAccuracy`].
    """

    citation = LOPEZ_PAZ_2017
    formula = staticmethod(backward_transfer)
