"""
Converts a checkpoint of the authors' code (https://github.com/arthurdouillard/dytox) to a folder that
`AutoModelForImageClassification.from_pretrained` loads:

    python -m modeling_dytox.convert_original_to_hf --checkpoint checkpoint_9.pth --output_dir dytox-cifar100

The sizes of the model follow from its tensors. The divergence classifier is used in training only and is left out.
"""

import argparse
import math
import pickle
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file

from modeling_dytox import DyToxConfig, DyToxForImageClassification
from modeling_dytox.image_processing import make_image_processor


DIVERGENCE_CLASSIFIER = "head_div."
# Original module or parameter to ours, within one block. `qk` stacks two of our layers.
SHARED_PARTS = {
    "norm1": ("layernorm_before",),
    "attn.v": ("attention.v_proj",),
    "attn.proj": ("attention.o_proj",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
ENCODER_PARTS = SHARED_PARTS | {
    "attn.gating_param": ("attention.gate",),
    "attn.qk": ("attention.q_proj", "attention.k_proj"),
    "attn.pos_proj": ("attention.position_proj",),
}
DECODER_PARTS = SHARED_PARTS | {"attn.q": ("attention.q_proj",), "attn.k": ("attention.k_proj",)}
CLASSIFIER_PARTS = {"norm": ("layernorm",), "head": ("linear",)}
# Layers without a bias, and parameters that belong to no layer.
WEIGHT_ONLY = ("attn.v", "attn.qk", "attn.q", "attn.k")
BARE_PARAMETERS = ("attn.gating_param",)


def original_to_hf_names(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """
    Maps the parameter names of the authors' model to ours.

    Args:
        names (`Iterable[str]`): all parameter names of the authors' model, without DDP's `module.` prefix.

    Returns:
        `dict[str, tuple[str, ...]]`: for each original name the names in a [`DyToxForImageClassification`]: one; two
        for `qk`, which hold the first and the second half of its rows; none for the divergence classifier.

    Raises:
        `ValueError`: if a name is missing or unexpected; the message gives the first one.
    """
    names = list(names)
    expected: dict[str, tuple[str, ...]] = {
        "patch_embed.proj.weight": ("dytox.embeddings.patch_embeddings.weight",),
        "patch_embed.proj.bias": ("dytox.embeddings.patch_embeddings.bias",),
        "pos_embed": ("dytox.embeddings.position_embeddings",),
    }
    for index in range(_count_blocks(names, "sabs")):
        expected |= _block_names(f"sabs.{index}", f"dytox.layers.{index}", ENCODER_PARTS)
    for index in range(_count_blocks(names, "tabs")):
        expected |= _block_names(f"tabs.{index}", f"dytox.task_attention_layers.{index}", DECODER_PARTS)
    for index in range(_count_blocks(names, "head")):
        expected[f"task_tokens.{index}"] = (f"dytox.task_tokens.{index}",)
        expected |= _block_names(f"head.{index}", f"classifiers.{index}", CLASSIFIER_PARTS)
    expected |= {name: () for name in names if name.startswith(DIVERGENCE_CLASSIFIER)}
    for name in expected:
        if name not in names:
            raise ValueError(f"the state dict is not the authors' DyTox: {name!r} is missing.")
    for name in names:
        if name not in expected:
            raise ValueError(f"the state dict is not the authors' DyTox: {name!r} is unexpected.")
    return expected


def convert_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Renames and reshapes the tensors of the authors' model to those of a [`DyToxForImageClassification`]. Gradients by
    parameter name can be converted in the same way.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): all tensors of the authors' model by name. Those of the divergence
            classifier are dropped.

    Returns:
        `dict[str, torch.Tensor]`: the tensors of our model by name.

    Raises:
        `ValueError`: if a name is missing or unexpected.
    """
    converted: dict[str, torch.Tensor] = {}
    for name, hf_names in original_to_hf_names(state_dict).items():
        tensor = state_dict[name]
        if name.startswith("task_tokens."):
            tensor = tensor.reshape(1, -1)
        if hf_names:
            parts = torch.atleast_1d(tensor).tensor_split(len(hf_names))
            # Clones, since safetensors refuses tensors that share memory.
            converted |= {hf_name: part.clone() for hf_name, part in zip(hf_names, parts, strict=True)}
    return converted


def config_from_state_dict(
    state_dict: Mapping[str, torch.Tensor], class_names: Sequence[str] | None = None
) -> DyToxConfig:
    """
    Derives the configuration from the tensors of the authors' model. Images and patches are square, as in all their
    models.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): all tensors of the authors' model by name.
        class_names (`Sequence[str]`, *optional*): names of the classes in the order of learning.

    Returns:
        `DyToxConfig`: the configuration.

    Raises:
        `ValueError`: if names of the state dict are missing or unexpected, the patches form no square, or
            `class_names` does not name every class exactly once.
    """
    original_to_hf_names(state_dict)
    hidden_size, num_channels, patch_size, _ = _shape(state_dict, "patch_embed.proj.weight", 4)
    _, num_patches, _ = _shape(state_dict, "pos_embed", 3)
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(f"pos_embed holds {num_patches} patches, which make no square image.")
    class_ranges = _class_ranges(state_dict)
    labels = {} if class_names is None else _labels(class_names, class_ranges[-1][1])
    try:
        return DyToxConfig(
            image_size=side * patch_size,
            patch_size=patch_size,
            num_channels=num_channels,
            hidden_size=hidden_size,
            num_hidden_layers=_count_blocks(state_dict, "sabs"),
            num_task_attention_layers=_count_blocks(state_dict, "tabs"),
            num_attention_heads=_shape(state_dict, "sabs.0.attn.gating_param", 1)[0],
            intermediate_size=_shape(state_dict, "sabs.0.mlp.fc1.weight", 2)[0],
            class_ranges=class_ranges,
            **labels,
        )
    except StrictDataclassError as error:
        raise ValueError(f"the tensors do not fit together: {error}") from error


def load_original_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """
    Reads the state dict of the authors' model. Only tensors, plain values and `argparse` options are unpickled.

    Args:
        path (`str` or `Path`): a checkpoint of the authors, which holds the state dict under `"model"` beside the
            optimizer and the options; a state dict alone; or a safetensors file.

    Returns:
        `dict[str, torch.Tensor]`: the tensors by name, without DDP's `module.` prefix.

    Raises:
        `ValueError`: if the file does not exist, is no checkpoint, or holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file: give the path of a checkpoint.")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no state dict, neither by itself nor under 'model'.")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{path} holds no state dict: {name!r} is not the name of a tensor.")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def convert(checkpoint: str | Path, output_dir: str | Path, class_names: Sequence[str] | None = None) -> None:
    """
    Converts a checkpoint of the authors to a folder in our format, which is written completely or not at all.

    Args:
        checkpoint (`str` or `Path`): a file that [`load_original_checkpoint`] reads.
        output_dir (`str` or `Path`): the folder to create. It must be empty if it exists.
        class_names (`Sequence[str]`, *optional*): names of the classes in the order of learning.

    Raises:
        `ValueError`: if the checkpoint, the class names or the folder cannot be used; the message says why.
    """
    output_dir = Path(output_dir).absolute()
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} exists already: remove it or give another --output_dir.")
    state_dict = load_original_checkpoint(checkpoint)
    config = config_from_state_dict(state_dict, class_names)
    model = DyToxForImageClassification(config)
    converted = convert_state_dict(state_dict)
    for name, tensor in model.state_dict().items():
        if converted[name].shape != tensor.shape:
            raise ValueError(
                f"{name} would have the shape {tuple(converted[name].shape)}, but the sizes of the other tensors ask "
                f"for {tuple(tensor.shape)}: the checkpoint is damaged or not the authors' DyTox."
            )
    model.load_state_dict(converted)

    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-", dir=output_dir.parent) as staging:
        folder = Path(staging) / output_dir.name
        model.save_pretrained(folder)
        make_image_processor(config.image_height_width[0]).save_pretrained(folder)
        folder.rename(output_dir)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line. Bad input ends it with status 1 and one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m modeling_dytox.convert_original_to_hf", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--checkpoint", required=True, help="checkpoint of the authors, .pth or .safetensors")
    parser.add_argument("--output_dir", required=True, help="folder to make; it must not exist or be empty")
    parser.add_argument(
        "--class_names",
        help="text file with one class name a line, in the order of learning (default: LABEL_0, LABEL_1, ...)",
    )
    options = parser.parse_args(arguments)
    try:
        class_names = None if options.class_names is None else _read_class_names(options.class_names)
        convert(options.checkpoint, options.output_dir, class_names)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    sys.stdout.write(f"{options.output_dir}\n")


