"""
DyTox (https://arxiv.org/abs/2111.11326): a shared encoder of self-attention blocks turns an image into patch tokens,
task-attention blocks read them with one task token per step, and each resulting task embedding feeds the classifier of
its step.

Shapes in this file: `B` images, `N` patches, `T` task tokens, `D` hidden size, `H` attention heads.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .class_ranges import IncrementalModel, auto_map_of
from .configuration_dytox import DyToxConfig
from .encoders import HasEncoder, TokenAdapter, make_encoder, save_encoder_apart
from .heads import HeadLinear, ProxyHead, init_like_pytorch


@dataclass
class DyToxModelOutput(ModelOutput):
    """
    Output of [`DyToxModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, N, D)`): patch tokens after the last self-attention block;
            the encoder has no final normalisation.
        task_embeddings (`torch.FloatTensor` of shape `(B, T, D)`): task embedding of every step, or the single one
            that all steps share without `config.token_expansion`.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): with `output_hidden_states=True`, patch tokens before
            the first and after every self-attention block, each of shape `(B, N, D)`.
        attentions (`tuple(torch.FloatTensor)`, *optional*): with `output_attentions=True`, attention of every
            self-attention block, each of shape `(B, H, N, N)`.
        task_attentions (`tuple(torch.FloatTensor)`, *optional*): with `output_attentions=True`, attention of every
            task-attention block, each of shape `(B, H, T, 1 + N)`: of the task token on itself, then on the patches.
    """

    last_hidden_state: torch.Tensor | None = None
    task_embeddings: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    task_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class DyToxImageClassifierOutput(ImageClassifierOutput):
    """
    Output of [`DyToxForImageClassification`]: `loss`, `logits` of shape `(B, num_labels)`, `hidden_states` and
    `attentions` as for every image classifier of `transformers`, and the `task_embeddings` and `task_attentions` of
    [`DyToxModelOutput`]; `embeddings` of shape `(B, T * D)` are the task embeddings side by side.
    """

    task_embeddings: torch.Tensor | None = None
    task_attentions: tuple[torch.Tensor, ...] | None = None
    embeddings: torch.Tensor | None = None


def softmax_at_least_float32(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension, in float32 or the precision of `scores` if that is higher."""
    return nn.functional.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Computes attention in plain tensor operations, for `attn_implementation="eager"`.

    Args:
        module (`nn.Module`): the calling attention module.
        query (`torch.Tensor` of shape `(B, H, Q, D / H)`): queries.
        key, value (`torch.Tensor` of shape `(B, H, K, D / H)`): keys and values.
        attention_mask (`torch.Tensor` broadcastable to `(B, H, Q, K)`, *optional*): added to the attention scores.
        scaling (`float`): factor on the scores.
        dropout (`float`, *optional*, defaults to 0.0): dropout probability on the attention.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: the attended values `(B, Q, H, D / H)` and the attention `(B, H, Q, K)`.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    attention = softmax_at_least_float32(scores).to(query.dtype)
    attention = nn.functional.dropout(attention, p=dropout, training=module.training)
    return (attention @ value).transpose(1, 2).contiguous(), attention


