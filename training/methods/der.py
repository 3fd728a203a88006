"""DER, dynamically expandable representation, without pruning (Yan et al., CVPR 2021, https://arxiv.org/abs/2103.16788)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub.run.results import MethodCard
from training.arguments import NonNegativeFloat, NonNegativeInt, PositiveFloat, option
from training.methods.base import Method, Phase


if TYPE_CHECKING:
    from torch import Tensor, nn

    from modeling_dytox import IncrementalModel
    from training.data.scenario import Step
    from training.loop.context import StepContext
    from training.loop.learner import LossModule


AUXILIARY = "auxiliary_classifier"
CITATION = r"""
@inproceedings{yan2021der,
  title     = {{DER}: Dynamically Expandable Representation for Class Incremental Learning},
  author    = {Yan, Shipeng and Xie, Jiangwei and He, Xuming},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2021},
  eprint    = {2103.16788},
  archivePrefix = {arXiv}
}
""".strip()


@dataclass
class DynamicallyExpandableOptions:
    """Options of DER; epochs and temperature of the second stage are the paper's for CIFAR-100."""

    der_auxiliary_weight: NonNegativeFloat = option(
        "Weight of the auxiliary loss, which tells the new classes from all old ones by the new branch alone.", 1.0
    )
    der_classifier_temperature: PositiveFloat = option("Temperature of the second stage's loss.", 5.0)
    finetuning_epochs: NonNegativeInt = option("Epochs of the second stage; 0 switches it off.", 30)
    balanced_learning_rate_factor: NonNegativeFloat = option(
        "Peak learning rate of the second stage, as a multiple of learning_rate.", 1.0
    )


class DynamicallyExpandable(Method):
    """
    Each step adds an encoder, which starts as a copy of the newest; the older ones are frozen. One head reads the
    embeddings of all. In a second stage the head alone is learned again, on as many images of each class.
    """

    name = "der"
    summary = "dynamically expandable representation: an encoder a step, without pruning (not Dark Experience Replay)"
    Options = DynamicallyExpandableOptions
    architecture = "branched"
    card = MethodCard(
        title="DER (dynamically expandable representation)",
        sentence="Trained with [DER, dynamically expandable representation](https://arxiv.org/abs/2103.16788), "
        "without pruning, and rehearsal from a bounded memory. Each step adds a whole encoder beside the frozen ones, "
        "so that the model grows with the steps: compare with its parameters in view. Not Dark Experience Replay.",
        citation=CITATION,
        tags=("der", "arxiv:2103.16788"),
    )
    options: DynamicallyExpandableOptions

    def phases(self, step: Step) -> Sequence[Phase]:
        """The main phase, with the older branches frozen; from step 2 on the head alone on balanced images."""
        if step.number == 1:
            return [self.main_phase(step, "new")]
        options = self.options
        old = tuple(f"branched.branches.{branch}.*" for branch in range(step.number - 1))
        old_norms = tuple(f"layernorms.{branch}.*" for branch in range(step.number - 1))
        main = self.main_phase(step, "new+memory", frozen=old + old_norms)
        classifier = self.phase(
            "classifier",
            "balanced",
            options.finetuning_epochs,
            options.balanced_learning_rate_factor * self.arguments.optimization.learning_rate,
            frozen=("branched.*", "layernorms.*"),
        )
        return [main, classifier] if classifier.epochs else [main]

    def auxiliary_modules(self, model: IncrementalModel, step: Step, phase: Phase) -> dict[str, nn.Module]:
        """The auxiliary classifier of the main phase: "any old class" against each new class (paper, section 3.3)."""
        from torch import nn

        if step.number == 1 or phase.name != "main" or self.options.der_auxiliary_weight == 0:
            return {}
        return {AUXILIARY: nn.Linear(model.config.hidden_size, 1 + len(step.class_names), bias=False)}

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Equation 6 of the paper without its sparsity; in the second stage softened cross-entropy (section 3.4)."""
        from training.methods.losses import cross_entropy, divergence_targets

        outputs = learner.model(pixel_values)
        temperature = self.options.der_classifier_temperature if learner.phase.name == "classifier" else 1.0
        terms = {"classification": cross_entropy(outputs.logits / temperature, targets)}
        if AUXILIARY in learner.auxiliary:
            logits = learner.auxiliary[AUXILIARY](outputs.branch_embeddings[:, -1])
            auxiliary = cross_entropy(logits, divergence_targets(targets, learner.step.num_old_classes))
            terms["auxiliary"] = self.options.der_auxiliary_weight * auxiliary
        return terms

    def after_phase(self, context: StepContext, phase: Phase) -> None:
        """Draws the head anew before the second stage, which learns it from balanced images alone."""
        if phase.name == "main" and len(self.phases(context.step)) > 1:
            model: Any = context.model
            model.reset_head()
