"""Runs a model over un-augmented images, every image exactly once over all processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import ViTImageProcessor

from modeling_dytox import DyToxForImageClassification
from training.examples import Examples
from training.loading import evaluation_batches
from training.metrics import expected_calibration_error


@dataclass(frozen=True)
class Evaluation:
    """Accuracies of one model, as in [`StepResults`]; fractions in 0..1."""

    accuracy: float
    top5_accuracy: float
    accuracy_per_step: list[float]
    expected_calibration_error: float


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
        self.processor = processor
        self.batch_size = batch_size
        self.num_workers = num_workers

    def evaluate(self, model: DyToxForImageClassification, test: Examples) -> Evaluation:
        """Accuracies of `model` on `test`; predictions are the largest logit of all classes it knows."""
        logits = self._run(model, test, lambda pixel_values: model(pixel_values).logits)
        steps = np.array([stop for _, stop in model.config.step_class_ranges])
        return summarize(logits, test.labels, np.searchsorted(steps, test.labels, side="right"))

    def features(
        self,
        model: DyToxForImageClassification,
        examples: Examples,
        embed: Callable[[DyToxForImageClassification, Tensor], Tensor],
    ) -> np.ndarray:
        """`(n, d)` what `embed` makes of each image, in the order of the examples."""
        return self._run(model, examples, lambda pixel_values: embed(model, pixel_values))

    @torch.no_grad()
    def _run(
        self, model: DyToxForImageClassification, examples: Examples, forward: Callable[[Tensor], Tensor]
    ) -> np.ndarray:
        was_training = model.training
        model.eval()
        mine = list(self._outputs(examples, forward))
        model.train(was_training)
        # Process r holds batches r, r + processes, ...: put them back into the order of the examples.
        of_all = gather_object([mine]) if self.accelerator.num_processes > 1 else [mine]
        rounds = range(max(map(len, of_all)))
        return np.concatenate([outputs[batch] for batch in rounds for outputs in of_all if batch < len(outputs)])

    def _outputs(self, examples: Examples, forward: Callable[[Tensor], Tensor]) -> Iterator[np.ndarray]:
        loader = evaluation_batches(
            examples,
            self.processor,
            self.batch_size,
            self.num_workers,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        for batch in loader:
            # In the precision of the weights, whatever training used: what is measured is what is published.
            yield forward(batch.images.to(self.accelerator.device, non_blocking=True)).cpu().numpy()


def summarize(logits: np.ndarray, labels: np.ndarray, step_of_example: np.ndarray) -> Evaluation:
    """
    Accuracies from logits.

    Args:
        logits (`np.ndarray` of shape `(n, C)`): of all classes seen.
        labels (`np.ndarray` of shape `(n,)`): label ids.
        step_of_example (`np.ndarray` of shape `(n,)`): index, from 0, of the step that each image's class belongs to.
    """
    predictions = logits.argmax(axis=1)
    correct = predictions == labels
    # The label is in the top five where fewer than five classes score higher.
    higher = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    confidences = 1 / (1 + np.exp(-logits.max(axis=1).astype(np.float64)))
    return Evaluation(
        accuracy=float(correct.mean()),
        top5_accuracy=float((higher < 5).mean()),
        accuracy_per_step=[float(correct[step_of_example == step].mean()) for step in np.unique(step_of_example)],
        expected_calibration_error=expected_calibration_error(confidences, correct),
    )