def relative_patch_positions(height: int, width: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """
    Computes the offsets between the patches of a grid (ConViT, section 3).

    Args:
        height, width (`int`): size of the grid, in patches.
        device (`torch.device`): device of the offsets.
        dtype (`torch.dtype`): type of the offsets.

    Returns:
        `torch.Tensor` of shape `(N, N, 3)`: for query patch n and key patch m the column offset, the row offset and
        the squared distance, in patches.
    """
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    row_offsets = rows.flatten()[None, :] - rows.flatten()[:, None]
    column_offsets = columns.flatten()[None, :] - columns.flatten()[:, None]
    offsets = torch.stack([column_offsets, row_offsets, column_offsets**2 + row_offsets**2], dim=-1)
    return offsets.to(dtype)


def attend_by_position(attention: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """
    Applies an attention that is the same for all images, in one large matrix product per head.

    Args:
        attention (`torch.Tensor` of shape `(H, N, N)`): attention of each head.
        value (`torch.Tensor` of shape `(B, H, N, D / H)`): values.

    Returns:
        `torch.Tensor` of shape `(B, N, H, D / H)`: the attended values.
    """
    batch_size, _, _, head_dim = value.shape
    attended = attention @ value.permute(1, 2, 0, 3).flatten(2)
    return attended.unflatten(-1, (batch_size, head_dim)).permute(2, 1, 0, 3)


class DyToxDropPath(nn.Module):
    """
    Stochastic depth (https://arxiv.org/abs/1603.09382): in training, drops the residual branch of whole samples.

    Args:
        drop_prob (`float`): probability of dropping a sample, in [0, 1).
        sample_dims (`int`): number of leading dimensions that index a sample: 1 for an image, 2 for a task token of an
            image.
    """

    def __init__(self, drop_prob: float, sample_dims: int) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.sample_dims = sample_dims

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return hidden_states
        keep_prob = 1.0 - self.drop_prob
        shape = hidden_states.shape[: self.sample_dims] + (1,) * (hidden_states.ndim - self.sample_dims)
        keep = torch.rand(shape, device=hidden_states.device) < keep_prob
        return hidden_states * (keep.to(hidden_states.dtype) / keep_prob)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}"


class DyToxEmbeddings(nn.Module):
    """Turns `pixel_values` `(B, C, height, width)` into patch tokens with positions `(B, N, D)`, row by row."""

    def __init__(self, config: DyToxConfig) -> None:
        super().__init__()
        self.config = config
        height, width = config.image_height_width
        patch_height, patch_width = config.patch_height_width
        self.num_patches = (height // patch_height) * (width // patch_width)
        self.patch_embeddings = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=(patch_height, patch_width),
            stride=(patch_height, patch_width),
        )
        self.position_embeddings = nn.Parameter(torch.zeros(1, self.num_patches, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        expected = (self.config.num_channels, *self.config.image_height_width)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)} do not fit the model: expected (batch_size, "
                f"{', '.join(map(str, expected))}); resize the images with the model's image processor."
            )
        patches = self.patch_embeddings(pixel_values.to(self.patch_embeddings.weight.dtype))
        # Contiguous: the sum would keep the strides of the convolution, which slow down every following block.
        patch_tokens = (patches.flatten(2).transpose(1, 2) + self.position_embeddings).contiguous()
        return self.dropout(patch_tokens)


class DyToxAttention(nn.Module):
    """Base of the attention modules of DyTox: projections without bias, heads and the attention backend."""

    def __init__(self, config: DyToxConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.is_causal = False

        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def split_heads(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Reshapes `(B, L, D)` to `(B, H, L, D / H)`."""
        return hidden_states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Runs the configured backend on split heads; the attention is None if the backend does not return it."""
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        return attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.attention_dropout if self.training else 0.0,
            **kwargs,
        )


class DyToxSelfAttention(DyToxAttention):
    """Ordinary multi-head self-attention between patch tokens."""

    def forward(
        self, hidden_states: torch.Tensor, relative_positions: torch.Tensor | None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.split_heads(self.q_proj(hidden_states))
        key = self.split_heads(self.k_proj(hidden_states))
        value = self.split_heads(self.v_proj(hidden_states))
        attended, attention = self.attend(query, key, value, **kwargs)
        attended, attention = self.add_positional_attention(attended, attention, value, relative_positions)
        return self.o_proj(attended.flatten(-2)), attention

    def add_positional_attention(
        self,
        attended: torch.Tensor,
        attention: torch.Tensor | None,
        value: torch.Tensor,
        relative_positions: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns its inputs: plain self-attention knows positions from the embeddings alone."""
        return attended, attention


class DyToxGatedSelfAttention(DyToxSelfAttention):
    """
    Gated positional self-attention (ConViT, equation 7): each head mixes attention by content with attention by
    position, `(1 - sigmoid(gate)) * content + sigmoid(gate) * position`.

    Both parts are linear in the values, so the content part runs on any attention backend. The positional part does
    not depend on the image and is computed once for the whole batch. The rows of the mixture already sum to one.
    """

    def __init__(self, config: DyToxConfig) -> None:
        super().__init__(config)
        self.position_proj = nn.Linear(3, config.num_attention_heads)
        self.gate = nn.Parameter(torch.ones(config.num_attention_heads))

    def add_positional_attention(
        self,
        attended: torch.Tensor,
        attention: torch.Tensor | None,
        value: torch.Tensor,
        relative_positions: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mixes the content part `(B, N, H, D / H)` with the positional part, in the output and in the attention."""
        if relative_positions is None:
            raise ValueError("relative_positions=None, but gated attention needs the offsets between the patches.")
        gate = torch.sigmoid(self.gate)[:, None, None]
        positional = (gate * self.positional_attention(relative_positions)).to(value.dtype)
        if attention is None:
            return (1 - gate.transpose(0, 1)) * attended + attend_by_position(positional, value), None
        # The output is computed from the returned attention, so that the attention has a gradient.
        attention = (1 - gate) * attention + positional
        return (attention @ value).transpose(1, 2), attention

    def positional_attention(self, relative_positions: torch.Tensor) -> torch.Tensor:
        """Attention by position, `(H, N, N)`."""
        scores = self.position_proj(relative_positions).permute(2, 0, 1)
        return softmax_at_least_float32(scores).to(scores.dtype)

    def local_position_weights(self) -> torch.Tensor:
        """
        Computes weights of `position_proj` with which the heads attend to a square of neighbouring patches (ConViT,
        section 3).

        Returns:
            `torch.Tensor` of shape `(k * k, 3)`: the weights of the first k * k heads, the largest square number. The
            other heads stay random.
        """
        side = math.isqrt(self.config.num_attention_heads)
        center = (side - 1) / 2 if side % 2 == 0 else side // 2
        offsets = [(2 * (column - center), 2 * (row - center), -1.0) for column in range(side) for row in range(side)]
        return torch.tensor(offsets) * self.config.locality_strength


class DyToxTaskAttention(DyToxAttention):
    """
    Attention of every task token on itself and on the patch tokens, never on another task token.

    All task tokens share one pass: the keys and values of the patches are computed once, those of the task tokens are
    appended, and the mask hides from each task token the keys of the others.
    """

    def forward(
        self, task_tokens: torch.Tensor, patch_tokens: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_size, num_patches, _ = patch_tokens.shape
        query = self.split_heads(self.q_proj(task_tokens)).expand(batch_size, -1, -1, -1)
        key = self._keys_or_values(self.k_proj, task_tokens, patch_tokens)
        value = self._keys_or_values(self.v_proj, task_tokens, patch_tokens)
        attended, attention = self.attend(query, key, value, attention_mask, **kwargs)
        if attention is not None:
            own = attention[..., num_patches:].diagonal(dim1=-2, dim2=-1)
            attention = torch.cat([own.unsqueeze(-1), attention[..., :num_patches]], dim=-1)
        return self.o_proj(attended.flatten(-2)), attention

    def _keys_or_values(
        self, projection: nn.Linear, task_tokens: torch.Tensor, patch_tokens: torch.Tensor
    ) -> torch.Tensor:
        of_tasks = self.split_heads(projection(task_tokens)).expand(patch_tokens.shape[0], -1, -1, -1)
        return torch.cat([self.split_heads(projection(patch_tokens)), of_tasks], dim=2)


class DyToxMLP(nn.Module):
    """The feed-forward sublayer, `(..., D)` -> `(..., D)`."""

    def __init__(self, config: DyToxConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


ENCODER_ATTENTION = {"gated": DyToxGatedSelfAttention, "plain": DyToxSelfAttention}


class DyToxLayer(GradientCheckpointingLayer):
    """Self-attention block (SAB), pre-norm, on patch tokens `(B, N, D)`."""

    def __init__(self, config: DyToxConfig, drop_path_rate: float) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = ENCODER_ATTENTION[config.encoder_attention](config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = DyToxMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DyToxDropPath(drop_path_rate, sample_dims=1)

    def forward(
        self, hidden_states: torch.Tensor, relative_positions: torch.Tensor | None, **kwargs: Any
    ) -> torch.Tensor:
        residual = hidden_states
        hidden_states = self.layernorm_before(hidden_states)
        hidden_states, _ = self.attention(hidden_states, relative_positions, **kwargs)
        hidden_states = residual + self.drop_path(self.dropout(hidden_states))

        residual = hidden_states
        hidden_states = self.layernorm_after(hidden_states)
        hidden_states = self.mlp(hidden_states)
        return residual + self.drop_path(self.dropout(hidden_states))


class DyToxTaskAttentionLayer(GradientCheckpointingLayer):
    """
    Task-attention block (TAB), pre-norm: task tokens `(1 or B, T, D)` read patch tokens `(B, N, D)`. Both share one
    normalisation, and the residual carries the raw task token (paper, section 3.2).
    """

    def __init__(self, config: DyToxConfig, drop_path_rate: float) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = DyToxTaskAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = DyToxMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DyToxDropPath(drop_path_rate, sample_dims=2)

    def forward(
        self, task_tokens: torch.Tensor, patch_tokens: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        residual = task_tokens
        hidden_states, attention = self.attention(
            self.layernorm_before(task_tokens), self.layernorm_before(patch_tokens), attention_mask, **kwargs
        )
        hidden_states = residual + self.drop_path(self.dropout(hidden_states))

        residual = hidden_states
        hidden_states = self.layernorm_after(hidden_states)
        hidden_states = self.mlp(hidden_states)
        return residual + self.drop_path(self.dropout(hidden_states)), attention


class DyToxClassifier(nn.Module):
    """
    Classifier: task embeddings `(B, K * D)` to logits `(B, num_classes)`.

    Args:
        config (`DyToxConfig`): configuration of the model.
        num_classes (`int`): number of classes to predict.
        num_embeddings (`int`, *optional*, defaults to 1): number K of concatenated task embeddings that it reads.
    """

    def __init__(self, config: DyToxConfig, num_classes: int, num_embeddings: int = 1) -> None:
        super().__init__()
        width = num_embeddings * config.hidden_size
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.linear = HeadLinear(width, num_classes)

    def forward(self, task_embeddings: torch.Tensor) -> torch.Tensor:
        return self.linear(self.layernorm(task_embeddings))


class DyToxPreTrainedModel(PreTrainedModel):
    """Base of all DyTox models: initialisation, loading and saving."""

    config: DyToxConfig
    base_model_prefix = "dytox"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["DyToxEmbeddings", "DyToxLayer", "DyToxTaskAttentionLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": DyToxLayer, "attentions": DyToxSelfAttention}
    _input_embed_layer = "patch_embeddings"

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """
        Saves the model as `PreTrainedModel` does, with an `auto_map` that serves both Auto classes; a frozen encoder
        gets a file of its own, which is the same for all steps.
        """
        if self._auto_class is not None:
            self.config.auto_map = auto_map_of(self)
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.config.freeze_encoder:
            save_encoder_apart(Path(save_directory))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, DyToxEmbeddings):
            init.trunc_normal_(module.position_embeddings, std=std)
            init_like_pytorch(module.patch_embeddings)
        elif isinstance(module, HeadLinear):
            init_like_pytorch(module)
        elif isinstance(module, ProxyHead):
            module.reset_parameters()
        elif isinstance(module, nn.ParameterList):
            for task_token in module:
                init.trunc_normal_(task_token, std=std)
        elif isinstance(module, DyToxGatedSelfAttention):
            self._init_gated_attention(module)
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def _init_gated_attention(self, module: DyToxGatedSelfAttention) -> None:
        init.eye_(module.v_proj.weight)
        init.ones_(module.gate)
        local = module.local_position_weights().to(module.position_proj.weight)
        weight = torch.cat([local, module.position_proj.weight[len(local) :]])
        init.copy_(module.position_proj.weight, weight)


class DyToxModel(HasEncoder, DyToxPreTrainedModel):
    """
    DyTox without classifiers: images to patch tokens, patch tokens to one task embedding per step.
    """

    def __init__(self, config: DyToxConfig) -> None:
        super().__init__(config)
        # `from_pretrained` applies its overrides after the config has validated itself.
        config.validate()
        num_blocks = config.num_hidden_layers + config.num_task_attention_layers
        rates = [config.drop_path_rate * block / max(num_blocks - 1, 1) for block in range(num_blocks)]
        encoder_rates, decoder_rates = rates[: config.num_hidden_layers], rates[config.num_hidden_layers :]

        if config.encoder_config is None:
            self.embeddings = DyToxEmbeddings(config)
            self.layers = nn.ModuleList([DyToxLayer(config, rate) for rate in encoder_rates])
        else:
            self.encoder = make_encoder(config)
            self.adapter = TokenAdapter(config)
        self.task_tokens = nn.ParameterList(
            [nn.Parameter(torch.zeros(1, config.hidden_size)) for _ in range(config.num_task_tokens or 1)]
        )
        self.task_attention_layers = nn.ModuleList([DyToxTaskAttentionLayer(config, rate) for rate in decoder_rates])
        self.post_init()
        if config.freeze_encoder:
            self.freeze_encoder()

    def add_task_token(self) -> None:
        """Appends a newly initialised task token; those of earlier steps do not change."""
        last = self.task_tokens[-1]
        self.task_tokens.append(nn.Parameter(torch.empty_like(last).requires_grad_()))
        init.trunc_normal_(self.task_tokens[-1], std=self.config.initializer_range)

    @can_return_tuple
    @merge_with_config_defaults
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> DyToxModelOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, num_channels, height, width)`): images as prepared by the
                image processor of the model.
            kwargs (`dict`, *optional*): `output_hidden_states`, `output_attentions` and `return_dict`, as for every
                model of `transformers`.

        Returns:
            [`DyToxModelOutput`]: patch tokens, task embeddings and, if asked for, hidden states and attentions.

        Raises:
            `ValueError`: if `pixel_values` do not have the channels, height and width of the configuration.
        """
        if self.config.encoder_config is None:
            outputs: DyToxModelOutput = self._forward_with_own_encoder(pixel_values, **kwargs)
            return outputs
        of_encoder: Any = {}
        if pixel_values.ndim == 4:
            of_encoder, features = self._run_encoder(pixel_values, **kwargs)
            pixel_values = features.tokens
        outputs = self._decode_to_outputs(self.encode(pixel_values), **kwargs)
        outputs.hidden_states, outputs.attentions = of_encoder.get("hidden_states"), of_encoder.get("attentions")
        return outputs

    @capture_outputs(tie_last_hidden_states=False)
    def _forward_with_own_encoder(self, pixel_values: torch.Tensor, **kwargs: Any) -> DyToxModelOutput:
        return self._decode_to_outputs(self.encode(pixel_values, **kwargs), **kwargs)

    def _decode_to_outputs(self, patch_tokens: torch.Tensor, **kwargs: Any) -> DyToxModelOutput:
        task_embeddings, task_attentions = self.decode(patch_tokens, **kwargs)
        wants_attentions = kwargs.get("output_attentions", self.config.output_attentions)
        return DyToxModelOutput(
            last_hidden_state=patch_tokens,
            task_embeddings=task_embeddings,
            task_attentions=task_attentions if wants_attentions else None,
        )

    def encode(self, pixel_values: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """
        Runs the encoder.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, num_channels, height, width)`): images; or, where the encoder is
                frozen and not the model's own, what [`features`] made of them before, `(B, N, E)`.

        Returns:
            `torch.Tensor` of shape `(B, N, D)`: patch tokens.
        """
        if self.config.encoder_config is not None:
            tokens = pixel_values if pixel_values.ndim == 3 else self.features(pixel_values).tokens
            adapted: torch.Tensor = self.adapter(tokens.to(self.adapter.layernorm.weight.dtype))
            return adapted
        patch_tokens = self.embeddings(pixel_values)
        relative_positions = self._relative_positions(patch_tokens)
        for layer in self.layers:
            patch_tokens = layer(patch_tokens, relative_positions, **kwargs)
        return patch_tokens

    def decode(
        self, patch_tokens: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """
        Runs the task-attention blocks on all task tokens in one exact pass, where Algorithm 1 of the paper has one
        pass per step.

        Args:
            patch_tokens (`torch.Tensor` of shape `(B, N, D)`): what [`encode`] returns.

        Returns:
            `tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]`: the task embeddings `(B, T, D)`, and the attention
            of each block if the backend returns it.
        """
        task_tokens = torch.cat(list(self.task_tokens)).unsqueeze(0)
        attention_mask = self._task_attention_mask(patch_tokens)
        attentions = []
        for layer in self.task_attention_layers:
            task_tokens, attention = layer(task_tokens, patch_tokens, attention_mask, **kwargs)
            attentions.append(attention)
        return task_tokens, None if None in attentions else tuple(attentions)

    def _relative_positions(self, patch_tokens: torch.Tensor) -> torch.Tensor | None:
        if self.config.encoder_attention != "gated":
            return None
        sides = zip(self.config.image_height_width, self.config.patch_height_width, strict=True)
        height, width = (side // patch_side for side, patch_side in sides)
        return relative_patch_positions(height, width, patch_tokens.device, patch_tokens.dtype)

    def _task_attention_mask(self, patch_tokens: torch.Tensor) -> torch.Tensor | None:
        """Makes the additive mask `(1, 1, T, N + T)` that hides from each task token the other task tokens."""
        num_tasks, num_patches = len(self.task_tokens), patch_tokens.shape[1]
        if num_tasks == 1:
            return None
        others = ~torch.eye(num_tasks, dtype=torch.bool, device=patch_tokens.device)
        hidden = nn.functional.pad(others, (num_patches, 0), value=False)
        mask = patch_tokens.new_zeros(num_tasks, num_patches + num_tasks)
        return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)[None, None]


class DyToxForImageClassification(DyToxPreTrainedModel, IncrementalModel):
    """
    DyTox with the classifiers of all steps: the task embedding of each step feeds the sigmoid classifier of that step,
    and the logits of all steps are concatenated. The step of an image is never given.

    Two ablations of the paper: without `config.token_expansion` all steps share one task embedding; without
    `config.independent_classifiers` a single classifier of all classes reads the concatenated task embeddings.

    Example:

    ```python
    >>> from modeling_dytox import DyToxConfig, DyToxForImageClassification

    >>> model = DyToxForImageClassification(DyToxConfig(id2label={0: "cat", 1: "dog"}, class_ranges=[[0, 2]]))
    >>> model.add_task(["fox", "owl", "bee"])
    >>> model.config.class_ranges
    [[0, 2], [2, 5]]
    ```
    """

    def __init__(self, config: DyToxConfig) -> None:
        super().__init__(config)
        self.num_labels = len(config.class_names)
        self.dytox = DyToxModel(config)
        self.classifiers = nn.ModuleList(
            [self._make_classifier(stop - start) for start, stop in config.classifier_class_ranges]
        )
        self.post_init()

    def add_task(self, class_names: Sequence[str]) -> None:
        """
        Grows the model by one step: a new task token, a new classifier, and the new classes in the configuration.

        Tokens and classifiers of earlier steps, and so the logits of earlier classes, do not change. An optimizer made
        before does not hold the new parameters: make a new one.

        Without `config.token_expansion` there is no new task token. Without `config.independent_classifiers` the
        single classifier is replaced by a newly initialised one for all classes, so that the logits of earlier classes
        are lost until it is trained.

        Args:
            class_names (`Sequence[str]`): names of the new classes, in the order of their label ids.

        Raises:
            `ValueError`: if there is no class name, or one is repeated or already known.
        """
        super().add_task(class_names)

    def grow(self, num_new_classes: int) -> None:
        """A new task token and a new classifier, as the config says."""
        if self.config.token_expansion:
            self.dytox.add_task_token()
        self.config.num_task_tokens = len(self.dytox.task_tokens)
        start, stop = self.config.classifier_class_ranges[-1]
        classifier = self._make_classifier(stop - start).to(device=self.device, dtype=self.dtype)
        classifier.apply(self._init_weights)
        if not self.config.independent_classifiers:
            del self.classifiers[:]
        self.classifiers.append(classifier.train(self.training))

    def _make_classifier(self, num_classes: int) -> DyToxClassifier:
        num_embeddings = 1 if self.config.independent_classifiers else len(self.dytox.task_tokens)
        return DyToxClassifier(self.config, num_classes, num_embeddings)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> DyToxImageClassifierOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, num_channels, height, width)`): images as prepared by the
                image processor of the model.
            labels (`torch.Tensor`, *optional*): label ids of shape `(B,)`, or targets in [0, 1] of shape
                `(B, num_labels)`. The loss is the binary cross-entropy of the paper (section 4.1), averaged over
                images and classes, unless `config.problem_type` asks for another.
            step (`int`, *optional*): lets only the classes of this step compete, counted from 1.
            kwargs (`dict`, *optional*): `output_hidden_states`, `output_attentions` and `return_dict`, as for every
                model of `transformers`.

        Returns:
            [`DyToxImageClassifierOutput`]: logits, the loss if `labels` are given, and the outputs of the base model.
        """
        outputs = self.dytox(pixel_values, **kwargs)
        logits = self.classify(outputs.task_embeddings)
        return DyToxImageClassifierOutput(
            loss=None if labels is None else self.loss_of(labels, logits),
            logits=self.only_step(logits, step),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            task_embeddings=outputs.task_embeddings,
            task_attentions=outputs.task_attentions,
            embeddings=outputs.task_embeddings.flatten(1),
        )

    def classify(self, task_embeddings: torch.Tensor) -> torch.Tensor:
        """Runs the classifiers: task embeddings `(B, T, D)` to logits of all classes `(B, num_labels)`."""
        if not self.config.independent_classifiers:
            task_embeddings = task_embeddings.flatten(1).unsqueeze(1)
        # Without token expansion all classifiers read the same task embedding.
        embeddings = task_embeddings.expand(-1, len(self.classifiers), -1).unbind(dim=1)
        return torch.cat(
            [classifier(embedding) for classifier, embedding in zip(self.classifiers, embeddings, strict=True)], dim=-1
        )


__all__ = [
    "DyToxForImageClassification",
    "DyToxImageClassifierOutput",
    "DyToxModel",
    "DyToxModelOutput",
    "DyToxPreTrainedModel",
]
