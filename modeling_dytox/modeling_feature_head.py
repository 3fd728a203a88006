"""
A frozen encoder and one linear head on its pooled features, with weights in closed form: nearest class mean and ridge
regression.

Shapes in this file: `B` images, `N` patches, `E` width of the encoder, `P` width of its pooled features, `F` width of
what the head reads, `C` classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .class_ranges import IncrementalModel
from .configuration_feature_head import FeatureHeadConfig
from .encoders import HasEncoder, make_encoder
from .modeling_dytox import DyToxPreTrainedModel


@dataclass
class FeatureHeadOutput(ImageClassifierOutput):
    """
    Output of [`FeatureHeadForImageClassification`]: `loss`, `logits` of shape `(B, C)`, `hidden_states` and
    `attentions` as for every image classifier of `transformers`, and

    Args:
        embeddings (`torch.FloatTensor` of shape `(B, P)`): pooled features of the encoder.
    """

    embeddings: torch.Tensor | None = None


class FeatureHead(nn.Module):
    """
    A linear head for all classes, which starts at zero.

    With `config.head = "ncm"` it reads normalised features, with `"ridge"` the features, or random ones made of them:
    `relu(features @ projection)`, where the model has a `projection`, which is drawn once and stored.
    """

    projection: torch.Tensor | None
    bias: nn.Parameter | None

    def __init__(self, config: FeatureHeadConfig, num_classes: int) -> None:
        super().__init__()
        self.normalizes = config.head == "ncm"
        width = config.projection_dim or int(config.encoder_pooled_size or 0)
        projection = torch.empty(int(config.encoder_pooled_size or 0), width) if config.projection_dim else None
        self.register_buffer("projection", projection)
        self.weight = nn.Parameter(torch.zeros(num_classes, width))
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_classes)) if config.has_bias else None)
        self.scale = nn.Parameter(torch.ones(()))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the projection, its entries from the standard normal distribution; the head becomes zero."""
        if self.projection is not None:
            init.normal_(self.projection)
        init.zeros_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)
        init.ones_(self.scale)

    def grow(self, num_new_classes: int) -> None:
        """Adds classes whose weights are zero."""
        self.weight = _longer(self.weight, num_new_classes)
        if self.bias is not None:
            self.bias = _longer(self.bias, num_new_classes)

    def transform(self, pooled: torch.Tensor) -> torch.Tensor:
        """
        What the linear layer reads.

        Args:
            pooled (`torch.Tensor` of shape `(B, P)`): pooled features, whose precision and device are kept.

        Returns:
            `torch.Tensor` of shape `(B, F)`: the features normalised, random ones, or themselves.
        """
        if self.normalizes:
            return nn.functional.normalize(pooled, dim=-1)
        if self.projection is not None:
            return (pooled @ self.projection.to(pooled)).relu_()
        return pooled

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits `(B, C)` from pooled features `(B, P)`."""
        logits: torch.Tensor = self.scale * nn.functional.linear(self.transform(pooled), self.weight, self.bias)
        return logits


def _longer(parameter: nn.Parameter, num_new: int) -> nn.Parameter:
    zeros = parameter.new_zeros((num_new, *parameter.shape[1:]))
    return nn.Parameter(torch.cat([parameter.detach(), zeros]), parameter.requires_grad)


class FeatureHeadPreTrainedModel(DyToxPreTrainedModel):
    """Base of the models of this architecture."""

    config: FeatureHeadConfig
    # No gradient ever flows through the encoder.
    supports_gradient_checkpointing = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, FeatureHead):
            module.reset_parameters()
        else:
            super()._init_weights(module)


class FeatureHeadModel(HasEncoder, FeatureHeadPreTrainedModel):
    """The frozen encoder alone: images to patch tokens and pooled features."""

    def __init__(self, config: FeatureHeadConfig) -> None:
        super().__init__(config)
        # `from_pretrained` applies its overrides after the config has validated itself.
        config.validate()
        self.encoder = make_encoder(config)
        self.post_init()
        self.freeze_encoder()

    @can_return_tuple
    @merge_with_config_defaults
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, num_channels, height, width)`): images as prepared by the
                image processor of the model.
            kwargs (`dict`, *optional*): `output_hidden_states`, `output_attentions` and `return_dict`, as for every
                model of `transformers`.

        Returns:
            `BaseModelOutputWithPooling`: patch tokens `(B, N, E)`, pooled features `(B, P)` and, if asked for, hidden
            states and attentions of the encoder.
        """
        of_encoder, features = self._run_encoder(pixel_values, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=features.tokens,
            pooler_output=features.pooled,
            hidden_states=of_encoder.get("hidden_states"),
            attentions=of_encoder.get("attentions"),
        )