def _count_blocks(names: Iterable[str], block: str) -> int:
    indices = [int(match[1]) for name in names if (match := re.match(rf"{block}\.(\d+)\.", name))]
    # At least one, so that the first tensor of a missing block is reported.
    return max(indices, default=0) + 1


def _shape(state_dict: Mapping[str, torch.Tensor], name: str, ndim: int) -> torch.Size:
    shape = state_dict[name].shape
    if len(shape) != ndim:
        raise ValueError(f"{name} has the shape {tuple(shape)}, but the authors' DyTox has {ndim} dimension(s) there.")
    return shape


def _block_names(original: str, ours: str, parts: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for part, hf_parts in parts.items():
        suffixes = ("",) if part in BARE_PARAMETERS else (".weight",) if part in WEIGHT_ONLY else (".weight", ".bias")
        for suffix in suffixes:
            names[f"{original}.{part}{suffix}"] = tuple(f"{ours}.{hf_part}{suffix}" for hf_part in hf_parts)
    return names


def _class_ranges(state_dict: Mapping[str, torch.Tensor]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for step in range(_count_blocks(state_dict, "head")):
        start = ranges[-1][1] if ranges else 0
        ranges.append([start, start + _shape(state_dict, f"head.{step}.head.weight", 2)[0]])
    return ranges


def _labels(class_names: Sequence[str], num_classes: int) -> dict[str, Any]:
    if len(class_names) != num_classes:
        raise ValueError(f"there are {len(class_names)} class names, but the model predicts {num_classes} classes.")
    label2id = {name: label for label, name in enumerate(class_names)}
    for label, name in enumerate(class_names):
        if label2id[name] != label:
            raise ValueError(f"class name {name!r} is given more than once.")
    return {"id2label": dict(enumerate(class_names)), "label2id": label2id}


def _read_class_names(path: str | Path) -> list[str]:
    if not Path(path).is_file():
        raise ValueError(f"{path} is not a file: give a text file with one class name a line.")
    return [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _load_pickle(path: Path) -> object:
    try:
        # `weights_only` builds tensors and plain values. `Namespace`, which holds the options, runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is None:
            raise ValueError(f"{path} is not a checkpoint that torch can read safely.") from error
        raise ValueError(
            f"{path} holds a {refused[1]}, and loading such an object could run any code: save the model's state "
            "dict alone with torch.save and convert that file."
        ) from error
    except OSError:
        raise
    except Exception as error:
        # On bytes that are no pickle the unpickler may raise any error.
        raise ValueError(f"{path} is not a checkpoint that torch can read.") from error


if __name__ == "__main__":
    main()
