"""One epoch of training: batches to losses, losses to gradients, gradients to updates of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from training.data.augmentation import Normalizer
from training.data.loading import Batch
from training.loop.learner import LossModule
from training.loop.sam import SharpnessAwareMinimization
from training.methods.losses import one_hot_targets


if TYPE_CHECKING:
    from timm.data import Mixup


class EpochTrainer:
    """
    Trains the learner of one phase, epoch by epoch.

    Args:
        accelerator (`Accelerator`): processes, device and precision.
        learner (`nn.Module`): the [`LossModule`] as the accelerator prepared it.
        module (`LossModule`): the same before that, for the hooks of its method.
        optimizer (`torch.optim.Optimizer`): as the accelerator prepared it.
        normalize (`Normalizer`): makes pixels the input of the model.
        num_classes (`int`): classes seen so far.
        mixup (`Mixup`, *optional*): mixes the images of a batch.
        sam (`SharpnessAwareMinimization`, *optional*): moves the weights uphill before gradients are taken.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        learner: nn.Module,
        module: LossModule,
        optimizer: torch.optim.Optimizer,
        normalize: Normalizer,
        num_classes: int,
        mixup: Mixup | None = None,
        sam: SharpnessAwareMinimization | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.learner = learner
        self.module = module
        self.optimizer = optimizer
        self.normalize = normalize
        self.num_classes = num_classes
        self.mixup = mixup
        self.sam = sam

    def train(self, updates: Iterator[list[Batch]], progress: tqdm) -> dict[str, float]:
        """
        Trains one epoch.

        Args:
            updates (`Iterator[list[Batch]]`): for each update the batches of this process, at least one.
            progress (`tqdm`): counts the updates.

        Returns:
            `dict[str, float]`: the mean of each term of the loss over updates and processes.
        """
        sums: dict[str, Tensor] = {}
        count = 0
        for batches in updates:
            for name, term in self._update(batches).items():
                sums[name] = sums.get(name, 0) + term
            progress.update()
            count += 1
        means = self.accelerator.reduce(torch.stack(list(sums.values())) / count, reduction="mean")
        return dict(zip(sums, means.tolist(), strict=True))

    def _update(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Updates the weights once; returns the terms of the loss before it, on this process."""
        inputs = [(batch.weight, self._inputs(batch)) for batch in batches]
        terms = self._backward(inputs)
        if self.sam is not None:
            self.sam.ascend()
            self.optimizer.zero_grad()
            self._backward(inputs)
            self.sam.descend()
        method = self.module.method
        method.after_backward(self.module)
        self.optimizer.step()
        self.optimizer.zero_grad()
        method.after_update(self.module)
        return terms

    def _backward(self, inputs: Sequence[tuple[float, tuple[Tensor, Tensor]]]) -> dict[str, Tensor]:
        """Adds up the gradients of weighted batches; returns the sum of each term of their losses."""
        sums: dict[str, Tensor] = {}
        for position, (weight, batch) in enumerate(inputs):
            is_last = position == len(inputs) - 1
            # Processes exchange gradients once an update.
            with nullcontext() if is_last else self.accelerator.no_sync(self.learner):
                terms = self.learner(*batch)
                self.accelerator.backward(weight * torch.stack(list(terms.values())).sum())
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + weight * term.detach()
        return sums

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pixel values and targets on the device, mixed where MixUp is on."""
        device = self.accelerator.device
        images = batch.images.to(device, non_blocking=True)
        # Features of a frozen encoder are read as they are.
        pixel_values = self.normalize(images) if images.dtype == torch.uint8 else images
        labels = batch.labels.to(device, non_blocking=True)
        if self.mixup is not None:
            return self.mixup(pixel_values, labels)
        return pixel_values, one_hot_targets(labels, self.num_classes)
