"""What a run works with, and the checks before anything is trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import ViTImageProcessor

from hub.run.errors import InputError
from hub.run.layout import STATISTICS_FILE
from hub.run.text import printable
from modeling_dytox import IncrementalModel
from modeling_dytox.encoders import is_of_encoder
from modeling_dytox.image_processing import make_image_processor
from training.arguments import Arguments
from training.data.augmentation import output_size
from training.data.memory import RehearsalMemory, make_memory
from training.data.scenario import LearnedClasses, Scenario, Step, make_scenario
from training.data.splits import load_splits
from training.loop.checkpointing import Checkpoints
from training.loop.context import StepContext
from training.loop.evaluation import Evaluator
from training.loop.logs import RunLog
from training.loop.phase import PhaseTrainer
from training.loop.processes import check_agreement, on_main_process
from training.methods import Method, make_method
from training.run.checks import (
    StepSize,
    check_disk,
    check_images,
    check_precision,
    check_shared,
    check_shared_memory,
)
from training.run.continuation import Continuation, load_continuation
from training.run.encoder import Encoder, has_batch_norm, load_encoder
from training.run.feature_cache import cached_scenario
from training.run.published_memory import load_published_memory
from training.run.recipe import recipe_of, without_local_paths
from training.run.run_folder import RunFolder
from training.run.statistics import load_statistics


#: With fewer images of a class the script says what to expect.
FEW_IMAGES = 100


@dataclass(frozen=True)
class Setup:
    """
    What a run works with; nothing here changes but the memory, the log and what lies on disk.

    Args:
        arguments (`Arguments`): the options; for a continued model with its sizes and method.
        accelerator (`Accelerator`): processes, device and precision.
        method (`Method`): how the model learns.
        scenario (`Scenario`): the steps and their images.
        memory (`RehearsalMemory`, *optional*): None for methods without one.
        processor (`ViTImageProcessor`): published with each step.
        continuation (`Continuation`, *optional*): the published step that the run continues.
        folder (`RunFolder`): where the run is written.
        checkpoints (`Checkpoints`): states within the step being learned.
        log (`RunLog`): losses and accuracies.
        trainer (`PhaseTrainer`): trains phases.
        evaluator (`Evaluator`): measures models, and embeds images.
    """

    arguments: Arguments
    accelerator: Accelerator
    method: Method
    scenario: Scenario
    memory: RehearsalMemory | None
    processor: ViTImageProcessor
    continuation: Continuation | None
    folder: RunFolder
    checkpoints: Checkpoints
    log: RunLog
    trainer: PhaseTrainer
    evaluator: Evaluator

    @property
    def seed(self) -> int:
        """Seed of everything that is random."""
        return self.arguments.optimization.seed

    def context(self, step: Step, model: IncrementalModel) -> StepContext:
        """A step as the hooks of the method see it."""
        return StepContext(step, model, self.memory, self.scenario, self.evaluator, self.seed)

    @property
    def frozen_encoder(self) -> dict[str, torch.Tensor]:
        """The weights of the frozen encoder, by their names in the model; none where no encoder is frozen."""
        if self.continuation is not None:
            tensors = self.continuation.model.state_dict() if self.continuation.model.config.freeze_encoder else {}
            return {name: tensor for name, tensor in tensors.items() if is_of_encoder(name)}
        encoder = self.method.encoder
        if encoder is None or encoder.pretrained is None or not encoder.fields["freeze_encoder"]:
            return {}
        return {f"dytox.encoder.{name}": tensor for name, tensor in encoder.pretrained.state_dict().items()}

    @property
    def exact_across_processes(self) -> bool:
        """
        Whether the number of processes changes nothing but rounding and random draws. It is not so where a batch
        normalisation trains, which sees the images of one process alone.
        """
        if self.continuation is not None:
            model = self.continuation.model
            return model.config.freeze_encoder or not has_batch_norm(model)
        return self.method.encoder is None or not self.method.encoder.trains_batch_norm

    @property
    def num_known_steps(self) -> int:
        """Steps of the published model that the run continues; 0 for a new model."""
        return self.scenario.known.num_steps

    @property
    def starts_fresh(self) -> bool:
        """Whether no step of the run is finished, or none will be once the folder is cleared."""
        overwrite = self.arguments.output.overwrite_output_dir
        return overwrite or self.folder.last_step() == self.num_known_steps


def set_up(arguments: Arguments, accelerator: Accelerator) -> Setup:
    """
    Loads the data set, and the model to continue if there is one; nothing is written.

    Raises:
        InputError: something in the options, the data or the model cannot be used.
    """
    continuation = load_continuation(arguments)
    if continuation is not None:
        arguments = continuation.options_in(arguments)
    arguments, encoder = load_encoder(arguments)
    if arguments.encoder.cached_views and arguments.optimization.mixup_alpha:
        raise InputError("--mixup_alpha mixes images, of which only features are kept: add --cached_views 0.")
    method = make_method(arguments, encoder)
    if continuation is not None and method.keeps_statistics:
        statistics = continuation.source.file(STATISTICS_FILE)
        load_statistics(method, continuation.model, statistics, "give a step of that method as it was published.")
    known = continuation.known if continuation else LearnedClasses()
    scenario = make_scenario(load_splits(arguments.data, arguments.optimization.seed), arguments.data, known)
    check_precision(accelerator, [phase for step in scenario.steps for phase in method.phases(step)])
    recipe = recipe_of(arguments, accelerator.num_processes, accelerator.mixed_precision)
    folder = RunFolder(Path(arguments.output.output_dir), recipe, known.num_steps)
    processor = _processor(arguments, continuation, encoder)
    _check_workers(arguments, processor)
    log, checkpoints = RunLog(accelerator, folder.path), Checkpoints(folder.checkpoints)
    optimization = arguments.optimization
    return Setup(
        arguments=arguments,
        accelerator=accelerator,
        method=method,
        scenario=scenario,
        memory=_make_memory(arguments, method, scenario),
        processor=processor,
        continuation=continuation,
        folder=folder,
        checkpoints=checkpoints,
        log=log,
        trainer=PhaseTrainer(accelerator, arguments, method, processor, log, checkpoints, scenario.num_steps),
        evaluator=Evaluator(accelerator, processor, optimization.per_device_eval_batch_size, optimization.num_workers),
    )


def prepare(setup: Setup, check_hub: Callable[[], object]) -> Setup:
    """
    Checks what only a look at the folder, the disk, the Hub and the images can find, then opens the folder.

    Args:
        setup (`Setup`): the run.
        check_hub: asks the Hub, if it will be needed, whether it would accept what this run publishes.

    Returns:
        `Setup`: the run, whose images have what a frozen encoder makes of them.

    Raises:
        UserError: the Hub refuses, an image cannot be read, the disk is too small, there is no memory to continue
            with, or the folder holds another run.
    """
    output = setup.arguments.output
    on_main_process(setup.accelerator, lambda: check_folder(setup))
    fingerprint = load_known_exemplars(setup)
    on_main_process(setup.accelerator, check_hub)
    setup.accelerator.print("\n".join(describe(setup)))
    exemplars = None if setup.memory is None else setup.memory.examples
    checked = check_images(setup.scenario, setup.accelerator, exemplars)
    fingerprint |= checked.fingerprints
    on_main_process(setup.accelerator, lambda: setup.folder.open(fingerprint, overwrite=output.overwrite_output_dir))
    check_shared(setup.folder.path, setup.accelerator)
    config = {name: str(value) for name, value in without_local_paths(setup.folder.recipe).items()}
    setup.accelerator.init_trackers("dytox", config=config)
    return with_features(setup, checked.pixels)


def with_features(setup: Setup, pixels: dict[str, str]) -> Setup:
    """
    The run with the features that a frozen encoder makes of its images, unless the options ask for none.

    Args:
        setup (`Setup`): the run.
        pixels (`dict[str, str]`): digests of its images, see [`CheckedImages`].

    Raises:
        InputError: they would take too much room.
    """
    options, continuation, memory = setup.arguments.encoder, setup.continuation, setup.memory
    if not options.cached_views:
        return setup
    model = continuation.model if continuation else setup.method.build(setup.scenario.steps[0])
    num_views = options.cached_views
    note = "without augmentation" if num_views == 1 else f"in {num_views} views, {num_views - 1} of them augmented"
    setup.accelerator.print(f"Each training image is seen by the frozen encoder {note}.")
    scenario, source = cached_scenario(
        setup.scenario, model, options, setup.processor, setup.trainer.transform, pixels, setup.accelerator
    )
    if memory is not None:
        known = setup.num_known_steps
        memory.attach = lambda examples, steps: source.of_memory(examples, steps > known)
        if memory.examples is not None:
            memory.examples = memory.attach(memory.examples, memory.steps)
    return replace(setup, scenario=scenario)


def _processor(arguments: Arguments, continuation: Continuation | None, encoder: Encoder | None) -> ViTImageProcessor:
    if continuation is not None:
        return continuation.processor
    if encoder is not None:
        return encoder.processor
    return make_image_processor(arguments.model.side)


def _check_workers(arguments: Arguments, processor: ViTImageProcessor) -> None:
    options = arguments.optimization
    batch_size = max(options.per_device_train_batch_size, options.per_device_eval_batch_size)
    check_shared_memory(options.num_workers, batch_size, output_size(processor))


def describe(setup: Setup) -> list[str]:
    """The images and the steps of the run, a line each, and what to expect of it."""
    lines = setup.scenario.describe()
    if setup.method.encoder is not None and setup.method.encoder.num_patches == 1:
        lines.append(
            f"One token an image: of {setup.arguments.model.side} pixels the encoder makes a map of 1x1, which says "
            "nothing of where things are. A larger --image_size, such as "
            f"{4 * setup.arguments.model.side}, gives more."
        )
    if not setup.exact_across_processes:
        lines.append(
            "The encoder trains batch normalisation, whose statistics are of the images on one process: on another "
            "number of processes, or with other batches summed into an update, the model is another."
        )
    counts = np.bincount(setup.scenario.train.labels)[setup.scenario.steps[0].num_old_classes :]
    if setup.continuation is None and setup.method.encoder is None and counts.min() < FEW_IMAGES:
        name = printable(setup.scenario.class_names[int(counts.argmin())])
        lines.append(
            f"Few images: class {name} has {counts.min()} to learn from. A model that starts from random weights "
            "learns little from fewer than some hundred a class (CIFAR-100 has 500); a pretrained one needs fewer: "
            "--encoder_name_or_path"
        )
    return lines


def _make_memory(arguments: Arguments, method: Method, scenario: Scenario) -> RehearsalMemory | None:
    if not method.uses_memory:
        return None
    options = arguments.memory
    return make_memory(
        options.memory_size,
        len(scenario.class_names),
        options.fixed_memory,
        arguments.data.transparency,
        method.min_exemplars,
    )


def check_folder(setup: Setup) -> str:
    """
    Checks that the folder holds no other run, and that what is still to be learned has room there.

    Returns:
        `str`: the disk that the run needs, in words.

    Raises:
        InputError: it is not so.
    """
    overwrite = setup.arguments.output.overwrite_output_dir
    if not overwrite:
        setup.folder.check_recipe()
    last_step = setup.num_known_steps if setup.starts_fresh else setup.folder.last_step()
    memory_size = setup.arguments.memory.memory_size if setup.memory is not None else 0
    released = setup.folder.path if overwrite else setup.folder.checkpoints
    sizes = [size for step, size in _sizes_of_steps(setup).items() if step > last_step]
    return check_disk(setup.folder.path, sizes, memory_size, setup.scenario.train, released)


def _sizes_of_steps(setup: Setup) -> dict[int, StepSize]:
    """What each step of the run will take on the disk, by step, in float32."""
    sizes = {}
    with torch.device("meta"):
        model = None if setup.continuation is None else setup.continuation.empty_model()
        for step in setup.scenario.steps:
            if model is None:
                model = setup.method.build(step)
            else:
                model.add_task(step.class_names)
            weights = {name: 4 * tensor.numel() for name, tensor in model.state_dict().items()}
            has_frozen = model.config.freeze_encoder
            changing = sum(size for name, size in weights.items() if not (has_frozen and is_of_encoder(name)))
            # A state holds the weights that may change, and two moments of each.
            state = 3 * changing + setup.method.bytes_of_state(model) if setup.method.phases(step) else 0
            saved = sum(weights.values()) + setup.method.bytes_of_statistics(model)
            sizes[step.number] = StepSize(saved, state)
    return sizes


def load_known_exemplars(setup: Setup) -> dict[str, str]:
    """
    Loads the memory of the step that is continued, unless the run has its own.

    Args:
        setup (`Setup`): the run, whose memory is filled.

    Returns:
        `dict[str, str]`: its fingerprint; nothing without such a memory.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if setup.continuation is None or setup.memory is None or not setup.starts_fresh:
        return {}
    fingerprint = load_published_memory(setup.continuation, setup.memory)
    check_agreement(setup.accelerator, fingerprint, "rehearsal memories")
    return {"memory": fingerprint}
