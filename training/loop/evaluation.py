"""Runs a model over un-augmented images, every image exactly once over all processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import ViTImageProcessor

from hub.run import results
from hub.run.results import StepResults
from modeling_dytox import DyToxForImageClassification
from training.data.examples import Examples
from training.data.loading import Prepare, Processed, evaluation_batches
from training.metrics import (
    expected_calibration_error,
    old_new_bias,
    reliability_bins,
    sigmoid_confidences,
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
            None unless every class has test images. `old_new_bias` is None after step 1 as well, when there are no
            old classes, and the task-aware accuracies where they were not asked for.
        accuracy_per_step, task_aware_accuracy_per_step (`list[float | None]`): None for a step without test images.
        calibration (`list[ReliabilityBin]`, *optional*): the bins that give the expected calibration error.
        accuracy_of_measured (`float`, *optional*): accuracy on the test images that there are, where `accuracy` is
            None.
        measured_labels (`list[int]`, *optional*): label ids of the classes that these images are of.
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

    def step_results(self, class_names: Sequence[str], **fields: Any) -> StepResults:
        """
        The evaluation as an entry of `results.json`.

        Args:
            class_names (`Sequence[str]`): all classes seen, by label id.
            **fields: the other fields of [`hub.run.results.StepResults`].
        """
        named = None if self.measured_labels is None else tuple(class_names[label] for label in self.measured_labels)
        bins = None if self.calibration is None else tuple(results.ReliabilityBin(**held) for held in self.calibration)
        per_step = self.task_aware_accuracy_per_step
        return StepResults(
            accuracy=self.accuracy,
            top5_accuracy=self.top5_accuracy,
            accuracy_per_step=tuple(self.accuracy_per_step),
            expected_calibration_error=self.expected_calibration_error,
            old_new_bias=self.old_new_bias,
            task_aware_accuracy=self.task_aware_accuracy,
            task_aware_accuracy_per_step=None if per_step is None else tuple(per_step),
            calibration=bins,
            accuracy_of_measured=self.accuracy_of_measured,
            measured_classes=named,
            **fields,
        )


class Evaluator:
    """
    Evaluates models the same way at every step.

    Args:
        accelerator (`Accelerator`): processes and device.
        processor (`ViTImageProcessor`): of the model.
        batch_size (`int`): images of a batch.
        num_workers (`int`): processes that load images.
    """

    def __init__(
        self, accelerator: Accelerator, processor: ViTImageProcessor, batch_size: int, num_workers: int
    ) -> None:
        self.accelerator = accelerator
        self.processed = Processed(processor)
        self.batch_size = batch_size
        self.num_workers = num_workers

    def evaluate(self, model: DyToxForImageClassification, test: Examples, task_aware: bool = False) -> Evaluation:
        """
        Accuracies of `model` on `test`; predictions are the largest logit of all classes it knows.

        Args:
            model (`DyToxForImageClassification`): what to measure.
            test (`Examples`): images of the classes of the steps.
            task_aware (`bool`): also measure accuracy with the step of each image given, so that only the classes of
                that step compete. This is the task-incremental setting, which users ask for; it is the easier one,
                and not comparable with class-incremental accuracy. No other number is ever told the step.

        Raises:
            FloatingPointError: the model gives logits that are not finite.
        """
        logits = self._run(model, test, lambda pixel_values: model(pixel_values).logits, self.processed)
        return summarize(logits, test.labels, model.config.step_class_ranges, task_aware)

    def features(
        self,
        model: DyToxForImageClassification,
        examples: Examples,
        embed: Callable[[DyToxForImageClassification, Tensor], Tensor],
        prepare: Prepare,
    ) -> np.ndarray:
        """Embeddings `(n, d)` of the examples, in order; `prepare` turns images into pixel values."""
        return self._run(model, examples, lambda pixel_values: embed(model, pixel_values), prepare)

    @torch.no_grad()
    def _run(
        self,
        model: DyToxForImageClassification,
        examples: Examples,
        forward: Callable[[Tensor], Tensor],
        prepare: Prepare,
    ) -> np.ndarray:
        was_training = model.training
        model.eval()
        mine = list(self._outputs(examples, forward, prepare))
        model.train(was_training)
        # Process r holds batches r, r + processes, ...: put them back into the order of the examples.
        of_all = gather_object([mine]) if self.accelerator.num_processes > 1 else [mine]
        rounds = range(max(map(len, of_all)))
        return np.concatenate([outputs[batch] for batch in rounds for outputs in of_all if batch < len(outputs)])

    def _outputs(
        self, examples: Examples, forward: Callable[[Tensor], Tensor], prepare: Prepare
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
            # In the precision of the weights, whatever training used: what is measured is what is published.
            yield forward(batch.images.to(self.accelerator.device, non_blocking=True)).cpu().numpy()


def summarize(
    logits: np.ndarray, labels: np.ndarray, class_ranges: Sequence[Sequence[int]], task_aware: bool = False
) -> Evaluation:
    """
    Accuracies from logits.

    Args:
        logits (`np.ndarray` of shape `(n, C)`): of all classes seen.
        labels (`np.ndarray` of shape `(n,)`): label ids.
        class_ranges: for each step its half-open range `[start, stop)` of label ids.
        task_aware (`bool`): whether to measure the task-aware accuracies.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    _check_finite(logits)
    predictions = logits.argmax(axis=1)
    correct = predictions == labels
    measured = Evaluation(
        accuracy=None,
        top5_accuracy=None,
        accuracy_per_step=_mean_per_step(correct, labels, class_ranges),
        expected_calibration_error=None,
        old_new_bias=None,
    )
    if task_aware:
        task_aware_correct = task_aware_predictions(logits, labels, class_ranges) == labels
        per_step = _mean_per_step(task_aware_correct, labels, class_ranges)
        measured = replace(measured, task_aware_accuracy_per_step=per_step)
    measured_labels = np.unique(labels).tolist()
    if len(measured_labels) < class_ranges[-1][1]:
        return replace(measured, accuracy_of_measured=float(correct.mean()), measured_labels=measured_labels)
    confidences = sigmoid_confidences(logits)
    num_old_classes = class_ranges[-1][0]
    return replace(
        measured,
        accuracy=float(correct.mean()),
        top5_accuracy=top_k_accuracy(logits, labels, k=5),
        expected_calibration_error=expected_calibration_error(confidences, correct),
        old_new_bias=old_new_bias(predictions, labels, num_old_classes).old_new_bias if num_old_classes else None,
        task_aware_accuracy=float(task_aware_correct.mean()) if task_aware else None,
        calibration=reliability_bins(confidences, correct),
    )


def _mean_per_step(
    correct: np.ndarray, labels: np.ndarray, class_ranges: Sequence[Sequence[int]]
) -> list[float | None]:
    of_steps = [correct[(labels >= start) & (labels < stop)] for start, stop in class_ranges]
    return [float(of_step.mean()) if len(of_step) else None for of_step in of_steps]


def _check_finite(logits: np.ndarray) -> None:
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        raise FloatingPointError(
            f"The logits of {broken.sum()} of {len(logits)} test images are not finite, so the model is of no use: "
            "learn it again with a lower --learning_rate."
        )
