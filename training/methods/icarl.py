"""iCaRL (Rebuffi et al., CVPR 2017, https://arxiv.org/abs/1611.07725)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hub.run.results import MethodCard
from training.arguments import PREDICTION_HELP, Prediction, option
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


@dataclass
class ICaRLOptions:
    """Options of iCaRL; the default is the paper's. Its table has the other as "hybrid1"."""

    prediction: Prediction = option(PREDICTION_HELP, "nearest_mean")


class ICaRL(Method):
    """
    Binary cross-entropy whose targets for old classes are the scores of the previous model; predicts the class whose
    mean exemplar embedding is nearest.
    """

    name = "icarl"
    summary = "binary distillation, nearest mean of exemplars"
    Options = ICaRLOptions
    architecture = "growing_head"
    card = MethodCard(
        title="iCaRL",
        sentence="Trained with [iCaRL](https://arxiv.org/abs/1611.07725): binary cross-entropy with the scores of the "
        "previous step as targets for the old classes, rehearsal from a bounded memory, and prediction by the nearest "
        "mean of exemplars.",
        citation=CITATION,
        tags=("icarl", "arxiv:1611.07725"),
    )
    options: ICaRLOptions
    teacher: IncrementalModel | None = None

    def describe(self) -> MethodCard:
        """Names the rule that predicts."""
        if self.options.prediction == "nearest_mean":
            return self.card
        sentence = self.card.sentence.replace("the nearest mean of exemplars", "the scores of the head")
        return replace(self.card, sentence=sentence)

    def model_fields(self) -> dict[str, Any]:
        """Sigmoid scores in training, and at test time the nearest mean, unless the options ask for the scores."""
        fields = {"problem_type": "multi_label_classification", "keeps_prototypes": True}
        return fields | {"prediction": self.options.prediction}

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
