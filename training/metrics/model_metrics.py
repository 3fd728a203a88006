"""Metrics of one model, that of one step, as modules of `evaluate`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.metrics.accuracy import check_ranges_of, check_scored_labels, top_k_accuracy
from training.metrics.bias import OldNewBias as Bias
from training.metrics.bias import old_new_bias
from training.metrics.calibration import (
    expected_calibration_error,
    expected_calibration_error_per_step,
    sigmoid_confidences,
)
from training.metrics.checks import check_class_ranges, check_whole_numbers
from training.metrics.module import FRACTIONS, LOGITS, WHOLE_NUMBERS, Column, InMemoryMetric


class TopKAccuracy(InMemoryMetric):
    """
    Top-k accuracy (Russakovsky et al., IJCV 2015): the share of images for which fewer than k classes score higher
    than the true one, see [`top_k_accuracy`]. In 0..1.

    Args of `compute`:
        predictions (`list[list[float]]`): for each image the logits, or other scores, of all classes seen.
        references (`list[int]`): label ids.
        k (`int`, defaults to 5): from 1.

    Returns:
        `{"top_k_accuracy": float}`

    Raises:
        ValueError: k is below 1, lengths differ, a score is not finite, or a label id has no score.

    Example:

    ```python
    >>> TopKAccuracy().compute(predictions=[[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], references=[1, 2], k=2)
    {'top_k_accuracy': 0.5}
    ```
    """

    citation = "Russakovsky et al. ImageNet Large Scale Visual Recognition Challenge. IJCV 2015."

    def columns(self) -> dict[str, Column]:
        """Scores of all classes, and label ids."""
        return {"predictions": LOGITS, "references": WHOLE_NUMBERS}

    def _compute(self, *, predictions: Any, references: Any, k: int = 5) -> dict[str, float]:
        scores, label_ids = check_scored_labels(predictions, references, ("predictions", "references"))
        return {self.name: top_k_accuracy(scores, label_ids, k)}


class ExpectedCalibrationError(InMemoryMetric):
    """
    Expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3): the mean distance between
    confidence and accuracy over bins of equal width, weighted by the images in each, see
    [`expected_calibration_error`]. In 0..1.

    `ExpectedCalibrationError()` takes logits: the largest one is the prediction, and its sigmoid the confidence, as
    every class of DyTox has a sigmoid of its own. `ExpectedCalibrationError("confidences")` takes predictions with
    confidences of any origin.

    Args of `compute`:
        predictions: `list[list[float]]`, for each image the logits of all classes seen; for `"confidences"`
            `list[int]`, predicted label ids.
        references (`list[int]`): label ids.
        confidences (`list[float]`): for `"confidences"` alone: the score of each predicted label id, in 0..1.
        num_bins (`int`, defaults to 15): bins between 0 and 1.
        class_ranges (`list[list[int]]`, *optional*): for each step the half-open range `[start, stop)` of its label
            ids; adds the error on the images of each step's classes.

    Returns:
        `{"expected_calibration_error": float}`, and with class ranges `"expected_calibration_error_per_step"`,
        a `list[float | None]` with None for a step without images.

    Raises:
        ValueError: lengths differ, a logit is not finite, a confidence is outside 0..1, a label id has no logit or no
            class range, or the variant is unknown.

    Example:

    ```python
    >>> metric = ExpectedCalibrationError("confidences")
    >>> metric.compute(predictions=[0, 1], references=[0, 0], confidences=[0.75, 0.25], class_ranges=[[0, 2]])
    {'expected_calibration_error': 0.25, 'expected_calibration_error_per_step': [0.25]}
    ```
    """

    citation = (
        "Naeini et al. Obtaining Well Calibrated Probabilities Using Bayesian Binning. AAAI 2015. "
        "Guo et al. On Calibration of Modern Neural Networks. ICML 2017."
    )

    def columns(self) -> dict[str, Column]:
        """Logits and label ids; for the variant `"confidences"` predicted and true label ids and confidences."""
        if self.config_name == "confidences":
            return {"predictions": WHOLE_NUMBERS, "references": WHOLE_NUMBERS, "confidences": FRACTIONS}
        if self.config_name != "default":
            raise ValueError(f"The variant is {self.config_name!r}, expected 'confidences': leave it out for logits.")
        return {"predictions": LOGITS, "references": WHOLE_NUMBERS}

    def _compute(
        self,
        *,
        predictions: Any,
        references: Any,
        confidences: Any = None,
        num_bins: int = 15,
        class_ranges: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, Any]:
        if confidences is None:
            predictions, confidences = _predict(predictions, references, class_ranges)
        correct = np.equal(predictions, references)
        result: dict[str, Any] = {self.name: expected_calibration_error(confidences, correct, num_bins)}
        if class_ranges is not None:
            _check_labels(class_ranges, predictions=predictions, references=references)
            per_step = expected_calibration_error_per_step(confidences, correct, references, class_ranges, num_bins)
            result[f"{self.name}_per_step"] = per_step
        return result


class OldNewBias(InMemoryMetric):
    """
    Old-new bias, defined here: the share of images predicted as a class of the newest step, less the share that are,
    see [`old_new_bias`]. In -1..1; positive where the model favours new classes, 0 where it predicts them as often as
    they occur.

    Args of `compute`:
        predictions, references (`list[int]`): predicted and true label ids of one model.
        class_ranges (`list[list[int]]`): for each step that the model has learned the half-open range `[start, stop)`
            of its label ids. The last one is the newest step.

    Returns:
        `{"old_new_bias": float, "old_predicted_as_new": float, "new_predicted_as_old": float}`: the bias, the share of
        old classes' images predicted as a new class, and the converse. All are None after step 1, when there are no
        old classes, and a share is None without such images.

    Raises:
        ValueError: lengths differ, or a label id is outside the class ranges.

    Example:

    ```python
    >>> OldNewBias().compute(predictions=[0, 2, 2, 3], references=[0, 1, 2, 3], class_ranges=[[0, 2], [2, 4]])
    {'old_new_bias': 0.25, 'old_predicted_as_new': 0.5, 'new_predicted_as_old': 0.0}
    ```
    """

    citation = "Wu et al. Large Scale Incremental Learning. CVPR 2019 (the tendency, not this formula)."

    def columns(self) -> dict[str, Column]:
        """Predicted and true label ids."""
        return dict.fromkeys(("predictions", "references"), WHOLE_NUMBERS)

    def _compute(
        self, *, predictions: Any, references: Any, class_ranges: Sequence[Sequence[int]] | None = None
    ) -> dict[str, float | None]:
        ranges = check_class_ranges(class_ranges)
        _check_labels(ranges, predictions=predictions, references=references)
        num_old_classes = ranges[-1][0]
        if num_old_classes == 0:
            return dict.fromkeys(Bias._fields)
        return old_new_bias(predictions, references, num_old_classes)._asdict()


def _predict(
    logits: Any, references: Any, class_ranges: Sequence[Sequence[int]] | None
) -> tuple[np.ndarray, np.ndarray]:
    scores, _ = check_scored_labels(logits, references, ("predictions", "references"))
    if class_ranges is not None:
        check_ranges_of(scores, class_ranges)
    return scores.argmax(axis=1), sigmoid_confidences(scores)


def _check_labels(class_ranges: Sequence[Sequence[int]], **labels: Any) -> None:
    stop = check_class_ranges(class_ranges)[-1][1]
    for name, label_ids in labels.items():
        check_whole_numbers(label_ids, name, 0, stop)
