"""The features of a frozen encoder for a run: which are kept where, and how they are computed."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from huggingface_hub import constants
from PIL import Image
from transformers import ViTImageProcessor

from hub.run.errors import InputError
from modeling_dytox import IncrementalModel
from modeling_dytox.encoders import EncoderFeatures
from training.arguments import EncoderArguments
from training.data.examples import Examples
from training.data.features import FeatureSource, FeatureTable
from training.data.loading import EvalTransform, TrainTransform
from training.data.scenario import Scenario
from training.loop.disk import disk_errors_named
from training.loop.logs import progress_bar
from training.tensor_digest import tensor_digest


def cached_scenario(
    scenario: Scenario,
    model: IncrementalModel,
    options: EncoderArguments,
    processor: ViTImageProcessor,
    transform: Callable[[Image.Image], torch.Tensor],
    pixels: dict[str, str],
    accelerator: Accelerator,
) -> tuple[Scenario, FeatureSource]:
    """
    The scenario with the features of all its images, which are computed where they are not kept yet.

    Args:
        scenario (`Scenario`): has the images.
        model (`IncrementalModel`): has the frozen encoder.
        options (`EncoderArguments`): where features are kept, how much they may take, and how many views.
        processor (`ViTImageProcessor`): prepares images.
        transform: the training augmentation, image to uint8 tensor.
        pixels (`dict[str, str]`): digests of the images of `training` and `test`.
        accelerator (`Accelerator`): processes and device.

    Raises:
        InputError: they would take more than the options allow, or the disk is full.
    """
    base: Any = model.base_model
    encoder = base.to(accelerator.device).eval()
    shapes = _shapes(encoder, scenario, processor)
    if model.cached_input == "pooled":
        del shapes["tokens"]
    views = options.cached_views or 1
    _check_budget(shapes, len(scenario.train) * views, len(scenario.test), options)
    folder = _folder(options)
    augmented = [TrainTransform(processor, transform, "view", view) for view in range(1, views)]
    transforms = [EvalTransform(processor), *augmented]
    of_encoder = _digest(tensor_digest(base.encoder.state_dict().items()).digest(), repr(processor.to_dict()))
    # Pooled features are of the last map, whichever map gives the tokens: methods share them.
    output = model.config.encoder_output
    file_names = {} if output is None else {"tokens": f"tokens_of_output{output}_view"}
    tables = []
    for name, examples, prepare, dtype in (
        ("training", scenario.train, transforms, "float16"),
        ("test", scenario.test, transforms[:1], "float32"),
    ):
        # Without augmented views these are the same for every augmentation.
        augmentation = repr(transform) if len(prepare) > 1 else ""
        key = _digest(of_encoder, pixels[name], examples.source_indices.tobytes(), dtype, augmentation)
        with disk_errors_named(folder / key):
            table = FeatureTable(folder / key, len(examples), shapes, dtype, len(prepare), file_names)
            _fill(table, examples, encoder, prepare, accelerator, name)
        tables.append(table)

    def compute(others: Examples) -> np.ndarray:
        rows = [_features(encoder, others, np.array([row]), transforms[0]) for row in range(len(others))]
        return np.concatenate([features[model.cached_input] for features in rows])

    source = FeatureSource(model.cached_input, tables[0], tables[1], scenario.train.source_indices, compute)
    return _with_features(scenario, source), source


def _with_features(scenario: Scenario, source: FeatureSource) -> Scenario:
    steps = [replace(step, train=source.of_train(step.train)) for step in scenario.steps]
    train, test = source.of_train(scenario.train), source.of_test(scenario.test)
    return replace(scenario, train=train, test=test, steps=steps)


def _shapes(encoder: Any, scenario: Scenario, processor: ViTImageProcessor) -> dict[str, tuple[int, ...]]:
    found = _features(encoder, scenario.train, np.array([0]), EvalTransform(processor))
    return {kind: values.shape[1:] for kind, values in found.items()}


@torch.no_grad()
def _features(encoder: Any, examples: Examples, positions: np.ndarray, prepare: Any) -> dict[str, np.ndarray]:
    pixel_values = prepare(examples.images_at(positions), examples.source_indices[positions])
    pixel_values = pixel_values.to(encoder.device, memory_format=torch.channels_last)
    features: EncoderFeatures = encoder.features(pixel_values)
    return {kind: values.float().cpu().numpy() for kind, values in features._asdict().items()}


def _check_budget(
    shapes: dict[str, tuple[int, ...]], num_train: int, num_test: int, options: EncoderArguments
) -> None:
    numbers = sum(int(np.prod(shape)) for shape in shapes.values())
    needed = numbers * (2 * num_train + 4 * num_test) / 1e9
    if needed > options.feature_cache_gb:
        raise InputError(
            f"--feature_cache_gb {options.feature_cache_gb:g} is too small: the features of this run take "
            f"{needed:.3g} GB. Give more, fewer --cached_views, or --cached_views 0 to keep none."
        )


def _folder(options: EncoderArguments) -> Path:
    if options.feature_cache_dir is not None:
        return Path(options.feature_cache_dir).expanduser()
    return Path(constants.HF_HOME) / "dytox_features"


def _fill(
    table: FeatureTable,
    examples: Examples,
    encoder: Any,
    transforms: list[Any],
    accelerator: Accelerator,
    name: str,
) -> None:
    """Computes the batches that are missing or damaged, shared out over the processes."""
    # Several times faster for convolutions on CPUs.
    encoder.encoder.to(memory_format=torch.channels_last)
    missing = [
        (batch, view)
        for view in range(table.num_views)
        for batch in range(table.num_batches)
        if not table.is_done(batch, view)
    ]
    # Every process has looked before one writes: all share out the same batches.
    accelerator.wait_for_everyone()
    own: Iterable[tuple[int, int]] = missing[accelerator.process_index :: accelerator.num_processes]
    if missing:
        own = progress_bar(accelerator, own, desc=f"features of {name} images", unit="batch")
    for batch, view in own:
        rows = table.rows_of(batch)
        features = _features(encoder, examples, rows, transforms[view])
        for values in features.values():
            _check_range(values, table)
        table.write(batch, view, features)
    encoder.encoder.to(memory_format=torch.contiguous_format)
    table.flush()
    accelerator.wait_for_everyone()


def _check_range(values: np.ndarray, table: FeatureTable) -> None:
    dtype = next(iter(table.arrays.values())).dtype
    if not np.abs(values).max(initial=0) <= np.finfo(dtype).max:
        raise InputError(
            f"The encoder gives features beyond the range of {dtype}, in which they are kept: add --cached_views 0."
        )


def _digest(*parts: bytes | str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()
