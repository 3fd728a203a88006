"""iCaRL (Rebuffi et al., CVPR 2017, https://arxiv.org/abs/1611.07725)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub.run.results import MethodCard
from training.methods.base import Method, frozen_copy


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_dytox import IncrementalModel
    from training.loop.context import StepContext
    from training.loop.learner import LossModule


CITATION = r"""
@inproceedings{rebuffi2017icarl,
  title     = {{iCaRL}: Incremental Classifier and Representation Learning},
  author    = {Rebuffi, Sylvestre-Alvise and Kolesnikov, Alexander and Sperl, Georg and Lampert, Christoph H.},
  booktitle = {Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2017},
  eprint    = {1611.07725},
  archivePrefix = {arXiv}
}
""".strip()


class ICaRL(Method):
    """
    Binary cross-entropy whose targets for old classes are the scores of the previous model; predicts the class whose
    mean exemplar embedding is nearest.
    """

    name = "icarl"
    summary = "binary distillation, nearest mean of exemplars"
    architecture = "growing_head"
    card = MethodCard(
        title="iCaRL",
        sentence="Trained with [iCaRL](https://arxiv.org/abs/1611.07725): binary cross-entropy with the scores of the "
        "previous step as targets for the old classes, rehearsal from a bounded memory, and prediction by the nearest "
        "mean of exemplars.",
        citation=CITATION,
        tags=("icarl", "arxiv:1611.07725"),
    )
    teacher: IncrementalModel | None = None

    def model_fields(self) -> dict[str, Any]:
        """Sigmoid scores in training, nearest mean at test time."""
        return {"problem_type": "multi_label_classification", "prediction": "nearest_mean"}

    def before_growth(self, context: StepContext) -> None:
        """Keeps a copy of the model of the step before as teacher."""
        self.teacher = frozen_copy(context.model)

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """
        Algorithm 3 of the paper, as a mean over images and classes: binary cross-entropy with targets from the labels
        for new classes, from the teacher for old ones, on all images.
        """
        import torch

        from training.methods.losses import classification_loss

        logits = learner.model(pixel_values).head_logits
        if self.teacher is not None:
            with torch.no_grad():
                scores = self.teacher(pixel_values).head_logits.sigmoid()
            targets = torch.cat([scores.float(), targets[:, scores.shape[1] :]], dim=1)
        return {"classification": classification_loss(logits, targets)}

    def after_memory(self, context: StepContext) -> None:
        """Sets the prototypes: the normalised mean of the normalised embeddings of each class's exemplars."""
        exemplars = context.examples("memory")
        prototypes = class_means(context.embeddings(exemplars), exemplars.labels.tolist())
        stored: Any = context.model.prototypes
        stored.copy_(prototypes)


def class_means(embeddings: Tensor, labels: list[int]) -> Tensor:
    """
    The normalised mean of the normalised embeddings of each class.

    Args:
        embeddings (`Tensor` of shape `(n, D)`): of images.
        labels (`list[int]`): their label ids; every class from 0 on has images.

    Returns:
        `Tensor` of shape `(C, D)`: a mean of length 1 for each class.
    """
    import torch
    from torch.nn.functional import normalize

    ids = torch.tensor(labels)
    sums = embeddings.new_zeros(max(labels) + 1, embeddings.shape[1]).index_add_(0, ids, normalize(embeddings))
    return normalize(sums)
