"""
Algorithm 1 of the DyTox paper in plain tensor operations on a state dict: one pass of the decoder for each task token,
on that token and the patches alone. Written apart from the model, as the judge of its one exact pass.
"""

import math
from collections.abc import Mapping

import torch
from torch.nn import functional as F

from modeling_dytox import DyToxConfig


Weights = Mapping[str, torch.Tensor]


def logits(weights: Weights, config: DyToxConfig, images: torch.Tensor) -> torch.Tensor:
    """Logits `(B, classes)` of all steps, side by side."""
    embeddings = task_embeddings(weights, config, images)
    per_step = []
    for step, (start, stop) in enumerate(config.step_class_ranges):
        if config.independent_classifiers:
            embedding, rows = embeddings[step if config.token_expansion else 0], slice(None)
        else:
            embedding, rows = torch.cat(embeddings, dim=1), slice(start, stop)
        name = f"classifiers.{step if config.independent_classifiers else 0}"
        normalised = _norm(weights, config, f"{name}.layernorm", embedding)
        per_step.append(_linear(weights, f"{name}.linear", normalised)[:, rows])
    return torch.cat(per_step, dim=1)


def task_embeddings(weights: Weights, config: DyToxConfig, images: torch.Tensor) -> list[torch.Tensor]:
    """The task embedding `(B, D)` of every step."""
    patches = patch_tokens(weights, config, images)
    num_steps = len({name for name in weights if name.startswith("dytox.task_tokens.")})
    return [_task_embedding(weights, config, weights[f"dytox.task_tokens.{t}"], patches) for t in range(num_steps)]


def patch_tokens(weights: Weights, config: DyToxConfig, images: torch.Tensor) -> torch.Tensor:
    """Patch tokens `(B, N, D)` after the encoder."""
    prefix = "dytox.embeddings"
    kernel = weights[f"{prefix}.patch_embeddings.weight"]
    # Each patch is one row of pixels times the kernel as a matrix.
    pixels = F.unfold(images, kernel_size=kernel.shape[2:], stride=kernel.shape[2:]).transpose(1, 2)
    tokens = pixels @ kernel.flatten(1).T + weights[f"{prefix}.patch_embeddings.bias"]
    tokens = tokens + weights[f"{prefix}.position_embeddings"]
    for layer in range(config.num_hidden_layers):
        tokens = _encoder_block(weights, config, f"dytox.layers.{layer}", tokens)
    return tokens


def _encoder_block(weights: Weights, config: DyToxConfig, block: str, tokens: torch.Tensor) -> torch.Tensor:
    normalised = _norm(weights, config, f"{block}.layernorm_before", tokens)
    name = f"{block}.attention"
    queries, keys, values = (_heads(weights, config, f"{name}.{kind}", normalised) for kind in "qkv")
    attention = torch.softmax(queries @ keys.mT / math.sqrt(queries.shape[-1]), dim=-1)
    if config.encoder_attention == "gated":
        gate = torch.sigmoid(weights[f"{name}.gate"])[:, None, None]
        scores = _linear(weights, f"{name}.position_proj", _offsets(config).to(tokens.dtype))
        attention = (1 - gate) * attention + gate * torch.softmax(scores.movedim(-1, 0), dim=-1)
        attention = attention / attention.sum(dim=-1, keepdim=True)
    tokens = tokens + _linear(weights, f"{name}.o_proj", _join_heads(attention @ values))
    return tokens + _mlp(weights, config, block, tokens)


def _task_embedding(
    weights: Weights, config: DyToxConfig, task_token: torch.Tensor, patches: torch.Tensor
) -> torch.Tensor:
    token = task_token.expand(len(patches), 1, -1)
    for layer in range(config.num_task_attention_layers):
        block = f"dytox.task_attention_layers.{layer}"
        name = f"{block}.attention"
        normalised = _norm(weights, config, f"{block}.layernorm_before", torch.cat([token, patches], dim=1))
        query = _heads(weights, config, f"{name}.q", normalised[:, :1])
        keys, values = (_heads(weights, config, f"{name}.{kind}", normalised) for kind in "kv")
        attention = torch.softmax(query @ keys.mT / math.sqrt(query.shape[-1]), dim=-1)
        token = token + _linear(weights, f"{name}.o_proj", _join_heads(attention @ values))
        token = token + _mlp(weights, config, block, token)
    return token[:, 0]


def _offsets(config: DyToxConfig) -> torch.Tensor:
    (height, width), (patch_height, patch_width) = config.image_height_width, config.patch_height_width
    cells = [(row, column) for row in range(height // patch_height) for column in range(width // patch_width)]
    offsets = [[(column - x, row - y, (column - x) ** 2 + (row - y) ** 2) for row, column in cells] for y, x in cells]
    return torch.tensor(offsets)


def _mlp(weights: Weights, config: DyToxConfig, block: str, tokens: torch.Tensor) -> torch.Tensor:
    normalised = _norm(weights, config, f"{block}.layernorm_after", tokens)
    return _linear(weights, f"{block}.mlp.fc2", F.gelu(_linear(weights, f"{block}.mlp.fc1", normalised)))


def _heads(weights: Weights, config: DyToxConfig, name: str, tokens: torch.Tensor) -> torch.Tensor:
    projected = tokens @ weights[f"{name}_proj.weight"].T
    return torch.stack(projected.chunk(config.num_attention_heads, dim=-1), dim=1)


def _join_heads(attended: torch.Tensor) -> torch.Tensor:
    return torch.cat(attended.unbind(dim=1), dim=-1)


def _linear(weights: Weights, name: str, tokens: torch.Tensor) -> torch.Tensor:
    return tokens @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: Weights, config: DyToxConfig, name: str, tokens: torch.Tensor) -> torch.Tensor:
    mean, variance = tokens.mean(-1, keepdim=True), tokens.var(-1, keepdim=True, correction=0)
    return (tokens - mean) / (variance + config.layer_norm_eps).sqrt() * weights[f"{name}.weight"] + weights[
        f"{name}.bias"
    ]