class FeatureHeadForImageClassification(FeatureHeadPreTrainedModel, IncrementalModel):
    """
    A frozen encoder with one linear head for all classes on its pooled features. Logits are multiplied by a learned
    `scale`, so that their softmax gives scores.

    Example:

    ```python
    >>> from transformers import ViTConfig
    >>> from modeling_dytox import FeatureHeadConfig, FeatureHeadForImageClassification

    >>> sizes = {"encoder_hidden_size": 768, "encoder_pooled_size": 768, "num_prefix_tokens": 1, "image_size": 224}
    >>> config = FeatureHeadConfig(encoder_config=ViTConfig(), class_ranges=[[0, 2]], **sizes)
    >>> model = FeatureHeadForImageClassification(config)
    >>> model.add_task(["fox", "owl", "bee"])
    >>> model.head.weight.shape
    torch.Size([5, 768])
    ```
    """

    cached_input = "pooled"

    def __init__(self, config: FeatureHeadConfig) -> None:
        super().__init__(config)
        self.num_labels = len(config.class_names)
        self.dytox = FeatureHeadModel(config)
        self.head = FeatureHead(config, self.num_labels)
        self.post_init()

    def grow(self, num_new_classes: int) -> None:
        """New rows in the head, which are zero."""
        self.head.grow(num_new_classes)

    def pooled(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the head is given, pooled features `(B, P)`: of images, or the ones in their place."""
        pooled: torch.Tensor = self._encode(pixel_values).pooler_output
        return pooled

    def _encode(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """Outputs of the encoder for images, or for what it made of them before, in the precision of the head."""
        if pixel_values.ndim == 2:
            outputs: Any = BaseModelOutputWithPooling(pooler_output=pixel_values)
        else:
            outputs = self.dytox(pixel_values, **kwargs)
        outputs.pooler_output = outputs.pooler_output.to(self.head.weight.dtype)
        return outputs

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> FeatureHeadOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, num_channels, height, width)`): images as prepared by the
                image processor of the model; or what the encoder made of them before, pooled features `(B, P)`.
            labels (`torch.Tensor`, *optional*): label ids of shape `(B,)`, or targets in [0, 1] of shape `(B, C)`. The
                loss is softmax cross-entropy unless `config.problem_type` asks for another.
            step (`int`, *optional*): lets only the classes of this step compete, counted from 1.
            kwargs (`dict`, *optional*): `output_hidden_states`, `output_attentions` and `return_dict`, as for every
                model of `transformers`.

        Returns:
            [`FeatureHeadOutput`]: logits, the loss if `labels` are given, embeddings, and of the encoder what is asked
            for.
        """
        outputs = self._encode(pixel_values, **kwargs)
        pooled = outputs.pooler_output
        logits = self.head(pooled)
        return FeatureHeadOutput(
            loss=None if labels is None else self.loss_of(labels, logits),
            logits=self.only_step(logits, step),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            embeddings=pooled,
        )


__all__ = ["FeatureHeadForImageClassification", "FeatureHeadModel", "FeatureHeadOutput"]
