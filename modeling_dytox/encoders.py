"""
Vision models of `transformers` as encoders: what any of them makes of images, as patch tokens.

Shapes in this file: `B` images, `N` patches, `E` width of the encoder, `P` width of its last map, `D` hidden size.
"""

import inspect
import json
import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, PreTrainedModel


# Among the names of parameters: any other name.
ANY = "**"


class EncoderFeatures(NamedTuple):
    """
    What an encoder makes of images.

    Args:
        tokens (`torch.Tensor` of shape `(B, N, E)`): one vector a patch, row by row, without prefix tokens.
        pooled (`torch.Tensor` of shape `(B, P)`): one vector an image: the first prefix token, else the mean of the
            patches, of the last map.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor


class HasEncoder(nn.Module):
    """
    What base models have in common whose `encoder` is a vision model of `transformers`; where the config names none,
    they have one of their own under other names. Stands before `PreTrainedModel` among their bases.
    """

    config: Any
    encoder: PreTrainedModel

    def freeze_encoder(self) -> None:
        """No gradient, and eval mode from the start: a new model is in train mode, whatever is called first."""
        self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "HasEncoder":
        """Train or eval mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.encoder.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """What turns patches into tokens; that of the encoder, where the model has another than its own."""
        embeddings: nn.Module
        if self.config.encoder_config is not None:
            embeddings = self.encoder.get_input_embeddings()
        else:
            embeddings = super().get_input_embeddings()  # type: ignore[misc]
        return embeddings

    def features(self, pixel_values: torch.Tensor) -> "EncoderFeatures":
        """What an encoder of `transformers` makes of images, see [`EncoderFeatures`]; no gradient if it is frozen."""
        return self._run_encoder(pixel_values)[1]

    def _run_encoder(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple[Any, "EncoderFeatures"]:
        """The outputs of the encoder, with hidden states and attentions where they are asked for, and its features."""
        asked = {name: kwargs[name] for name in ("output_hidden_states", "output_attentions") if kwargs.get(name)}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoder):
            return run_encoder(self.encoder, pixel_values, self.config, **asked)


def make_encoder(config: Any) -> PreTrainedModel:
    """The encoder that a config describes, with new weights, and without the pooler that many have and none uses."""
    encoder: PreTrainedModel = AutoModel.from_config(config.encoder_config, **without_pooler(config.encoder_config))
    return encoder


def without_pooler(encoder_config: Any) -> dict[str, bool]:
    """Options with which `AutoModel` makes or loads an encoder without a pooler, where it has one to leave out."""
    kind: Any = AutoModel._model_mapping[type(encoder_config)]
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def run_encoder(
    encoder: PreTrainedModel, pixel_values: torch.Tensor, config: Any, **kwargs: Any
) -> tuple[Any, EncoderFeatures]:
    """
    Runs an encoder.

    Args:
        encoder (`nn.Module`): of [`make_encoder`].
        pixel_values (`torch.Tensor` of shape `(B, num_channels, height, width)`): images.
        config: has `num_prefix_tokens`, `encoder_output` and `image_height_width`.
        **kwargs: such as `output_hidden_states`; those that the encoder does not have are left out.

    Returns:
        `tuple[Any, EncoderFeatures]`: the outputs of the encoder, and its features.
    """
    taken = _forward_parameters(encoder)
    options = {name: value for name, value in kwargs.items() if ANY in taken or name in taken}
    options |= _position_options(encoder, config)
    outputs, last, chosen = _maps(encoder, pixel_values, config.encoder_output, options)
    features = EncoderFeatures(
        _patch_tokens(chosen, config.num_prefix_tokens), _pooled(last, config.num_prefix_tokens)
    )
    return outputs, features


