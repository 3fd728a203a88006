"""Runs a model over un-augmented images, every image exactly once over all processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedConfig, ViTImageProcessor

from hub.run import results
from hub.run.confusion import Confusion
from hub.run.results import StepResults
from modeling_dytox import IncrementalModel
from training.data.examples import Examples
from training.data.loading import EvalTransform, Preprocess, evaluation_batches
from training.metrics import (
    confidences_of,
    expected_calibration_error,
    old_new_bias,
    reliability_bins,
    task_aware_predictions,
    top_k_accuracy,
)
from training.metrics.calibration import ReliabilityBin


@dataclass(frozen=True)
class Evaluation:
    """
    Accuracies of one model; names and meaning as in [`hub.run.results.StepResults`], fractions in 0..1.

    Args:
        accuracy, top5_accuracy, expected_calibration_error, old_new_bias, task_aware_accuracy (`float`, *optional*):
            None unless every class has test images. `old_new_bias` is also None after step 1, when there are no old
            classes, and the task-aware accuracies where they were not asked for.
        accuracy_per_step, task_aware_accuracy_per_step (`list[float | None]`): None for a step of which a class has no
            test images.
        calibration (`list[ReliabilityBin]`, *optional*): the bins that give the expected calibration error.
        accuracy_of_measured (`float`, *optional*): accuracy on the test images that exist, where `accuracy` is None.
        measured_labels (`list[int]`, *optional*): label ids of the classes of these images.
        head_accuracy, nearest_mean_accuracy (`float`, *optional*): of the largest logit of the head, and of the
            nearest class mean, where the model has them and predicts by another rule.
    """

    accuracy: float | None
    top5_accuracy: float | None
    accuracy_per_step: list[float | None]
    expected_calibration_error: float | None
    old_new_bias: float | None
    task_aware_accuracy: float | None = None
    task_aware_accuracy_per_step: list[float | None] | None = None
    calibration: list[ReliabilityBin] | None = None
    accuracy_of_measured: float | None = None
    measured_labels: list[int] | None = None
    head_accuracy: float | None = None
    nearest_mean_accuracy: float | None = None

    def step_results(self, class_names: Sequence[str], **fields: Any) -> StepResults:
        """
        The evaluation as an entry of `results.json`.

        Args:
            class_names (`Sequence[str]`): all classes seen, by label id.
            **fields: the other fields of [`hub.run.results.StepResults`].
        """
        labels, bins, per_step = self.measured_labels, self.calibration, self.task_aware_accuracy_per_step
        return StepResults(
            accuracy=self.accuracy,
            top5_accuracy=self.top5_accuracy,
            accuracy_per_step=tuple(self.accuracy_per_step),
            expected_calibration_error=self.expected_calibration_error,
            old_new_bias=self.old_new_bias,
            head_accuracy=self.head_accuracy,
            nearest_mean_accuracy=self.nearest_mean_accuracy,
            task_aware_accuracy=self.task_aware_accuracy,
            task_aware_accuracy_per_step=None if per_step is None else tuple(per_step),
            calibration=None if bins is None else tuple(results.ReliabilityBin(**content) for content in bins),
            accuracy_of_measured=self.accuracy_of_measured,
            measured_classes=None if labels is None else tuple(class_names[label] for label in labels),
            **fields,
        )


@dataclass(frozen=True)
class Predictions:
    """
    What a model says of test images.

    Args:
        logits (`np.ndarray` of shape `(n, C)`): of all classes that it knows.
        labels (`np.ndarray` of shape `(n,)`): label ids of the images.
        config (`PreTrainedConfig`): of the model.
        others (`Mapping[str, np.ndarray]`): further outputs `(n, C)` by which the model could predict, by name.
    """

    logits: np.ndarray
    labels: np.ndarray
    config: PreTrainedConfig
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def predicted(self) -> np.ndarray:
        """`(n,)`: the label ids with the largest logits."""
        return self.logits.argmax(axis=1)

    def evaluation(self, task_aware: bool = False) -> Evaluation:
        """
        Their accuracies.

        Args:
            task_aware (`bool`): see [`Evaluator.evaluate`].

        Raises:
            FloatingPointError: a logit is not finite.
        """
        ranges, problem_type = self.config.step_class_ranges, self.config.problem_type
        measured = summarize(self.logits, self.labels, ranges, problem_type, task_aware)
        if measured.accuracy is None:
            return measured
        accuracies: dict[str, Any] = {
            f"{name.removesuffix('_logits')}_accuracy": float((logits.argmax(axis=1) == self.labels).mean())
            for name, logits in self.others.items()
        }
        return replace(measured, **accuracies)

    def confusion(self) -> Confusion:
        """How many images of each class were predicted as which."""
        pairs, counts = np.unique(np.stack([self.labels, self.predicted]), axis=1, return_counts=True)
        return Confusion(dict(zip(map(tuple, pairs.T.tolist()), counts.tolist(), strict=True)))


class Evaluator:
    """
    Evaluates models the same way at every step.

    Args:
        accelerator (`Accelerator`): processes and device.
        processor (`ViTImageProcessor`): of the model.
        batch_size (`int`): images of a batch.
        num_workers (`int`): processes that load images; 0 loads them in this one.
    """

    def __init__(
        self, accelerator: Accelerator, processor: ViTImageProcessor, batch_size: int, num_workers: int
    ) -> None:
        self.accelerator = accelerator
        self.processed = EvalTransform(processor)
        self.batch_size = batch_size
        self.num_workers = num_workers

    def evaluate(self, model: IncrementalModel, test: Examples, task_aware: bool = False) -> Evaluation:
        """
        Accuracies of `model` on `test`; predictions are the largest logit of all classes it knows.

        Args:
            model (`IncrementalModel`): what to measure.
            test (`Examples`): images of the classes of the steps.
            task_aware (`bool`): whether to also measure accuracy with the step of each image given, so that only the
                classes of that step compete. This is the task-incremental setting, which is easier: the accuracy
                cannot be compared with the class-incremental one. No other number uses the step of an image.

        Returns:
            `Evaluation`: the accuracies.

        Raises:
            FloatingPointError: the model gives logits that are not finite.
        """
        return self.predict(model, test).evaluation(task_aware)

    def predict(self, model: IncrementalModel, test: Examples) -> Predictions:
        """
        What `model` says of each image, on every process the same.

        Args:
            model (`IncrementalModel`): what to measure.
            test (`Examples`): images of the classes of the steps.

        Returns:
            `Predictions`: in the order of the examples.
        """
        names = ("logits", *model.other_readouts)

        def readouts(pixel_values: Tensor) -> Tensor:
            outputs = model(pixel_values)
            return torch.stack([outputs[name] for name in names], dim=1)

        values = self._run(model, test, readouts, self.processed)
        logits, *others = (values[:, place] for place in range(len(names)))
        return Predictions(logits, test.labels, model.config, dict(zip(names[1:], others, strict=True)))

    def features(
        self,
        model: IncrementalModel,
        examples: Examples,
        embed: Callable[[IncrementalModel, Tensor], Tensor],
        prepare: Preprocess | None = None,
    ) -> np.ndarray:
        """
        Embeddings of examples, or other outputs of a model.

        Args:
            model (`IncrementalModel`): what embeds.
            examples (`Examples`): images.
            embed: gives the embeddings `(B, d)` of pixel values.
            prepare (`Preprocess`, *optional*): turns images into pixel values; by default as for evaluation.

        Returns:
            `np.ndarray` of shape `(n, d)`: the embeddings, in the order of the examples.
        """
        return self._run(model, examples, lambda pixel_values: embed(model, pixel_values), prepare or self.processed)

    @torch.no_grad()
    def _run(
        self,
        model: IncrementalModel,
        examples: Examples,
        forward: Callable[[Tensor], Tensor],
        prepare: Preprocess,
    ) -> np.ndarray:
        was_training = model.training
        model.eval()
        outputs = list(self._outputs(examples, forward, prepare))
        model.train(was_training)
        # Process r holds batches r, r + processes, ...: put them back into the order of the examples.
        processes = gather_object([outputs]) if self.accelerator.num_processes > 1 else [outputs]
        rounds = range(max(map(len, processes)))
        return np.concatenate([batches[turn] for turn in rounds for batches in processes if turn < len(batches)])

    def _outputs(
        self, examples: Examples, forward: Callable[[Tensor], Tensor], prepare: Preprocess
    ) -> Iterator[np.ndarray]:
        loader = evaluation_batches(
            examples,
            prepare,
            self.batch_size,
            self.num_workers,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        for batch in loader:
            # In the precision of the weights, not of training: what is measured is what is published.
            yield forward(batch.images.to(self.accelerator.device, non_blocking=True)).cpu().numpy()


def summarize(
    logits: np.ndarray,
    labels: np.ndarray,
    class_ranges: Sequence[Sequence[int]],
    problem_type: str | None,
    task_aware: bool = False,
) -> Evaluation:
    """
    Accuracies from logits.

    Args:
        logits (`np.ndarray` of shape `(n, C)`): of all classes seen.
        labels (`np.ndarray` of shape `(n,)`): label ids.
        class_ranges (`Sequence[Sequence[int]]`): for each step its half-open range `[start, stop)` of label ids.
        problem_type (`str`, *optional*): of the model's config; decides how scores come from logits.
        task_aware (`bool`, *optional*, defaults to `False`): whether to measure the task-aware accuracies.

    Returns:
        `Evaluation`: the accuracies.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    _check_finite(logits)
    correct = logits.argmax(axis=1) == labels
    per_step = _mean_per_step(correct, labels, class_ranges)
    measured = Evaluation(None, None, per_step, None, None)
    has_all_classes = len(np.unique(labels)) == class_ranges[-1][1]
    if task_aware:
        aware = task_aware_predictions(logits, labels, class_ranges) == labels
        measured = replace(
            measured,
            task_aware_accuracy=float(aware.mean()) if has_all_classes else None,
            task_aware_accuracy_per_step=_mean_per_step(aware, labels, class_ranges),
        )
    accuracy = float(correct.mean())
    if not has_all_classes:
        return replace(measured, accuracy_of_measured=accuracy, measured_labels=np.unique(labels).tolist())
    return replace(
        measured,
        accuracy=accuracy,
        **_over_all_classes(logits, labels, class_ranges[-1][0], confidences_of(logits, problem_type)),
    )


