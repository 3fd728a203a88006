"""A prototype of each class, by which a model can predict: the mean of the embeddings of its exemplars."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from training.loop.context import StepContext


def set_prototypes(context: StepContext) -> None:
    """
    Sets the prototypes of a model that has them from the exemplars in the memory (iCaRL, algorithm 1). Those of old
    classes are set again, as their embeddings have moved.
    """
    model: Any = context.model
    if getattr(model, "has_prototypes", False):
        exemplars = context.examples("memory")
        model.prototypes.copy_(class_means(context.embeddings(exemplars), exemplars.labels.tolist()))


def class_means(embeddings: Tensor, labels: list[int]) -> Tensor:
    """
    The normalised mean of the normalised embeddings of each class.

    Args:
        embeddings (`Tensor` of shape `(n, D)`): of images.
        labels (`list[int]`): their label ids; every class from 0 on has images.

    Returns:
        `Tensor` of shape `(C, D)`: a mean of length 1 for each class.
    """
    ids = torch.tensor(labels)
    sums = embeddings.new_zeros(max(labels) + 1, embeddings.shape[1]).index_add_(0, ids, normalize(embeddings))
    return normalize(sums)
