"""
One encoder, one embedding and one head that grows by classes: the model of most methods that DyTox is compared with.

Shapes in this file: `B` images, `D` hidden size, `C` classes, `T` steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .class_ranges import IncrementalModel
from .configuration_growing_head import GrowingHeadConfig
from .heads import HEADS, LinearHead, ProxyHead
from .modeling_dytox import DyToxModel, DyToxPreTrainedModel


@dataclass
class GrowingHeadOutput(ImageClassifierOutput):
    """
    Output of [`GrowingHeadForImageClassification`]: `loss`, `logits` of shape `(B, C)`, `hidden_states` and
    `attentions` as for every image classifier of `transformers`, and

    Args:
        embeddings (`torch.FloatTensor` of shape `(B, D)`): what the head reads.
        head_logits (`torch.FloatTensor` of shape `(B, C)`): logits of the head, before nearest mean and bias
            correction: what training uses.
        nearest_mean_logits (`torch.FloatTensor` of shape `(B, C)`, *optional*): cosine similarity of the embedding
            with the prototype of each class, where the model has prototypes.
    """

    embeddings: torch.Tensor | None = None
    head_logits: torch.Tensor | None = None
    nearest_mean_logits: torch.Tensor | None = None


class GrowingHeadModel(DyToxModel):
    """The encoder alone: images to patch tokens and one embedding."""

    config: GrowingHeadConfig


class GrowingHeadForImageClassification(DyToxPreTrainedModel, IncrementalModel):
    """
    An encoder with one token, whose embedding one head reads for all classes.

    With `config.prediction = "nearest_mean"` the logit of a class is the cosine similarity of the embedding with the
    class's row in `prototypes`, which is 0 until it is set. With `config.keeps_prototypes` these similarities are an
    output beside the logits. With `config.bias_correction` the logits of each step are multiplied by its number in
    `bias_scale` and moved by that in `bias_shift`; these are 1 and 0 for a new step.

    Example:

    ```python
    >>> from modeling_dytox import GrowingHeadConfig, GrowingHeadForImageClassification

    >>> config = GrowingHeadConfig(id2label={0: "cat", 1: "dog"}, class_ranges=[[0, 2]])
    >>> model = GrowingHeadForImageClassification(config)
    >>> model.add_task(["fox", "owl", "bee"])
    >>> model.config.class_ranges
    [[0, 2], [2, 5]]
    ```
    """

    config: GrowingHeadConfig
    prototypes: torch.Tensor
    bias_scale: torch.Tensor
    bias_shift: torch.Tensor

    def __init__(self, config: GrowingHeadConfig) -> None:
        super().__init__(config)
        self.num_labels = len(config.class_names)
        self.dytox = GrowingHeadModel(config)
        self.head: LinearHead | ProxyHead = HEADS[config.head](config, self.num_labels)
        if self.has_prototypes:
            self.register_buffer("prototypes", torch.zeros(self.num_labels, config.hidden_size))
        if config.bias_correction:
            num_steps = len(config.step_class_ranges)
            self.register_buffer("bias_scale", torch.ones(num_steps))
            self.register_buffer("bias_shift", torch.zeros(num_steps))
        self.post_init()

    @property
    def has_prototypes(self) -> bool:
        """Whether there is a prototype of each class."""
        return self.config.prediction == "nearest_mean" or self.config.keeps_prototypes

    @property
    def other_readouts(self) -> tuple[str, ...]:
        """Names of the outputs, beside `logits`, by which the model could predict as well."""
        by_mean = self.config.prediction == "nearest_mean"
        of_head = ("head_logits",) if by_mean or self.config.bias_correction else ()
        return of_head if by_mean or not self.has_prototypes else (*of_head, "nearest_mean_logits")

    def grow(self, num_new_classes: int) -> None:
        """New rows in the head; new prototypes are 0, and a new step is not corrected."""
        self.head.grow(num_new_classes)
        if self.has_prototypes:
            self.prototypes = _longer(self.prototypes, num_new_classes, 0.0)
        if self.config.bias_correction:
            self.bias_scale = _longer(self.bias_scale, 1, 1.0)
            self.bias_shift = _longer(self.bias_shift, 1, 0.0)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> GrowingHeadOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, num_channels, height, width)`): images as prepared by the
                image processor of the model.
            labels (`torch.Tensor`, *optional*): label ids of shape `(B,)`, or targets in [0, 1] of shape `(B, C)`. The
                loss is of the head's logits, softmax cross-entropy unless `config.problem_type` asks for another.
            step (`int`, *optional*): lets only the classes of this step compete, counted from 1.
            kwargs (`dict`, *optional*): `output_hidden_states`, `output_attentions` and `return_dict`, as for every
                model of `transformers`.

        Returns:
            [`GrowingHeadOutput`]: logits, the loss if `labels` are given, embeddings and the logits of the head.
        """
        outputs = self.dytox(pixel_values, **kwargs)
        embeddings = outputs.task_embeddings[:, 0]
        head_logits = self.head(embeddings)
        similarities = self.similarities(embeddings) if self.has_prototypes else None
        logits = self.corrected(head_logits)
        if similarities is not None and self.config.prediction == "nearest_mean":
            logits = similarities
        return GrowingHeadOutput(
            loss=None if labels is None else self.loss_of(labels, head_logits),
            logits=self.only_step(logits, step),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            embeddings=embeddings,
            head_logits=head_logits,
            nearest_mean_logits=similarities,
        )

    def similarities(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Cosine similarity `(B, C)` of embeddings `(B, D)` with the prototype of each class."""
        normalize = nn.functional.normalize
        return normalize(embeddings, dim=-1) @ normalize(self.prototypes, dim=-1).to(embeddings.dtype).T

    def corrected(self, head_logits: torch.Tensor) -> torch.Tensor:
        """The logits of the head `(B, C)`, scaled and shifted by the numbers of each step where the model has them."""
        if not self.config.bias_correction:
            return head_logits
        scale, shift = (self._of_classes(numbers) for numbers in (self.bias_scale, self.bias_shift))
        return head_logits * scale.to(head_logits.dtype) + shift.to(head_logits.dtype)

    def _of_classes(self, of_steps: torch.Tensor) -> torch.Tensor:
        """A number for each step `(T,)` as one for each class `(C,)`."""
        sizes = torch.tensor([stop - start for start, stop in self.config.step_class_ranges], device=of_steps.device)
        return of_steps.repeat_interleave(sizes, output_size=self.num_labels)


def _longer(buffer: torch.Tensor, num_new: int, value: float) -> torch.Tensor:
    shape: Sequence[int] = (num_new, *buffer.shape[1:])
    return torch.cat([buffer, buffer.new_full(shape, value)])


__all__ = ["GrowingHeadForImageClassification", "GrowingHeadModel", "GrowingHeadOutput"]
