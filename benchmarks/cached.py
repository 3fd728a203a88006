"""
Modes that learn from kept features of a frozen encoder, by the code that runs learn with. The encoder never runs: its
features are drawn at random, and written to a table in a temporary folder.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image
from transformers import ResNetConfig

from benchmarks.measures import PeakOfOwnMemory, synchronize
from benchmarks.options import Options
from benchmarks.parts import Parts, Timed, watched
from benchmarks.workloads import make_accelerator, make_model_of, make_step
from modeling_dytox.image_processing import make_image_processor
from training.data import loading
from training.data.examples import Examples
from training.data.features import FeatureSource, FeatureTable
from training.data.scenario import LearnedClasses, Scenario, Step
from training.loop.checkpointing import Checkpoints, TrainingState
from training.loop.context import StepContext
from training.loop.epoch import EpochTrainer
from training.loop.evaluation import Evaluator
from training.loop.logs import RunLog, Stopwatch
from training.loop.phase import PhaseTrainer
from training.methods import closed_form, make_method, ncm, ridge
from training.run.encoder import Encoder
from training.seeding import derive_seed, seed_everything


# An update: decoder, teacher, losses, their gradients and the optimizer.
PARTS_OF_AN_EPOCH: tuple[Timed, ...] = (
    ("decoder", EpochTrainer, "_update"),
    ("inputs", EpochTrainer, "_inputs"),
    ("reading", loading, "read_features"),
    ("loader", EpochTrainer, "train"),
    ("saving_states", Checkpoints, "save"),
    ("log", RunLog, "write"),
)
PARTS_OF_A_SOLUTION: tuple[Timed, ...] = (
    ("reading", Evaluator, "features"),
    ("inputs", closed_form.ClosedForm, "inputs"),
    ("inputs", ridge.Ridge, "inputs"),
    ("sums", ridge.Ridge, "add"),
    ("sums", ncm.NearestClassMean, "add"),
    ("lambda", ridge, "choose_lambda"),
    ("weights", ridge.Ridge, "solve"),
    ("weights", ncm.NearestClassMean, "solve"),
    ("scale", closed_form, "fit_scale"),
)


class Epochs(Checkpoints):
    """
    Saves states as a run does, and notes the clocks and the parts at the end of each epoch.

    Args:
        folder (`Path`): of the states.
        parts (`Parts`): counts the seconds of each part.
    """

    def __init__(self, folder: Path, parts: Parts) -> None:
        super().__init__(folder)
        self.parts = parts
        self.noted: list[dict[str, float]] = []
        self.note()

    def save(self, state: TrainingState) -> None:
        """Saves a state, the last that an epoch does."""
        super().save(state)
        self.note()

    def note(self) -> None:
        """Notes the time so far."""
        self.noted.append({"wall": time.perf_counter(), "cpu": time.process_time(), **self.parts.seconds})


def measure_cached(options: Options) -> dict[str, Any]:
    """
    Measures epochs of the main phase of the last step, with a teacher from step 2 on.

    Returns:
        `dict[str, Any]`: see `benchmarks/README.md`.
    """
    run = options.run
    accelerator = make_accelerator(options)
    device = accelerator.device
    seed_everything(run.seed, "throughput")
    method = make_method(options.training, make_encoder(options))
    step = make_step(options, run.num_steps)
    model = make_model_of(options, method, step, device)
    (phase, *_) = method.phases(step)
    with made_examples(options, "tokens") as (examples, folder):
        with watched(PARTS_OF_AN_EPOCH, lambda: synchronize(device)) as parts, PeakOfOwnMemory() as memory:
            epochs = Epochs(folder / "states", parts)
            trainer = PhaseTrainer(
                accelerator,
                options.training,
                method,
                make_image_processor(options.model.side),
                RunLog(accelerator, folder),
                epochs,
                run.num_steps,
            )
            trainer.train(model, step, phase, examples, Stopwatch())
    num_updates = trainer.num_updates(len(examples), phase) // phase.epochs
    return {
        "num_parameters": model.num_parameters(only_trainable=True),
        "updates_of_an_epoch": num_updates,
        **_of_epochs(epochs.noted[run.warmup :], num_updates, run.num_images),
        "peak_own_memory_growth_bytes": memory.growth,
    }


def _of_epochs(noted: list[dict[str, float]], num_updates: int, num_images: int) -> dict[str, Any]:
    """Seconds of an update, and the share of the time of all epochs that went to each part."""
    walls = [mark["wall"] for mark in noted]
    seconds = [after - before for before, after in zip(walls, walls[1:], strict=False)]
    median = statistics.median(seconds)
    total = {name: noted[-1][name] - noted[0].get(name, 0.0) for name in noted[-1]}
    wall, cpu = total.pop("wall"), total.pop("cpu")
    total["other"] = wall - sum(total.values())
    return {
        "median_step_seconds": median / num_updates,
        "min_step_seconds": min(seconds) / num_updates,
        "images_per_second": num_images / median,
        "median_epoch_seconds": median,
        "cpu_seconds_of_an_epoch": cpu / len(seconds),
        "share_of_epoch": {name: value / wall for name, value in total.items()},
    }


def measure_closed_form(options: Options) -> dict[str, Any]:
    """
    Measures what `ncm` or `ridge` learns of a step: sums over its images, weights, and their scale.

    Returns:
        `dict[str, Any]`: see `benchmarks/README.md`.
    """
    run, accelerator = options.run, make_accelerator(options)
    seed_everything(run.seed, "throughput")
    step = _only_step(options)
    model = make_method(options.training, make_encoder(options)).build(step).to(accelerator.device)
    evaluator = Evaluator(
        accelerator, make_image_processor(8), options.training.optimization.per_device_eval_batch_size, run.num_workers
    )
    noted = []
    with made_examples(options, "pooled") as (examples, _):
        step = replace(step, train=examples)
        scenario = Scenario([step], examples, examples, LearnedClasses())
        context = StepContext(step, model, None, scenario, evaluator, run.seed)
        with PeakOfOwnMemory() as memory:
            for _ in range(run.warmup + run.repeats):
                with watched(PARTS_OF_A_SOLUTION) as parts:
                    wall, cpu = time.perf_counter(), time.process_time()
                    make_method(options.training, make_encoder(options)).after_step(context)
                    clocks = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
                noted.append((clocks, dict(parts.seconds)))
    clocks, seconds = min(noted[run.warmup :], key=lambda each: each[0]["wall"])
    median = statistics.median(clocks["wall"] for clocks, _ in noted[run.warmup :])
    return {
        "num_parameters": model.head.weight.numel(),
        "median_step_seconds": median,
        "min_step_seconds": clocks["wall"],
        "images_per_second": run.num_images / median,
        "cpu_seconds": clocks["cpu"],
        "seconds_of_parts": seconds | {"other": clocks["wall"] - sum(seconds.values())},
        "peak_own_memory_growth_bytes": memory.growth,
    }


def _only_step(options: Options) -> Step:
    """One step of all classes."""
    step = make_step(options, 1)
    num_classes = options.run.num_steps * options.run.classes_per_step
    names = [f"class {label}" for label in range(num_classes)]
    return replace(step, class_names=names, class_range=(0, num_classes))


def make_encoder(options: Options) -> Encoder:
    """An encoder of the least size whose features have the width that is asked for."""
    run = options.run
    width = run.token_width if run.mode == "cached" else run.pooled_width
    config = ResNetConfig(embedding_size=1, hidden_sizes=[width], depths=[1], layer_type="basic")
    fields = {
        "image_size": options.model.side,
        "encoder_config": config.to_dict(),
        "freeze_encoder": True,
        "encoder_hidden_size": width,
        "encoder_pooled_size": width,
        "num_prefix_tokens": 0,
    }
    return Encoder(fields, make_image_processor(options.model.side), run.num_tokens)


@contextmanager
def made_examples(options: Options, kind: str) -> Iterator[tuple[Examples, Path]]:
    """
    Images without pixels whose features are kept, one view each, and the temporary folder that keeps them.

    Args:
        options (`Options`): how many, and their sizes.
        kind (`str`): which features: `tokens` or `pooled`.
    """
    run = options.run
    random = np.random.default_rng(derive_seed(run.seed, "features"))
    labels = random.integers(run.num_steps * run.classes_per_step, size=run.num_images)
    shape = (run.num_tokens, run.token_width) if kind == "tokens" else (run.pooled_width,)
    missing = Dataset.from_dict({"image": [None] * run.num_images}, features=Features({"image": Image()}))
    with TemporaryDirectory() as folder:
        table = FeatureTable(Path(folder) / "features", run.num_images, {kind: shape}, "float16")
        means = random.random((run.num_steps * run.classes_per_step, shape[-1]), dtype=np.float32)
        for batch in range(table.num_batches):
            rows = table.rows_of(batch)
            noise = random.standard_normal((len(rows), *shape), dtype=np.float32)
            centres = means[labels[rows]].reshape(len(rows), *[1] * (len(shape) - 1), shape[-1])
            table.write(batch, 0, {kind: np.abs(centres + noise)})
        table.flush()
        sources = np.arange(run.num_images)
        source = FeatureSource(kind, table, table, sources, _refuse)
        yield source.of_train(Examples(missing, labels, sources)), Path(folder)


def _refuse(examples: Examples) -> np.ndarray:
    raise AssertionError("features of images that are not in the table")