def _over_all_classes(
    logits: np.ndarray, labels: np.ndarray, num_old_classes: int, confidences: np.ndarray
) -> dict[str, Any]:
    """The fields of [`Evaluation`] beside accuracies that need test images of every class."""
    predictions = logits.argmax(axis=1)
    return {
        "top5_accuracy": top_k_accuracy(logits, labels, k=5),
        "expected_calibration_error": expected_calibration_error(confidences, predictions == labels),
        "old_new_bias": old_new_bias(predictions, labels, num_old_classes).old_new_bias if num_old_classes else None,
        "calibration": reliability_bins(confidences, predictions == labels),
    }


def _mean_per_step(
    correct: np.ndarray, labels: np.ndarray, class_ranges: Sequence[Sequence[int]]
) -> list[float | None]:
    """Accuracy on the classes of each step; None unless each of these classes has test images."""
    means: list[float | None] = []
    for start, stop in class_ranges:
        in_step = (labels >= start) & (labels < stop)
        is_measured = len(np.unique(labels[in_step])) == stop - start
        means.append(float(correct[in_step].mean()) if is_measured else None)
    return means


def _check_finite(logits: np.ndarray) -> None:
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        raise FloatingPointError(
            f"The logits of {broken.sum()} of {len(logits)} test images are not finite: learn the model again with a "
            "lower --learning_rate, in another --output_dir or with --overwrite_output_dir."
        )
