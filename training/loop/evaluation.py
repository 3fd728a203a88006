"""Runs a model over un-augmented images, every image exactly once over all processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import ViTImageProcessor

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
    Accuracies of one model, as in [`StepResults`]; fractions in 0..1.

    A step without test images has None in the lists. `old_new_bias` is None after step 1, when there are no old
    classes. The task-aware accuracies are None where they were not asked for. `calibration` are the bins that give the
    expected calibration error.
    """

    accuracy: float
    top5_accuracy: float
    accuracy_per_step: list[float | None]
    expected_calibration_error: float
    old_new_bias: float | None
    task_aware_accuracy: float | None = None
    task_aware_accuracy_per_step: list[float | None] | None = None
    calibration: list[ReliabilityBin] | None = None


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
        """`(n, d)` what `embed` makes of each image that `prepare` made ready, in the order of the examples."""
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
    confidences = sigmoid_confidences(logits)
    num_old_classes = class_ranges[-1][0]
    measured = Evaluation(
        accuracy=float(correct.mean()),
        top5_accuracy=top_k_accuracy(logits, labels, k=5),
        accuracy_per_step=_mean_per_step(correct, labels, class_ranges),
        expected_calibration_error=expected_calibration_error(confidences, correct),
        old_new_bias=old_new_bias(predictions, labels, num_old_classes).old_new_bias if num_old_classes else None,
        calibration=reliability_bins(confidences, correct),
    )
    if not task_aware:
        return measured
    correct = task_aware_predictions(logits, labels, class_ranges) == labels
    return replace(
        measured,
        task_aware_accuracy=float(correct.mean()),
        task_aware_accuracy_per_step=_mean_per_step(correct, labels, class_ranges),
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