def _maps(
    encoder: PreTrainedModel, pixel_values: torch.Tensor, place: int | None, options: dict[str, Any]
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """
    The outputs of an encoder, its last map, and the map that gives the patch tokens.

    Args:
        encoder (`nn.Module`): of [`make_encoder`].
        pixel_values (`torch.Tensor` of shape `(B, num_channels, height, width)`): images.
        place (`int`, *optional*): which of the hidden states gives the tokens; by default the last map.
        options (`dict[str, Any]`): what the encoder is called with.

    Raises:
        `ValueError`: the encoder gives no map, or has no such output.
    """
    if place is not None:
        options = options | {"output_hidden_states": True}
    outputs = encoder(pixel_values.to(encoder.dtype), **options)
    last = outputs.last_hidden_state
    if last is None or last.ndim not in (3, 4):
        raise ValueError("gives no map of patches")
    if place is None:
        return outputs, last, last
    count = len(outputs.hidden_states or ())
    if not -count <= place < count:
        raise ValueError(f"has {count} outputs, not one of number {place}")
    return outputs, last, outputs.hidden_states[place]


def _forward_parameters(encoder: PreTrainedModel) -> frozenset[str]:
    """Names of what `forward` takes, with `ANY` where it takes any name; looked up once a class."""
    kind: Any = type(encoder)
    return _forward_parameters_of(kind)


@cache
def _forward_parameters_of(kind: Any) -> frozenset[str]:
    found = inspect.signature(kind.forward).parameters.values()
    return frozenset(ANY if each.kind is inspect.Parameter.VAR_KEYWORD else each.name for each in found)


def _patch_tokens(hidden_state: torch.Tensor, num_prefix_tokens: int) -> torch.Tensor:
    """A map `(B, E, height, width)`, or tokens `(B, prefix + N, E)`, to patch tokens `(B, N, E)`."""
    if hidden_state.ndim == 4:
        return hidden_state.flatten(2).transpose(1, 2)
    return hidden_state[:, num_prefix_tokens:]


def _pooled(hidden_state: torch.Tensor, num_prefix_tokens: int) -> torch.Tensor:
    if hidden_state.ndim == 3 and num_prefix_tokens:
        return hidden_state[:, 0]
    return _patch_tokens(hidden_state, num_prefix_tokens).mean(dim=1)


def _position_options(encoder: PreTrainedModel, config: Any) -> dict[str, bool]:
    """Encoders with positions for one size interpolate them where they are told to."""
    takes = "interpolate_pos_encoding" in _forward_parameters(encoder)
    own_size = getattr(config.encoder_config, "image_size", None)
    sizes = (own_size, own_size) if isinstance(own_size, int) else tuple(own_size or ())
    return {"interpolate_pos_encoding": True} if takes and sizes != config.image_height_width else {}


def count_prefix_tokens(encoder: Any, last_hidden_state: torch.Tensor, image_size: tuple[int, int]) -> int:
    """
    Tokens in front of the patches: class, distillation and register tokens.

    Args:
        encoder: the model.
        last_hidden_state (`torch.Tensor`): what it makes of an image of `image_size`.
        image_size (`tuple[int, int]`): height and width, in pixels.

    Raises:
        `ValueError`: their number cannot be told.
    """
    if last_hidden_state.ndim == 4:
        return 0
    if (wrapped := getattr(encoder, "timm_model", None)) is not None:
        return int(getattr(wrapped, "num_prefix_tokens", 0))
    length = last_hidden_state.shape[1]
    patch = getattr(encoder.config, "patch_size", None)
    patch_size = (patch, patch) if isinstance(patch, int) else tuple(patch or ())
    if len(patch_size) == 2:
        num_patches = math.prod(side // patch_side for side, patch_side in zip(image_size, patch_size, strict=True))
        if length >= num_patches:
            return length - num_patches
    # Encoders that merge patches: a square map, with at most a class token.
    for prefix in (0, 1):
        if math.isqrt(length - prefix) ** 2 == length - prefix:
            return prefix
    raise ValueError(f"gives {length} tokens for an image of {image_size} pixels, which are no square map")


class TokenAdapter(nn.Module):
    """Patch tokens of an encoder `(B, N, E)` as those of the decoder `(B, N, D)`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.encoder_hidden_size
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = nn.Linear(width, config.hidden_size) if width != config.hidden_size else nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.projection(self.layernorm(tokens))
        return projected


class MeasuredEncoder(NamedTuple):
    """
    What no common field of the configs of encoders says.

    Args:
        fields (`dict[str, int]`): the fields `encoder_hidden_size`, `encoder_pooled_size` and `num_prefix_tokens` of
            the config of a model that has the encoder.
        num_patches (`int`): patch tokens of an image.
    """

    fields: dict[str, int]
    num_patches: int


@torch.no_grad()
def measure_encoder(
    encoder: PreTrainedModel, image_size: tuple[int, int], encoder_output: int | None = None
) -> MeasuredEncoder:
    """
    Measures an encoder on an image.

    Args:
        encoder (`PreTrainedModel`): with any weights.
        image_size (`tuple[int, int]`): height and width, in pixels.
        encoder_output (`int`, *optional*): which of its hidden states gives the patch tokens, by default the last map.

    Raises:
        `ValueError`: the encoder gives no patch tokens for images of this size, or has no such output.
    """
    was_training = encoder.training
    encoder.eval()
    takes_positions = "interpolate_pos_encoding" in _forward_parameters(encoder)
    image = torch.zeros(1, 3, *image_size, device=encoder.device)
    options = {"interpolate_pos_encoding": True} if takes_positions else {}
    _, last, chosen = _maps(encoder, image, encoder_output, options)
    encoder.train(was_training)
    num_prefix_tokens = count_prefix_tokens(encoder, last, image_size)
    tokens = _patch_tokens(chosen, num_prefix_tokens)
    fields = {
        "encoder_hidden_size": tokens.shape[2],
        "encoder_pooled_size": _patch_tokens(last, num_prefix_tokens).shape[2],
        "num_prefix_tokens": num_prefix_tokens,
    }
    return MeasuredEncoder(fields, tokens.shape[1])


def is_of_encoder(name: str) -> bool:
    """Whether a weight of this name belongs to the encoder of a model, or of its base model."""
    return ".encoder." in f".{name}"


def save_encoder_apart(folder: Path) -> None:
    """
    Puts the weights of a saved model into two shards, the first with those of the encoder alone.

    Args:
        folder (`Path`): of `save_pretrained`; left alone where the weights are in several shards already.
    """
    whole = folder / "model.safetensors"
    if not whole.is_file():
        return
    tensors = load_file(whole)
    shards = [
        {name: tensor for name, tensor in tensors.items() if is_of_encoder(name) == first} for first in (True, False)
    ]
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in sorted(shard)}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    whole.unlink()
