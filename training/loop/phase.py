"""The training loop: runs the phases that a method asks for, on any number of processes."""

import math
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from tqdm.auto import tqdm
from transformers import ViTImageProcessor

from hub.run.errors import InputError
from modeling_dytox import DyToxForImageClassification
from training.arguments import Arguments
from training.data.augmentation import Normalizer, make_mixup, make_train_transform
from training.data.batches import Batches, PublishedBatches, Share, TrainingBatches
from training.data.examples import Examples
from training.data.loading import TrainingLoader
from training.data.scenario import Step
from training.loop.checkpointing import Checkpoints, Position, TrainingState, load_tensors, tensors_of
from training.loop.epoch import EpochTrainer
from training.loop.logs import RunLog, Stopwatch, progress_bar
from training.loop.processes import on_main_process
from training.loop.sam import SharpnessAwareMinimization
from training.methods import Learner, Method, Phase
from training.seeding import seed_everything


class PhaseTrainer:
    """
    Trains phases. One object serves a run; from phase to phase it keeps the time that the step takes, and the state to
    go on from until the phase that it belongs to.

    Args:
        accelerator (`Accelerator`): processes, device and precision.
        arguments (`Arguments`): the options of the run.
        method (`Method`): gives the loss.
        processor (`ViTImageProcessor`): gives the normalisation.
        log (`RunLog`): takes the losses of each epoch.
        checkpoints (`Checkpoints`): take the state after each epoch.
        num_steps (`int`): steps of the run, for the progress bar.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        arguments: Arguments,
        method: Method,
        processor: ViTImageProcessor,
        log: RunLog,
        checkpoints: Checkpoints,
        num_steps: int,
    ) -> None:
        self.accelerator = accelerator
        self.checkpoints = checkpoints
        self.num_steps = num_steps
        self.stopwatch = Stopwatch()
        self.state: TrainingState | None = None
        self.options = arguments.optimization
        self.method_options = arguments.method
        self.method = method
        self.log = log
        self.transform = make_train_transform(self.options, arguments.model.image_size)
        self.normalize = Normalizer(processor, accelerator.device)
        self.compiles = accelerator.state.dynamo_plugin.backend != DynamoBackend.NO
        self.initial_loss_scale = None if accelerator.scaler is None else accelerator.scaler.state_dict()

    @property
    def global_batch_size(self) -> int:
        """Images of an optimizer step, over all processes and accumulation rounds."""
        options = self.options
        per_process = options.per_device_train_batch_size * options.gradient_accumulation_steps
        return per_process * self.accelerator.num_processes

    def start_step(self) -> None:
        """Prepares for the phases of a step, of which those before the state to go on from were learned already."""
        self.stopwatch.start(self.state.train_seconds if self.state else 0.0)

    def train(self, model: DyToxForImageClassification, step: Step, phase: Phase, examples: Examples) -> None:
        """
        Trains `model` in place through one phase, or through what the state to go on from leaves of it.

        Raises:
            FloatingPointError: the loss is not finite.
            InputError: the state after an epoch cannot be saved.
        """
        start = self._start(step, phase)
        if start is None:
            return
        seed_everything(self.options.seed, step.number, phase.name)
        freeze(model, phase.frozen)
        learner = Learner(self.method, model, step, phase)
        optimizer = make_optimizer(learner, self.options.weight_decay, self.learning_rate(phase))
        schedule = self._schedule(optimizer, phase)
        if self.compiles:
            # Code compiled for the model as it was is of no use, and torch gives up on what it compiles too often.
            torch.compiler.reset()
        prepared, optimizer = self.accelerator.prepare(learner, optimizer)
        self._restore(learner, optimizer)
        trainer = self._epoch_trainer(prepared, optimizer, step, phase)
        loader = self._loader(examples, phase, even=trainer.mixup is not None)
        progress = self._progress(phase, start.epoch, loader.batches)
        draws = (self.options.seed, step.number, phase.name)
        epochs = range(start.epoch, phase.epochs)
        for epoch, batches in zip(epochs, loader.epochs(epochs, *draws), strict=True):
            name = f"step {step.number}/{self.num_steps}, {phase.name}, epoch {epoch + 1}/{phase.epochs}"
            progress.set_description(name, refresh=False)
            seed_everything(*draws, epoch, process_index=self.accelerator.process_index)
            if schedule is not None:
                schedule.step(max(epoch - 1, 0) if self.options.lagging_schedule else epoch)
            train_mode_except_frozen(prepared)
            started = time.perf_counter()
            losses = trainer.train(batches, progress)
            rate = optimizer.param_groups[0]["lr"]
            self._report(losses, step, phase, epoch, rate, loader.batches.num_drawn, started)
            self._save(start._replace(epoch=epoch + 1), learner, optimizer)
        progress.close()
        # The accelerator would otherwise keep the learner and its optimizer for the rest of the run.
        self.accelerator.free_memory()
        model.requires_grad_(True)

    def _start(self, step: Step, phase: Phase) -> Position | None:
        """Where to begin with the phase; None if it was learned before the state to go on from."""
        names = [each.name for each in self.method.phases(step)]
        begin = Position(step.number, names.index(phase.name), 0)
        if self.state is None:
            return begin
        return self.state.position if self.state.position.phase == begin.phase else None

    def _restore(self, learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Takes up the state to go on from, if there is one; else starts with a fresh loss scale, as it would have."""
        state, self.state = self.state, None
        if state is not None:
            load_tensors(state.tensors, learner, optimizer)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.loss_scale if state else self.initial_loss_scale)

    def _save(self, position: Position, learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def save() -> None:
            scaler = self.accelerator.scaler
            self.checkpoints.save(
                TrainingState(
                    position,
                    self.stopwatch.seconds,
                    self.log.num_records,
                    None if scaler is None else scaler.state_dict(),
                    tensors_of(learner, optimizer),
                )
            )

        on_main_process(self.accelerator, save)

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

    def _epoch_trainer(
        self, learner: nn.Module, optimizer: torch.optim.Optimizer, step: Step, phase: Phase
    ) -> EpochTrainer:
        mixup = make_mixup(self.method_options, step.num_seen_classes)
        sharpness = None
        if phase.sharpness_radius > 0:
            trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
            sharpness = SharpnessAwareMinimization(trained, phase.sharpness_radius, self.method_options.sam_adaptive)
        return EpochTrainer(
            self.accelerator, learner, optimizer, self.normalize, step.num_seen_classes, mixup, sharpness
        )

    def _progress(self, phase: Phase, first_epoch: int, batches: Batches) -> tqdm:
        return progress_bar(
            self.accelerator,
            initial=first_epoch * batches.num_optimizer_steps,
            total=phase.epochs * batches.num_optimizer_steps,
            unit="optimizer step",
        )

    def _loader(self, examples: Examples, phase: Phase, even: bool) -> TrainingLoader:
        share = Share(
            self.global_batch_size,
            self.options.gradient_accumulation_steps,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            even,
        )
        batches: Batches
        if phase.shuffle and phase.repeated_augmentation == 1:
            batches = TrainingBatches(len(examples), share)
        else:
            batches = PublishedBatches(
                len(examples), share, repeats=phase.repeated_augmentation, shuffle=phase.shuffle
            )
        return TrainingLoader(examples, self.transform, batches, self.options.num_workers)

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


def make_optimizer(learner: Learner, weight_decay: float, learning_rate: float) -> torch.optim.AdamW:
    """AdamW on the parameters that train; biases, norms and gates do not decay."""
    return torch.optim.AdamW(param_groups_weight_decay(learner, weight_decay), lr=learning_rate, fused=True)


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
