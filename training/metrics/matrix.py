"""The accuracy matrix of a run and the accuracies on all classes seen, from single predictions or from one another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.metrics.checks import (
    check_accuracy_matrix,
    check_class_ranges,
    check_same_length,
    check_whole_numbers,
)


@dataclass(frozen=True)
class RunPredictions:
    """
    What the models of a run predicted, image by image. An image counts once for each step after which it was seen.

    Args:
        correct (`np.ndarray` of shape `(n,)`, bool): whether the predicted label id is the true one.
        steps (`np.ndarray` of shape `(n,)`): the step, from 1, after which the prediction was made.
        class_steps (`np.ndarray` of shape `(n,)`): the step, from 1, that the true class belongs to.
    """

    correct: np.ndarray
    steps: np.ndarray
    class_steps: np.ndarray

    @classmethod
    def check(
        cls, predictions: Any, references: Any, steps: Any, class_ranges: Sequence[Sequence[int]] | None
    ) -> "RunPredictions":
        """
        Makes them of label ids.

        Args:
            predictions, references (`(n,)`): predicted and true label ids.
            steps (`(n,)`): the step, from 1, after which each prediction was made.
            class_ranges: for each step its half-open range `[start, stop)` of label ids.

        Raises:
            ValueError: lengths differ; a step has no class range; a label id is not known after its step; or no
                prediction was made after some step on images of some earlier step's classes.
        """
        ranges = check_class_ranges(class_ranges)
        made = check_whole_numbers(steps, "steps", 1, len(ranges) + 1)
        predicted = check_whole_numbers(predictions, "predictions", 0, ranges[-1][1])
        true = check_whole_numbers(references, "references", 0, ranges[-1][1])
        check_same_length(predictions=predicted, references=true, steps=made)
        stops = np.array([stop for _, stop in ranges])
        _check_known(predicted, "predictions", made, stops)
        _check_known(true, "references", made, stops)
        run = cls(predicted == true, made, np.searchsorted(stops, true, side="right") + 1)
        run._check_complete()
        return run

    @property
    def num_steps(self) -> int:
        """Steps so far."""
        return int(self.steps.max())

    def accuracy_matrix(self) -> list[list[float]]:
        """`matrix[i][j]`: accuracy after step i + 1 on the images of step j + 1's classes."""
        steps = range(1, self.num_steps + 1)
        return [[float(self.correct[self._cell(after, of)].mean()) for of in steps[:after]] for after in steps]

    def accuracies(self) -> list[float]:
        """Accuracy on all images after each step; every image weighs the same."""
        return [float(self.correct[self.steps == step].mean()) for step in range(1, self.num_steps + 1)]

    def _cell(self, after: int, of: int) -> np.ndarray:
        return (self.steps == after) & (self.class_steps == of)

    def _check_complete(self) -> None:
        for after in range(1, self.num_steps + 1):
            for of in range(1, after + 1):
                if not self._cell(after, of).any():
                    raise ValueError(
                        f"There are 0 predictions after step {after} on images of step {of}'s classes, expected at "
                        f"least one: evaluate the model of every step on the classes of all steps up to it."
                    )


def accuracies_from_matrix(matrix: Sequence[Sequence[float]], num_images: Sequence[int] | None = None) -> list[float]:
    """
    Accuracy on all classes seen after each step, from the accuracy matrix: after step i the mean over j <= i of
    `a[i][j]`, weighted by the images of step j's classes.

    Args:
        matrix (`Sequence[Sequence[float]]`): the accuracy matrix.
        num_images (`Sequence[int]`, *optional*): test images of each step's classes. By default each step has equally
            many.

    Raises:
        ValueError: the matrix is not lower triangular, a value is outside 0..1, or there is not one positive number
            of images for each step.
    """
    matrix = check_accuracy_matrix(matrix)
    weights = check_whole_numbers([1] * len(matrix) if num_images is None else num_images, "num_images", 1)
    if len(weights) != len(matrix):
        raise ValueError(
            f"num_images holds {len(weights)} value(s), expected {len(matrix)}: give the test images of each step's "
            "classes, one number a row of the matrix."
        )
    return [float(np.average(row, weights=weights[: len(row)])) for row in matrix]


def _check_known(labels: np.ndarray, name: str, steps: np.ndarray, stops: np.ndarray) -> None:
    unknown = labels >= stops[steps - 1]
    if unknown.any():
        position = int(unknown.argmax())
        step = int(steps[position])
        raise ValueError(
            f"{name}[{position}] is {labels[position]}, expected a label id below {stops[step - 1]}, as after step "
            f"{step} no other class is known: leave out images of later classes, or correct steps or class_ranges."
        )
