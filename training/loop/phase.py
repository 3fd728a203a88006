"""Training through one phase of a step: epochs, schedule, log and saved states, on any number of processes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import nn
from tqdm.auto import tqdm
from transformers import ViTImageProcessor

from hub.run.errors import InputError, first_line
from modeling_dytox import IncrementalModel
from training.arguments import Arguments, OptimizationArguments
from training.data.augmentation import Normalizer, make_mixup, make_train_transform
from training.data.batches import Batches, BatchLayout, ReferenceBatches, TrainingBatches
from training.data.examples import Examples
from training.data.loading import TrainingLoader
from training.data.scenario import Step
from training.loop.checkpointing import Checkpoints, Position, TrainingState, load_tensors, method_tensors, tensors_of
from training.loop.epoch import EpochTrainer
from training.loop.learner import LossModule
from training.loop.logs import RunLog, Stopwatch, progress_bar
from training.loop.processes import on_main_process
from training.loop.sam import SharpnessAwareMinimization
from training.methods import Method, Phase
from training.seeding import seed_everything


if TYPE_CHECKING:
    from timm.scheduler import CosineLRScheduler


class PhaseTrainer:
    """
    Trains phases. One object serves a run; it keeps nothing from phase to phase.

    Args:
        accelerator (`Accelerator`): processes, device and precision.
        arguments (`Arguments`): the options of the run.
        method (`Method`): gives the loss.
        processor (`ViTImageProcessor`): gives the normalisation.
        log (`RunLog`): where the losses of each epoch are written.
        checkpoints (`Checkpoints`): where the state after each epoch is saved.
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
        self.options = arguments.optimization
        self.method = method
        self.log = log
        self.checkpoints = checkpoints
        self.num_steps = num_steps
        self.global_batch_size = arguments.global_batch_size(accelerator.num_processes)
        self.transform = make_train_transform(self.options, processor)
        self.normalize = Normalizer(processor, accelerator.device)
        self.compiles = accelerator.state.dynamo_plugin.backend != DynamoBackend.NO
        self.initial_loss_scale = None if accelerator.scaler is None else accelerator.scaler.state_dict()

    def train(
        self,
        model: IncrementalModel,
        step: Step,
        phase: Phase,
        examples: Examples,
        stopwatch: Stopwatch,
        state: TrainingState | None = None,
    ) -> None:
        """
        Trains `model` in place through one phase, or through what is left of it.

        Args:
            model (`IncrementalModel`): knows the classes of the step.
            step (`Step`): what is learned.
            phase (`Phase`): one of the step.
            examples (`Examples`): the images to learn from.
            stopwatch (`Stopwatch`): the time that the step takes.
            state (`TrainingState`, *optional*): a state within this phase to resume from.

        Raises:
            FloatingPointError: the loss is not finite.
            InputError: the state after an epoch cannot be saved.
        """
        start = state.position if state else self._beginning(step, phase)
        seed = (self.options.seed, step.number, phase.name)
        learner, optimizer = self._make_learner(model, step, phase, seed)
        schedule = make_schedule(optimizer, phase, self.options)
        trainer = self._epoch_trainer(learner, optimizer, step, phase)
        self._restore(state, learner, trainer.optimizer)
        loader = self._loader(examples, phase)
        progress = self._progress(step, phase, start.epoch, loader.batches)
        epochs = range(start.epoch, phase.epochs)
        for epoch, updates in zip(epochs, loader.epochs(epochs, *seed), strict=True):
            seed_everything(*seed, epoch, process_index=self.accelerator.process_index)
            if schedule is not None:
                schedule.step(max(epoch - 1, 0) if self.options.lagging_schedule else epoch)
            train_mode_except_frozen(trainer.learner)
            started = time.perf_counter()
            losses = trainer.train(updates, progress)
            speed = loader.batches.num_drawn / (time.perf_counter() - started)
            place: dict[str, Any] = {"step": step.number, "phase": phase.name, "epoch": epoch + 1}
            self._report(place, losses, trainer.optimizer.param_groups[0]["lr"], speed)
            self._save(start._replace(epoch=epoch + 1), stopwatch, learner, trainer.optimizer)
        progress.close()
        # The accelerator would otherwise keep the learner and its optimizer for the rest of the run.
        self.accelerator.free_memory()
        freeze(model, model.frozen_patterns)

    def _make_learner(
        self, model: IncrementalModel, step: Step, phase: Phase, seed: tuple[int | str, ...]
    ) -> tuple[LossModule, torch.optim.Optimizer]:
        """What trains in the phase, and its optimizer; auxiliary modules are drawn by the seed of the phase."""
        seed_everything(*seed)
        freeze(model, (*phase.frozen, *model.frozen_patterns))
        learner = LossModule(self.method, model, step, phase)
        if self.compiles:
            # The model has grown: drop its old graphs before dynamo reaches its recompile limit.
            torch.compiler.reset()
        return learner, make_optimizer(learner, phase, self.options.weight_decay, self.learning_rate(phase))

    def _beginning(self, step: Step, phase: Phase) -> Position:
        return Position(step.number, list(self.method.phases(step)).index(phase), 0)

    def _restore(self, state: TrainingState | None, learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Loads the state to resume from; without one, the loss scale that the run began with."""
        if state is not None:
            try:
                load_tensors(state.tensors, learner, optimizer)
            except (RuntimeError, ValueError, KeyError) as error:
                raise InputError(
                    f"The state within step {state.position.step} does not fit this phase ({first_line(error)}): "
                    f"delete {self.checkpoints.folder} to learn the step again from its beginning."
                ) from error
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.loss_scale if state else self.initial_loss_scale)

    def _save(
        self, position: Position, stopwatch: Stopwatch, learner: LossModule, optimizer: torch.optim.Optimizer
    ) -> None:
        def save() -> None:
            scaler = self.accelerator.scaler
            state = TrainingState(
                position=position,
                train_seconds=stopwatch.seconds,
                num_log_records=self.log.num_records,
                loss_scale=None if scaler is None else scaler.state_dict(),
                config=json.loads(learner.model.config.to_json_string(use_diff=False)),
                tensors=tensors_of(learner, optimizer) | method_tensors(self.method.state()),
            )
            self.checkpoints.save(state)

        on_main_process(self.accelerator, save)

    def learning_rate(self, phase: Phase) -> float:
        """Peak learning rate of the phase at the global batch size of this run."""
        per_images = self.options.learning_rate_batch_size
        return phase.learning_rate * (self.global_batch_size / per_images if per_images else 1.0)

    def _epoch_trainer(
        self, learner: LossModule, optimizer: torch.optim.Optimizer, step: Step, phase: Phase
    ) -> EpochTrainer:
        """Prepares learner and optimizer for the processes, the device and the precision of the run."""
        prepared, optimizer = self.accelerator.prepare(learner, optimizer)
        mixup = make_mixup(phase.mixup_alpha, phase.mixup_label_smoothing, step.num_seen_classes)
        sam = None
        if phase.sam_rho > 0:
            trained = [parameter for parameter in prepared.parameters() if parameter.requires_grad]
            sam = SharpnessAwareMinimization(trained, phase.sam_rho, phase.sam_adaptive)
        return EpochTrainer(
            self.accelerator, prepared, learner, optimizer, self.normalize, step.num_seen_classes, mixup, sam
        )

    def _progress(self, step: Step, phase: Phase, first_epoch: int, batches: Batches) -> tqdm:
        return progress_bar(
            self.accelerator,
            desc=f"step {step.number}/{self.num_steps}, {phase.name}, {phase.epochs} epochs",
            initial=first_epoch * batches.num_updates,
            total=phase.epochs * batches.num_updates,
            unit="update",
        )

    def num_updates(self, num_examples: int, phase: Phase) -> int:
        """Updates of a phase that learns from so many images."""
        return phase.epochs * self._batches(num_examples, phase).num_updates

    def seconds_per_update(self, model: IncrementalModel, step: Step, phase: Phase, examples: Examples) -> float:
        """The mean time of ten updates, after two that warm up; `model` is changed."""
        seed = (self.options.seed, step.number, phase.name)
        learner, optimizer = self._make_learner(model, step, phase, seed)
        trainer = self._epoch_trainer(learner, optimizer, step, phase)
        train_mode_except_frozen(trainer.learner)
        updates = chain.from_iterable(self._loader(examples, phase).epochs(range(12), *seed))
        trainer.train(islice(updates, 2), tqdm(disable=True))
        started = time.perf_counter()
        trainer.train(islice(updates, 10), tqdm(disable=True))
        seconds = time.perf_counter() - started
        self.accelerator.free_memory()
        return seconds / 10

    def _loader(self, examples: Examples, phase: Phase) -> TrainingLoader:
        return TrainingLoader(examples, self.transform, self._batches(len(examples), phase), self.options.num_workers)

    def _batches(self, num_examples: int, phase: Phase) -> Batches:
        layout = BatchLayout(
            self.global_batch_size,
            self.options.gradient_accumulation_steps,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            even=phase.mixup_alpha > 0,
        )
        if phase.full_batches_only:
            return ReferenceBatches(num_examples, layout, repeats=phase.repeated_augmentation, shuffle=phase.shuffle)
        return TrainingBatches(num_examples, layout, phase.updates_per_epoch)

    def _report(
        self, place: dict[str, Any], losses: dict[str, float], learning_rate: float, images_per_second: float
    ) -> None:
        """Writes the losses of an epoch to the log; `place` names the epoch."""
        total = sum(losses.values())
        if not math.isfinite(total):
            raise FloatingPointError(
                f"The loss is {total} in step {place['step']}, {place['phase']}, epoch {place['epoch']} ({losses}): "
                "lower --learning_rate or train in full precision, in another --output_dir or with "
                "--overwrite_output_dir."
            )
        terms = {f"loss/{name}": loss for name, loss in losses.items()}
        self.log.write(
            place | {"learning_rate": learning_rate} | terms | {"loss": total, "images_per_second": images_per_second}
        )


def make_schedule(
    optimizer: torch.optim.Optimizer, phase: Phase, options: OptimizationArguments
) -> CosineLRScheduler | None:
    """The cosine schedule of a phase, with a warm-up of at most a quarter of its epochs; None for a constant rate."""
    if phase.schedule == "constant":
        return None
    from timm.scheduler import CosineLRScheduler

    return CosineLRScheduler(
        optimizer,
        t_initial=phase.epochs,
        lr_min=options.min_learning_rate,
        warmup_t=min(options.warmup_epochs, phase.epochs // 4),
        warmup_lr_init=options.warmup_learning_rate,
    )


def make_optimizer(learner: LossModule, phase: Phase, weight_decay: float, learning_rate: float) -> torch.optim.AdamW:
    """
    AdamW on the parameters that train.

    Args:
        learner (`LossModule`): what trains.
        phase (`Phase`): has factors on the learning rate of some parameters.
        weight_decay (`float`): of matrices and tokens; biases, norms and gates do not decay.
        learning_rate (`float`): peak of the phase, scaled to the global batch size.
    """
    from timm.optim import param_groups_weight_decay

    groups = param_groups_weight_decay(learner, weight_decay)
    if phase.learning_rate_factors:
        names = {parameter: name for name, parameter in learner.named_parameters()}
        # A schedule of timm multiplies by `lr_scale` itself.
        is_constant = phase.schedule == "constant"
        groups = [
            {
                **group,
                "params": parameters,
                "lr": learning_rate * (factor if is_constant else 1.0),
                "lr_scale": factor,
            }
            for group in groups
            for factor, parameters in _by_factor(group["params"], names, phase).items()
        ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def _by_factor(
    parameters: Sequence[nn.Parameter], names: Mapping[nn.Parameter, str], phase: Phase
) -> dict[float, list[nn.Parameter]]:
    """The parameters of a group, by the factor on their learning rate."""
    found: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        name = names[parameter].removeprefix("model.")
        factor = next((factor for pattern, factor in phase.learning_rate_factors if fnmatchcase(name, pattern)), 1.0)
        found.setdefault(factor, []).append(parameter)
    return found


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """
    Lets every parameter train except those whose name matches one of `patterns`.

    Args:
        model (`nn.Module`): changed in place.
        patterns (`Sequence[str]`): of names (`fnmatch`).

    Raises:
        ValueError: nothing is left to train.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatchcase(name, pattern) for pattern in patterns))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"The patterns {', '.join(patterns)} freeze every parameter: a phase needs some to train.")


def train_mode_except_frozen(module: nn.Module) -> None:
    """Train mode, but eval mode (no dropout, no drop path) for modules whose parameters are all frozen."""
    module.train()
    for child in module.modules():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()
