"""UCIR, a unified classifier by rebalancing (Hou et al., CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hub.run.errors import InputError
from hub.run.results import MethodCard
from training.arguments import (
    PREDICTION_HELP,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Prediction,
    option,
)
from training.methods.base import Phase, predicting_by
from training.methods.similarity_heads import SimilarityHeadMethod, grow_with_rows


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_dytox import IncrementalModel
    from training.data.examples import Examples
    from training.loop.context import StepContext
    from training.loop.learner import LossModule


CITATION = r"""
@inproceedings{hou2019ucir,
  title     = {Learning a Unified Classifier Incrementally via Rebalancing},
  author    = {Hou, Saihui and Pan, Xinyu and Loy, Chen Change and Wang, Zilei and Lin, Dahua},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2019}
}
""".strip()


@dataclass
class UnifiedClassifierOptions:
    """Options of UCIR; the defaults are the paper's for CIFAR-100, but for the start of the scale."""

    ucir_lambda: NonNegativeFloat = option(
        "Weight of the term that keeps the direction of embeddings, times the root of old over new classes.", 5.0
    )
    ucir_margin: NonNegativeFloat = option(
        "Margin of cosines between the class of an exemplar and the nearest new classes; 0 under MixUp.",
        0.5,
    )
    ucir_topk: PositiveInt = option("How many of the nearest new classes an exemplar is kept from.", 2)
    head_scale_init: PositiveFloat = option(
        "Start of the learned scale of the cosines. The paper's 1 grows too slowly at learning rates of AdamW.", 16.0
    )
    finetuning_epochs: NonNegativeInt = option(
        "Epochs of the head alone on the balanced memory, after the main phase; the paper has 20 as an option.", 0
    )
    balanced_learning_rate_factor: NonNegativeFloat = option(
        "Peak learning rate of these epochs, as a multiple of learning_rate.", 0.1
    )
    prediction: Prediction = option(PREDICTION_HELP, "logits")


class UnifiedClassifier(SimilarityHeadMethod):
    """
    A cosine head. Rows of new classes start at the mean of their embeddings, those of old classes do not change;
    embeddings keep their direction, and exemplars stay away from the nearest new classes by a margin.
    """

    name = "ucir"
    summary = "cosine head, embeddings keep their direction, old classes away from new ones by a margin (LUCIR)"
    Options = UnifiedClassifierOptions
    architecture = "growing_head"
    needs_fields = {"head": "cosine"}
    card = MethodCard(
        title="UCIR",
        sentence="Trained with UCIR (Hou et al., CVPR 2019): a cosine classifier whose old rows stay as they are, "
        "rehearsal from a bounded memory, distillation of the direction of embeddings, and a margin between old "
        "classes and the nearest new ones.",
        citation=CITATION,
        tags=("ucir", "lucir"),
    )
    options: UnifiedClassifierOptions
    #: Of exemplars of old classes among the images of the phase.
    exemplar_share: float = 1.0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        mixup_alpha = self.arguments.optimization.mixup_alpha
        if mixup_alpha > 0 and self.options.ucir_margin > 0:
            raise InputError(
                f"--mixup_alpha {mixup_alpha} leaves no image of one class, which the margin of ucir needs: leave it "
                "out, or give --ucir_margin 0."
            )

    def describe(self) -> MethodCard:
        """Names the rule that predicts, and leaves out a margin that is not there."""
        card = predicting_by(self.card, self.options.prediction)
        if self.options.ucir_margin > 0:
            return card
        margin = ", and a margin between old classes and the nearest new ones"
        return replace(card, sentence=card.sentence.replace(margin, "; without its margin between classes"))

    def model_fields(self) -> dict[str, Any]:
        """A cosine head, and prototypes beside it."""
        options = self.options
        return {
            "head": "cosine",
            "head_scale_init": options.head_scale_init,
            "keeps_prototypes": True,
            "prediction": options.prediction,
        }

    def grow(self, context: StepContext) -> IncrementalModel:
        """Imprints the new classes: rows along the mean of their normalised embeddings under the old model."""
        from training.methods.prototypes import class_means

        return grow_with_rows(context, lambda embeddings, labels: class_means(embeddings, labels.tolist()))

    def examples(self, context: StepContext, phase: Phase) -> Examples:
        """Also counts the exemplars among the images."""
        examples = super().examples(context, phase)
        num_old = int((examples.labels < context.step.num_old_classes).sum())
        self.exemplar_share = max(1, num_old) / len(examples)
        return examples

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Equation 8 of the paper, with the adaptive weight of equation 7; cross-entropy alone on the head."""
        import torch
        from torch.nn.functional import cosine_similarity

        from training.methods.losses import cross_entropy

        outputs = learner.model(pixel_values)
        terms = {"classification": cross_entropy(outputs.head_logits, targets)}
        if self.teacher is None or learner.phase.name != "main":
            return terms
        options, step = self.options, learner.step
        with torch.no_grad():
            old_embeddings = self.teacher(pixel_values).embeddings
        away = 1 - cosine_similarity(outputs.embeddings.float(), old_embeddings.float())
        weight = options.ucir_lambda * (step.num_old_classes / len(step.class_names)) ** 0.5
        terms["distillation"] = weight * away.mean()
        if options.ucir_margin == 0:
            return terms
        head: Any = learner.model.head
        cosines = head.cosines(outputs.embeddings)[..., 0]
        margin = margin_ranking(
            cosines, targets, step.num_old_classes, options.ucir_margin, options.ucir_topk, self.exemplar_share
        )
        return terms | {"margin": margin}


def margin_ranking(
    cosines: Tensor, targets: Tensor, num_old_classes: int, margin: float, top_k: int, exemplar_share: float
) -> Tensor:
    """
    Keeps exemplars nearer to their class than to the nearest new classes, by a margin (paper, equation 6).

    Args:
        cosines (`Tensor` of shape `(B, C)`): of embeddings and rows, without the scale; the old classes come first.
        targets (`Tensor` of shape `(B, C)`): one-hot; images that MixUp has mixed do not count.
        num_old_classes (`int`): how many classes are old.
        margin (`float`): of cosines.
        top_k (`int`): how many of the nearest new classes.
        exemplar_share (`float`): of exemplars among all images, in (0, 1].

    Returns:
        `Tensor` of shape `()`: the mean over these classes and over as many exemplars as a batch has on average. The
        mean over its own would weigh an exemplar by the others of its batch, and differ with the number of processes.
    """
    is_exemplar = targets[:, :num_old_classes].max(dim=1).values == 1
    own = (cosines * targets).sum(dim=1, keepdim=True)
    nearest = cosines[:, num_old_classes:].topk(min(top_k, cosines.shape[1] - num_old_classes), dim=1).values
    losses = (margin - own + nearest).clamp(min=0).mean(dim=1)
    return (losses * is_exemplar).mean() / exemplar_share
