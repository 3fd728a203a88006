"""What a step of each mode does: the code that training and evaluation run, on synthetic images."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from torch import nn
from tqdm.auto import tqdm

from benchmarks.options import DTYPES, Options
from benchmarks.t_pass import TPassDyTox
from modeling_dytox import DyToxForImageClassification
from modeling_dytox.image_processing import make_image_processor
from training.data.augmentation import Normalizer, make_train_transform
from training.data.batches import BatchLayout, TrainingBatches
from training.data.examples import Examples
from training.data.loading import Batch, TrainingLoader
from training.data.scenario import LearnedClasses, Scenario, Step
from training.loop.context import StepContext
from training.loop.epoch import EpochTrainer
from training.loop.evaluation import Evaluator
from training.loop.learner import LossModule
from training.loop.phase import freeze, make_optimizer, train_mode_except_frozen
from training.methods import Method, make_method
from training.methods.dytox import DyTox
from training.seeding import derive_seed, seed_everything


BATCHES_OF_A_PASS = 20


@dataclass(frozen=True)
class Workload:
    """
    What a mode repeats.

    Args:
        call: does the work.
        device (`torch.device`): where.
        model (`DyToxForImageClassification`, *optional*): what computes, where something does.
        batches (`int`): batches that a call goes through.
        forwards, backwards (`int`): how often a batch passes a model of the full size forwards and backwards.
    """

    call: Callable[[], object]
    device: torch.device
    model: DyToxForImageClassification | None = None
    batches: int = 1
    forwards: int = 1
    backwards: int = 0


def make_workload(options: Options) -> Workload:
    """The workload of the mode; the same seed makes the same weights and images."""
    if options.run.mode == "data":
        return make_loading(options)
    if options.run.mode in ("eval", "herding"):
        return make_inference(options)
    training = Training(options)
    return Workload(
        training.step,
        training.accelerator.device,
        training.model,
        forwards=2 if options.run.mode == "train_teacher" else 1,
        backwards=1,
    )


def make_inference(options: Options) -> Workload:
    """Mode `eval`: logits in inference mode. Mode `herding`: the embedding as the loop asks for it, on the CPU."""
    run = options.run
    seed_everything(run.seed, "throughput")
    device = torch.device(run.device)
    method = make_method(options.training)
    model = make_grown_model(options, method, run.num_steps, device, DTYPES[run.dtype]).eval()
    images = make_batch(options).images.to(device)
    pixel_values = Normalizer(make_image_processor(options.model.side), device)(images)
    forward = _implementation(options, model)
    if run.compile:
        (forward if run.mode == "eval" else forward.dytox).compile()

    def predict() -> None:
        with torch.inference_mode():
            forward(pixel_values)

    def embed() -> None:
        with torch.no_grad():
            method.embed(forward, pixel_values).float().cpu().numpy()

    return Workload(predict if run.mode == "eval" else embed, device, model)


def _implementation(options: Options, model: DyToxForImageClassification) -> DyToxForImageClassification:
    """What is called in place of the model."""
    if options.run.implementation == "ours":
        return model
    return cast(DyToxForImageClassification, TPassDyTox(model).to(model.device))


class Training:
    """
    The main phase of the last step, as the training loop sets it up, on one batch again and again.

    Args:
        options (`Options`): modes `train` and `train_teacher`.

    Raises:
        InputError: `--implementation t_pass` without the folder `tests/`.
    """

    def __init__(self, options: Options) -> None:
        run, arguments = options.run, options.training
        self.accelerator = make_accelerator(options)
        device = self.accelerator.device
        seed_everything(run.seed, "throughput")
        step = make_step(options, run.num_steps)
        self.model, self.learner = make_learner(options, step, device)
        # At the peak of its schedule.
        peak = self.learner.phase.learning_rate
        optimizer = make_optimizer(self.learner, self.learner.phase, arguments.optimization.weight_decay, peak)
        prepared, optimizer = self.accelerator.prepare(self.learner, optimizer)
        train_mode_except_frozen(prepared)
        normalize = Normalizer(make_image_processor(options.model.side), device)
        self.batch = make_batch(options)
        self.trainer = EpochTrainer(
            self.accelerator, prepared, self.learner, optimizer, normalize, step.num_seen_classes
        )
        self.progress = tqdm(disable=True)

    def step(self) -> None:
        """One update: an epoch of a single batch."""
        self.trainer.train(iter([[self.batch]]), self.progress)


def make_accelerator(options: Options) -> Accelerator:
    """Device and precision of training."""
    return Accelerator(
        cpu=options.run.device == "cpu",
        mixed_precision=options.training.optimization.mixed_precision,
        dynamo_backend="inductor" if options.run.compile else "no",
    )


def make_learner(options: Options, step: Step, device: torch.device) -> tuple[DyToxForImageClassification, LossModule]:
    """The model, grown by the last step, and what trains it in the main phase: the method with its teacher."""
    method = cast(DyTox, make_method(options.training))
    model = make_model_of(options, method, step, device)
    (phase, *_) = method.phases(step)
    freeze(model, phase.frozen)
    learner = LossModule(method, model, step, phase)
    learner.model = _implementation(options, model)
    if method.teacher is not None:
        method.teacher = _implementation(options, cast(DyToxForImageClassification, method.teacher))
    return model, learner


def make_model_of(options: Options, method: Method, step: Step, device: torch.device) -> DyToxForImageClassification:
    """The model, grown by the last step, and its teacher, which the method keeps."""
    model = make_grown_model(options, method, max(step.number - 1, 1), device)
    if step.number > 1:
        context = make_context(options, step, model)
        method.before_growth(context)
        method.grow(context)
    return model


def make_context(options: Options, step: Step, model: DyToxForImageClassification) -> StepContext:
    """The step as the hooks of the method see it; its images are not asked for."""
    scenario = Scenario([step], step.train, step.train, LearnedClasses())
    evaluator = Evaluator(Accelerator(), make_image_processor(options.model.side), options.run.batch_size, 0)
    return StepContext(step, model, None, scenario, evaluator, options.run.seed)


def make_grown_model(
    options: Options, method: Method, num_steps: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> DyToxForImageClassification:
    """A model that knows `num_steps` steps, with weights as they are drawn."""
    model = cast(DyToxForImageClassification, method.build(make_step(options, 1)))
    for number in range(2, num_steps + 1):
        model.add_task(make_step(options, number).class_names)
    nn.Module.to(model, device, dtype)
    return model


def make_step(options: Options, number: int) -> Step:
    """A step of the run; its images are not asked for."""
    stop = number * options.run.classes_per_step
    start = stop - options.run.classes_per_step
    return Step(number, [f"class {label}" for label in range(start, stop)], (start, stop), make_examples(options, 0))


def make_batch(options: Options) -> Batch:
    """Random pixels with labels of all classes."""
    run, size = options.run, options.model.side
    generator = torch.Generator().manual_seed(derive_seed(run.seed, "images"))
    images = torch.randint(256, (run.batch_size, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(run.num_steps * run.classes_per_step, (run.batch_size,), generator=generator)
    if run.device == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()
    return Batch(images, labels)


def make_loading(options: Options) -> Workload:
    """Mode `data`: passes over images in PNG through the loader of training."""
    run, optimization = options.run, options.training.optimization
    examples = make_examples(options, BATCHES_OF_A_PASS * run.batch_size)
    loader = TrainingLoader(
        examples,
        make_train_transform(optimization, make_image_processor(options.model.side)),
        TrainingBatches(len(examples), BatchLayout(run.batch_size)),
        run.num_workers,
    )
    passes = loader.epochs(range(run.warmup + run.repeats), run.seed, "throughput")

    def load() -> None:
        for _ in next(passes):
            pass

    return Workload(load, torch.device("cpu"), batches=BATCHES_OF_A_PASS)


def make_examples(options: Options, number: int) -> Examples:
    """Images of smooth random colours, which compress as photographs do, with labels of all classes."""
    random = np.random.default_rng(derive_seed(options.run.seed, "images"))
    rows = [{"bytes": _png(random, options.model.side), "path": None} for _ in range(number)]
    return Examples(
        Dataset.from_dict({"image": rows}, features=Features({"image": Image()})),
        random.integers(options.run.num_steps * options.run.classes_per_step, size=number),
        np.arange(number),
    )


def _png(random: np.random.Generator, size: int) -> bytes:
    coarse = PILImage.fromarray(random.integers(256, size=(4, 4, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((size, size), PILImage.Resampling.BICUBIC)) // 2
    noise = random.integers(16, size=pixels.shape, dtype=np.uint8)
    file = io.BytesIO()
    PILImage.fromarray(pixels + noise).save(file, "PNG")
    return file.getvalue()
