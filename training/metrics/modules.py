"""
The metrics as modules of `evaluate` that need no network and keep nothing on disk: `evaluate.load` fetches a script,
these classes are imported and instantiated. As in `evaluate`, the "Args" of a metric are those of its `compute`, which
returns `{name: value}`.

    >>> Forgetting().compute(accuracy_matrix=[[1.0], [0.5, 0.75]])
    {'forgetting': 0.5}
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, List, Value

from hub.run.results import NUM_CALIBRATION_BINS
from training.metrics.accuracy import top_k_accuracy
from training.metrics.bias import PredictionBias, old_new_bias
from training.metrics.calibration import expected_calibration_error, sigmoid_confidences
from training.metrics.checks import (
    check_accuracy_matrix,
    check_class_ranges,
    check_fractions,
    check_logits,
    check_matrix_rows,
    check_same_length,
    check_scored_labels,
    check_whole_numbers,
)
from training.metrics.continual import average_incremental_accuracy, backward_transfer, forgetting, last_accuracy


def _check_rows(rows: Any, name: str) -> Any:
    check_matrix_rows(rows, name)
    return rows


# For one input of a metric the type of a value in `datasets`, and the check of several values.
Column = tuple[Any, Callable[[Any, str], Any]]
LABELS: Column = Value("int64"), check_whole_numbers
FRACTIONS: Column = Value("float64"), check_fractions
LOGITS: Column = List(Value("float64")), check_logits
MATRIX_ROWS: Column = List(Value("float64")), _check_rows


class InMemoryMetric(evaluate.Metric):
    """
    A metric that checks its inputs when they are added, and keeps them in memory until it is computed.

    Args:
        config_name (`str`, *optional*): a variant of the metric, where it has several.
        keep_in_memory (`bool`, *optional*, defaults to `True`): `False` lets `evaluate` keep inputs in its cache on
            disk, which it needs to compute over several processes.
        **options: of `evaluate.Metric`.
    """

    citation: ClassVar[str] = ""
    variants: ClassVar[dict[str, dict[str, Column]]] = {"default": {"accuracy_matrix": MATRIX_ROWS}}

    def __init__(self, config_name: str | None = None, keep_in_memory: bool = True, **options: Any) -> None:
        if config_name is not None and config_name not in self.variants:
            raise ValueError(f"The variant is {config_name!r}, expected one of {list(self.variants)}: give one.")
        self.columns = self.variants[config_name or "default"]
        super().__init__(config_name, keep_in_memory=keep_in_memory, **options)

    def add_batch(self, **columns: Any) -> None:
        """Adds several images, or the rows of several steps; `ValueError` where a column cannot be used."""
        given = {name: values for name, values in columns.items() if values is not None}
        if given.keys() != self.columns.keys():
            names, expected = ", ".join(sorted(given)) or "nothing", ", ".join(self.columns)
            raise ValueError(f"{self.name} was given {names}, expected {expected}: give these alone.")
        checked = {name: check(given[name], name) for name, (_, check) in self.columns.items()}
        check_same_length(**checked)
        super().add_batch(**checked)

    def add(self, *, prediction: Any = None, reference: Any = None, **columns: Any) -> None:
        """Adds one image, or the row of one step; other columns have the names that they have in `add_batch`."""
        given = {"predictions": prediction, "references": reference, **columns}
        self.add_batch(**{name: [value] for name, value in given.items() if value is not None})

    def compute(self, **options: Any) -> dict[str, Any] | None:
        """Computes the metric of what is given here and was added before; `ValueError` where that is nothing."""
        every_column = {"predictions", "references"}.union(*self.variants.values())
        inputs = {name: options.pop(name) for name in every_column & options.keys()}
        if self.writer is None or any(values is not None for values in inputs.values()):
            self.add_batch(**inputs)
        return super().compute(**dict.fromkeys(self.columns), **options)

    def _info(self) -> evaluate.MetricInfo:
        text = inspect.getdoc(type(self)) or ""
        return evaluate.MetricInfo(
            description=text.partition("\n\n")[0],
            citation=self.citation,
            inputs_description=f"\n\n{text}",
            features=Features({name: feature for name, (feature, _) in self.columns.items()}),
        )

    def _build_data_dir(self) -> str:
        # `evaluate` makes its folder in the user's cache even where it keeps everything in memory.
        return "" if self.keep_in_memory else super()._build_data_dir()


class AverageIncrementalAccuracy(InMemoryMetric):
    """
    Average incremental accuracy, see [`average_incremental_accuracy`].

    Args:
        accuracy_matrix (`list[list[float | None]]`): row i holds the accuracy after step i + 1 on the classes of each
            step so far, among all classes seen; None for what was not measured.
        num_images (`list[int]`, *optional*): test images of each step's classes, which weigh the values of a row. By
            default all steps have equally many.

    Returns:
        `{"average_incremental_accuracy": float | None}`: None where a term is missing.
    """

    citation = "Rebuffi et al. iCaRL: Incremental Classifier and Representation Learning. CVPR 2017."

    def _compute(self, accuracy_matrix: Any, num_images: Sequence[int] | None = None) -> dict[str, float | None]:
        return {self.name: average_incremental_accuracy(_accuracies(accuracy_matrix, num_images))}


class LastAccuracy(InMemoryMetric):
    """Last accuracy, see [`last_accuracy`]; `compute` takes the same as that of [`AverageIncrementalAccuracy`]."""

    def _compute(self, accuracy_matrix: Any, num_images: Sequence[int] | None = None) -> dict[str, float | None]:
        return {self.name: last_accuracy(_accuracies(accuracy_matrix, num_images))}


class Forgetting(InMemoryMetric):
    """Forgetting, see [`forgetting`]; `compute` takes an `accuracy_matrix` alone."""

    citation = "Chaudhry et al. Riemannian Walk for Incremental Learning. ECCV 2018."

    def _compute(self, accuracy_matrix: Any) -> dict[str, float | None]:
        return {self.name: forgetting(accuracy_matrix)}


class BackwardTransfer(InMemoryMetric):
    """Backward transfer, see [`backward_transfer`]; `compute` takes an `accuracy_matrix` alone."""

    citation = "Lopez-Paz and Ranzato. Gradient Episodic Memory for Continual Learning. NeurIPS 2017."

    def _compute(self, accuracy_matrix: Any) -> dict[str, float | None]:
        return {self.name: backward_transfer(accuracy_matrix)}


class TopKAccuracy(InMemoryMetric):
    """
    Top-k accuracy, see [`top_k_accuracy`].

    Args:
        predictions (`list[list[float]]`): for each image the logits, or other scores, of all classes seen.
        references (`list[int]`): label ids.
        k (`int`, *optional*, defaults to 5): from 1.

    Returns:
        `{"top_k_accuracy": float}`
    """

    citation = "Russakovsky et al. ImageNet Large Scale Visual Recognition Challenge. IJCV 2015."
    variants = {"default": {"predictions": LOGITS, "references": LABELS}}

    def _compute(self, predictions: Any, references: Any, k: int = 5) -> dict[str, float]:
        return {self.name: top_k_accuracy(predictions, references, k)}


class ExpectedCalibrationError(InMemoryMetric):
    """
    Expected calibration error, see [`expected_calibration_error`].

    `ExpectedCalibrationError()` takes logits: the largest one is the prediction, and its sigmoid the confidence, as
    where every class has a sigmoid of its own. `ExpectedCalibrationError("confidences")` takes predictions with
    confidences of any origin.

    Args:
        predictions (`list[list[float]]`): for each image the logits of all classes seen; for `"confidences"` the
            predicted label ids (`list[int]`).
        references (`list[int]`): label ids.
        confidences (`list[float]`): for `"confidences"` alone, the score of each predicted label id, in 0..1.
        num_bins (`int`, *optional*, defaults to 15): bins between 0 and 1.

    Returns:
        `{"expected_calibration_error": float}`
    """

    citation = "Naeini et al. Obtaining Well Calibrated Probabilities Using Bayesian Binning. AAAI 2015."
    variants = {
        "default": {"predictions": LOGITS, "references": LABELS},
        "confidences": {"predictions": LABELS, "references": LABELS, "confidences": FRACTIONS},
    }

    def _compute(
        self, predictions: Any, references: Any, confidences: Any = None, num_bins: int = NUM_CALIBRATION_BINS
    ) -> dict[str, float]:
        if confidences is None:
            scores, _ = check_scored_labels(predictions, references)
            predictions, confidences = scores.argmax(axis=1), sigmoid_confidences(scores)
        return {self.name: expected_calibration_error(confidences, np.equal(predictions, references), num_bins)}


class OldNewBias(InMemoryMetric):
    """
    Old-new bias, see [`old_new_bias`].

    Args:
        predictions, references (`list[int]`): predicted and true label ids of one model.
        class_ranges (`list[list[int]]`): for each step that the model has learned the half-open range `[start, stop)`
            of its label ids. The last one is the newest step.

    Returns:
        `dict[str, float | None]`: the fields of [`PredictionBias`]; None after step 1, when there are no old classes.
    """

    citation = "Wu et al. Large Scale Incremental Learning. CVPR 2019 (the tendency, not this formula)."
    variants = {"default": {"predictions": LABELS, "references": LABELS}}

    def _compute(
        self, predictions: Any, references: Any, class_ranges: Sequence[Sequence[int]] | None = None
    ) -> dict[str, float | None]:
        num_old_classes, num_classes = check_class_ranges(class_ranges)[-1]
        check_whole_numbers(predictions, "predictions", num_classes)
        check_whole_numbers(references, "references", num_classes)
        if num_old_classes == 0:
            return dict.fromkeys(PredictionBias._fields)
        return old_new_bias(predictions, references, num_old_classes)._asdict()


def _accuracies(matrix: Any, num_images: Sequence[int] | None) -> list[float | None]:
    """Accuracy on all classes seen after each step; None where a step so far has no images or was not measured."""
    rows = check_accuracy_matrix(matrix)
    advice = "give the test images of the classes of each step"
    images = check_whole_numbers([1] * len(rows) if num_images is None else num_images, "num_images", advice=advice)
    if len(images) != len(rows):
        raise ValueError(f"num_images holds {len(images)} value(s), expected {len(rows)}: {advice}.")
    images_of_rows = [images[: len(row)] for row in rows]
    return [
        float(np.average(row, weights=counts)) if counts.all() and not np.isnan(row).any() else None
        for row, counts in zip(rows, images_of_rows, strict=True)
    ]
