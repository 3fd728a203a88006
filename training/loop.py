"""The training loop: runs the phases that a method asks for, on any number of processes."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase

import torch
from accelerate import Accelerator
from timm.data import Mixup
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import ViTImageProcessor

from modeling_dytox import DyToxForImageClassification
from training.arguments import Arguments
from training.augmentation import Normalizer, make_mixup, make_train_transform
from training.errors import InputError
from training.examples import Examples
from training.loading import Batch, TrainingBatches, TrainingLoader
from training.logs import RunLog, progress_bar
from training.losses import one_hot_targets
from training.methods import Learner, Method, Phase
from training.scenario import Step
from training.seeding import seed_everything


class PhaseTrainer:
    """
    Trains phases. One object serves a run; it keeps nothing from phase to phase.

    Args:
        accelerator (`Accelerator`): processes, device and precision.
        arguments (`Arguments`): the options of the run.
        method (`Method`): gives the loss.
        processor (`ViTImageProcessor`): gives the normalisation.
        log (`RunLog`): takes the losses of each epoch.
        num_steps (`int`): steps of the run, for the progress bar.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        arguments: Arguments,
        method: Method,
        processor: ViTImageProcessor,
        log: RunLog,
        num_steps: int,
    ) -> None:
        self.accelerator = accelerator
        self.num_steps = num_steps
        self.options = arguments.optimization
        self.method_options = arguments.method
        self.method = method
        self.log = log
        self.transform = make_train_transform(self.options, arguments.model.image_size)
        self.normalize = Normalizer(processor, accelerator.device)

    @property
    def global_batch_size(self) -> int:
        """Images of an optimizer step, over all processes and accumulation rounds."""
        options = self.options
        per_process = options.per_device_train_batch_size * options.gradient_accumulation_steps
        return per_process * self.accelerator.num_processes

    def train(self, model: DyToxForImageClassification, step: Step, phase: Phase, examples: Examples) -> None:
        """
        Trains `model` in place through one phase.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        seed_everything(self.options.seed, step.number, phase.name)
        freeze(model, phase.frozen)
        learner = Learner(self.method, model, step, phase)
        optimizer = torch.optim.AdamW(
            param_groups_weight_decay(learner, self.options.weight_decay), lr=self.learning_rate(phase)
        )
        schedule = self._schedule(optimizer, phase)
        prepared, optimizer = self.accelerator.prepare(learner, optimizer)
        mixup = make_mixup(self.method_options, step.num_seen_classes)
        loader = self._loader(examples, even=mixup is not None)
        progress = progress_bar(
            self.accelerator, total=phase.epochs * loader.batches.num_optimizer_steps, unit="optimizer step"
        )
        for epoch in range(phase.epochs):
            name = f"step {step.number}/{self.num_steps}, {phase.name}, epoch {epoch + 1}/{phase.epochs}"
            progress.set_description(name, refresh=False)
            draws = (self.options.seed, step.number, phase.name, epoch)
            seed_everything(*draws, process_index=self.accelerator.process_index)
            if schedule is not None:
                schedule.step(epoch)
            train_mode_except_frozen(prepared)
            started = time.perf_counter()
            losses = self._epoch(prepared, optimizer, loader.epoch(*draws), step, mixup, progress)
            self._report(losses, step, phase, epoch, optimizer.param_groups[0]["lr"], len(examples), started)
        progress.close()
        # The accelerator would otherwise keep the learner and its optimizer for the rest of the run.
        self.accelerator.free_memory()
        model.requires_grad_(True)

    def learning_rate(self, phase: Phase) -> float:
        """Peak learning rate of the phase at the global batch size of this run."""
        per_images = self.options.learning_rate_batch_size
        return phase.learning_rate * (self.global_batch_size / per_images if per_images else 1.0)

    def _schedule(self, optimizer: torch.optim.Optimizer, phase: Phase) -> CosineLRScheduler | None:
        if phase.schedule == "constant":
            return None
        return CosineLRScheduler(
            optimizer,
            t_initial=phase.epochs,
            lr_min=self.options.min_learning_rate,
            warmup_t=min(self.options.warmup_epochs, phase.epochs // 4),
            warmup_lr_init=self.options.warmup_learning_rate,
        )

    def _loader(self, examples: Examples, even: bool) -> TrainingLoader:
        batches = TrainingBatches(
            len(examples),
            self.global_batch_size,
            self.options.gradient_accumulation_steps,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            even,
        )
        return TrainingLoader(examples, self.transform, batches, self.options.num_workers)

    def _epoch(
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: Iterator[list[Batch]],
        step: Step,
        mixup: Mixup | None,
        progress: tqdm,
    ) -> dict[str, float]:
        """Trains one epoch; returns the mean of each term of the loss over its optimizer steps and processes."""
        sums: dict[str, Tensor] = {}
        count = 0
        for batches in steps:
            for position, batch in enumerate(batches):
                is_last = position == len(batches) - 1
                with nullcontext() if is_last else self.accelerator.no_sync(learner):
                    terms = learner(*self._inputs(batch, step, mixup))
                    self.accelerator.backward(batch.weight * torch.stack(list(terms.values())).sum())
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0) + batch.weight * term.detach()
            optimizer.step()
            optimizer.zero_grad()
            progress.update()
            count += 1
        means = self.accelerator.reduce(torch.stack(list(sums.values())) / count, reduction="mean")
        return dict(zip(sums, means.tolist(), strict=True))

    def _inputs(self, batch: Batch, step: Step, mixup: Mixup | None) -> tuple[Tensor, Tensor]:
        device = self.accelerator.device
        pixel_values = self.normalize(batch.images.to(device, non_blocking=True))
        labels = batch.labels.to(device, non_blocking=True)
        if mixup is not None:
            return mixup(pixel_values, labels)
        return pixel_values, one_hot_targets(labels, step.num_seen_classes)

    def _report(
        self,
        losses: dict[str, float],
        step: Step,
        phase: Phase,
        epoch: int,
        learning_rate: float,
        num_images: int,
        started: float,
    ) -> None:
        total = sum(losses.values())
        if not math.isfinite(total):
            raise FloatingPointError(
                f"The loss is {total} in step {step.number}, {phase.name}, epoch {epoch + 1} ({losses}): lower "
                "--learning_rate or train in full precision."
            )
        seconds = time.perf_counter() - started
        self.log.write(
            {"step": step.number, "phase": phase.name, "epoch": epoch + 1, "learning_rate": learning_rate}
            | {f"loss/{name}": loss for name, loss in losses.items()}
            | {"loss": total, "images_per_second": num_images / seconds}
        )


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """
    Lets every parameter train except those whose name matches one of `patterns`.

    Raises:
        InputError: nothing is left to train.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatchcase(name, pattern) for pattern in patterns))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"The patterns {', '.join(patterns)} freeze every parameter: nothing is left to train.")


def train_mode_except_frozen(module: nn.Module) -> None:
    """Train mode, but eval mode (no dropout, no drop path) for modules whose parameters are all frozen."""
    module.train()
    for child in module.modules():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()
