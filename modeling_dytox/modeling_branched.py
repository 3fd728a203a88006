"""
An encoder a step, the branches of the model, and one head that reads the embeddings of all (DER, CVPR 2021,
https://arxiv.org/abs/2103.16788).

Shapes in this file: `B` images, `N` patches, `T` branches, `D` hidden size, `C` classes.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .class_ranges import IncrementalModel
from .configuration_branched import BranchedConfig
from .heads import HeadLinear, grown_linear
from .modeling_dytox import DyToxModel, DyToxPreTrainedModel


@dataclass
class BranchedModelOutput(ModelOutput):
    """
    Output of [`BranchedModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, N, D)`): patch tokens of the newest branch.
        branch_embeddings (`torch.FloatTensor` of shape `(B, T, D)`): the embedding of every branch.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*): of the newest branch, see
            [`DyToxModelOutput`].
    """

    last_hidden_state: torch.Tensor | None = None
    branch_embeddings: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class BranchedOutput(ImageClassifierOutput):
    """
    Output of [`BranchedForImageClassification`]: `loss`, `logits` of shape `(B, C)`, `hidden_states` and `attentions`
    of the newest branch, and

    Args:
        embeddings (`torch.FloatTensor` of shape `(B, T * D)`): what the head reads: normalised, side by side.
        branch_embeddings (`torch.FloatTensor` of shape `(B, T, D)`): the embedding of every branch before that.
    """

    embeddings: torch.Tensor | None = None
    branch_embeddings: torch.Tensor | None = None


class BranchedPreTrainedModel(DyToxPreTrainedModel):
    """Base of the models with branches: initialisation, loading and saving."""

    config: BranchedConfig
    base_model_prefix = "branched"


class BranchedModel(BranchedPreTrainedModel):
    """The branches alone: images to one embedding a branch."""

    def __init__(self, config: BranchedConfig) -> None:
        super().__init__(config)
        self.branches = nn.ModuleList([DyToxModel(config) for _ in range(config.num_branches)])
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """What turns patches into tokens in the newest branch; each branch has its own."""
        newest: Any = self.branches[-1]
        embeddings: nn.Module = newest.get_input_embeddings()
        return embeddings

    def add_branch(self) -> None:
        """Appends a branch that starts as a copy of the newest; it is to learn, even if the newest is frozen."""
        self.branches.append(copy.deepcopy(self.branches[-1]).requires_grad_().train(self.training))

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BranchedModelOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, num_channels, height, width)`): images as prepared by the
                image processor of the model.
            kwargs (`dict`, *optional*): `output_hidden_states`, `output_attentions` and `return_dict`, as for every
                model of `transformers`.

        Returns:
            [`BranchedModelOutput`]: the embedding of every branch, and the states of the newest.
        """
        outputs = [branch(pixel_values, **kwargs) for branch in self.branches]
        newest = outputs[-1]
        return BranchedModelOutput(
            last_hidden_state=newest.last_hidden_state,
            branch_embeddings=torch.cat([output.task_embeddings for output in outputs], dim=1),
            hidden_states=newest.hidden_states,
            attentions=newest.attentions,
        )


class BranchedForImageClassification(BranchedPreTrainedModel, IncrementalModel):
    """
    Branches, a layer normalisation for each (they would compete by scale otherwise), and a linear head without bias on
    their embeddings side by side.

    Example:

    ```python
    >>> from modeling_dytox import BranchedConfig, BranchedForImageClassification

    >>> config = BranchedConfig(id2label={0: "cat", 1: "dog"}, class_ranges=[[0, 2]])
    >>> model = BranchedForImageClassification(config)
    >>> model.add_task(["fox", "owl", "bee"])
    >>> model.config.num_branches
    2
    ```
    """

    def __init__(self, config: BranchedConfig) -> None:
        super().__init__(config)
        self.num_labels = len(config.class_names)
        self.branched = BranchedModel(config)
        self.layernorms = nn.ModuleList([self._make_layernorm() for _ in range(config.num_branches)])
        self.head = HeadLinear(config.num_branches * config.hidden_size, self.num_labels, bias=False)
        self.post_init()

    def grow(self, num_new_classes: int) -> None:
        """
        A new branch, which starts as a copy of the newest, and a larger head. Old classes do not read the new branch
        yet, so that their logits stay as they are.
        """
        self.branched.add_branch()
        layernorm = self._make_layernorm().to(device=self.device, dtype=self.dtype)
        self.layernorms.append(layernorm.train(self.training))
        self.head = grown_linear(self.head, len(self.layernorms) * self.config.hidden_size, self.num_labels)

    def reset_head(self) -> None:
        """Draws the weights of the head again."""
        self._init_weights(self.head)

    def _make_layernorm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> BranchedOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, num_channels, height, width)`): images as prepared by the
                image processor of the model.
            labels (`torch.Tensor`, *optional*): label ids of shape `(B,)`, or targets in [0, 1] of shape `(B, C)`. The
                loss is softmax cross-entropy unless `config.problem_type` asks for another.
            step (`int`, *optional*): lets only the classes of this step compete, counted from 1.
            kwargs (`dict`, *optional*): `output_hidden_states`, `output_attentions` and `return_dict`, as for every
                model of `transformers`.

        Returns:
            [`BranchedOutput`]: logits, the loss if `labels` are given, and the embeddings.
        """
        outputs = self.branched(pixel_values, **kwargs)
        per_branch = zip(self.layernorms, outputs.branch_embeddings.unbind(dim=1), strict=True)
        embeddings = torch.cat([layernorm(embedding) for layernorm, embedding in per_branch], dim=-1)
        logits = self.head(embeddings)
        return BranchedOutput(
            loss=None if labels is None else self.loss_of(labels, logits),
            logits=self.only_step(logits, step),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            embeddings=embeddings,
            branch_embeddings=outputs.branch_embeddings,
        )


__all__ = ["BranchedForImageClassification", "BranchedModel", "BranchedModelOutput", "BranchedOutput"]
