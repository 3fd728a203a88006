"""DyTox (Douillard et al., CVPR 2022, https://arxiv.org/abs/2111.11326)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hub.run.results import MethodCard
from training.arguments import NonNegativeFloat, NonNegativeInt, PositiveFloat, option
from training.methods.base import Method, Phase, frozen_copy


if TYPE_CHECKING:
    from torch import Tensor, nn

    from modeling_dytox import IncrementalModel
    from training.data.scenario import Step
    from training.loop.context import StepContext
    from training.loop.learner import LossModule


ENCODER = ("dytox.embeddings.*", "dytox.layers.*", "dytox.encoder.*", "dytox.adapter.*")
DIVERGENCE = "divergence_classifier"
CITATION = r"""
@inproceedings{douillard2022dytox,
  title     = {DyTox: Transformers for Continual Learning with DYnamic TOken eXpansion},
  author    = {Douillard, Arthur and Ram{\'e}, Alexandre and Couairon, Guillaume and Cord, Matthieu},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2022},
  eprint    = {2111.11326},
  archivePrefix = {arXiv}
}
""".strip()


@dataclass
class DyToxOptions:
    """Options of DyTox; the defaults are the paper's for CIFAR-100."""

    distillation: bool = option("Learn what the model of the previous step says of the old classes.", True)
    distillation_temperature: PositiveFloat = option("Temperature of the distillation.", 1.0)
    divergence_weight: NonNegativeFloat = option(
        "Weight of the divergence loss, which tells each new class and the old ones as a whole apart by the newest "
        "task embedding alone; 0 switches it off.",
        0.1,
    )
    token_expansion: bool = option("Give each step a task token of its own; false keeps one for all (ablation).", True)
    independent_classifiers: bool = option(
        "Give each step a classifier of its own; false draws one for all classes at each step (ablation).", True
    )
    finetuning_epochs: NonNegativeInt = option(
        "Epochs of the finetuning phase on the balanced memory, after the main phase; 0 switches it off.", 20
    )
    finetuning_learning_rate: NonNegativeFloat = option(
        "Constant learning rate of the finetuning phase, for learning_rate_batch_size images an update.", 5e-5
    )
    shuffle_finetuning: bool = option(
        "Draw the exemplars of finetuning at random. false takes them in stored order and, where their number rounded "
        "down to a multiple of 256 is more than a batch, drops the last, incomplete one and with it the newest "
        "classes, as the authors' code does.",
        True,
    )
    sam_rho: NonNegativeFloat = option(
        "Radius of sharpness-aware minimisation (DyTox++) in the main phase from step 2 on; 0 switches it off.", 0.0
    )
    sam_adaptive: bool = option("Scale that radius by the size of each weight (ASAM).", True)


class DyTox(Method):
    """
    Dynamic token expansion: each step trains a new task token and classifier beside the shared blocks, with binary
    cross-entropy, distillation from the model of the previous step and a divergence classifier; then it finetunes
    decoder, tokens and classifiers on the balanced memory.
    """

    name = "dytox"
    summary = "a task token and a classifier a step, distillation, finetuning on the memory (the paper)"
    Options = DyToxOptions
    architecture = "dytox"
    card = MethodCard(
        title="DyTox",
        sentence="Trained with [DyTox](https://arxiv.org/abs/2111.11326): one task token and one classifier a step, "
        "rehearsal from a bounded memory, and distillation from the previous step.",
        citation=CITATION,
        tags=("dytox", "arxiv:2111.11326"),
    )
    teacher: IncrementalModel | None = None
    options: DyToxOptions

    def describe(self) -> MethodCard:
        """Names what the options switch off, as the rows of an ablation do."""
        options = self.options
        parts = {
            "distillation": options.distillation,
            "a divergence classifier": options.divergence_weight > 0,
            "finetuning": options.finetuning_epochs > 0,
            "a task token a step": options.token_expansion,
            "a classifier a step": options.independent_classifiers,
        }
        missing = [part for part, is_on in parts.items() if not is_on]
        if not missing:
            return self.card
        parts_used = "parts of [DyTox](https://arxiv.org/abs/2111.11326) and rehearsal from a bounded memory"
        sentence = f"Trained with {parts_used}, without {', '.join(missing)}."
        return replace(self.card, title="DyTox without some of its parts", sentence=sentence)

    def model_fields(self) -> dict[str, Any]:
        """What the options share among the steps."""
        options = self.options
        return {
            "token_expansion": options.token_expansion,
            "independent_classifiers": options.independent_classifiers,
        }

    def before_growth(self, context: StepContext) -> None:
        """Keeps a copy of the model of the step before as teacher."""
        if self.options.distillation:
            self.teacher = frozen_copy(context.model)

    def phases(self, step: Step) -> Sequence[Phase]:
        """The main phase; from step 2 on old tokens and classifiers are frozen, and finetuning follows."""
        if step.number == 1:
            return [self.main_phase(step, "new")]
        options = self.options
        main = self.main_phase(
            step,
            "new+memory",
            frozen=old_tokens_and_classifiers(step, options),
            sam_rho=options.sam_rho,
            sam_adaptive=options.sam_adaptive,
        )
        finetuning = self.phase(
            "finetuning",
            "memory",
            options.finetuning_epochs,
            options.finetuning_learning_rate,
            schedule="constant",
            frozen=ENCODER,
            after_memory_update=True,
            shuffle=options.shuffle_finetuning,
        )
        return [main, finetuning] if finetuning.epochs else [main]

    def auxiliary_modules(self, model: IncrementalModel, step: Step, phase: Phase) -> dict[str, nn.Module]:
        """The divergence classifier of the main phase: "any old class" against each new class (paper, section 3.4)."""
        if step.number == 1 or phase.name != "main" or self.options.divergence_weight == 0:
            return {}
        from modeling_dytox.modeling_dytox import DyToxClassifier

        config: Any = model.config
        return {DIVERGENCE: DyToxClassifier(config, 1 + len(step.class_names))}

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """
        Equation 8 of the paper in the main phase: `(1 - a) * classification + a * distillation + weight * divergence`,
        with a the fraction of old classes; classification alone in the first step and in finetuning.
        """
        import torch

        from training.methods.losses import classification_loss, distillation_loss, divergence_targets

        outputs = learner.model(pixel_values)
        terms = {"classification": classification_loss(outputs.logits, targets)}
        if self.teacher is not None and learner.phase.name == "main":
            old_fraction = learner.step.num_old_classes / learner.step.num_seen_classes
            with torch.no_grad():
                teacher_logits = self.teacher(pixel_values).logits
            distillation = distillation_loss(outputs.logits, teacher_logits, self.options.distillation_temperature)
            terms["classification"] = (1 - old_fraction) * terms["classification"]
            terms["distillation"] = old_fraction * distillation
        if DIVERGENCE in learner.auxiliary:
            divergence_logits = learner.auxiliary[DIVERGENCE](outputs.task_embeddings[:, -1])
            divergence = classification_loss(
                divergence_logits, divergence_targets(targets, learner.step.num_old_classes)
            )
            terms["divergence"] = self.options.divergence_weight * divergence
        return terms


def old_tokens_and_classifiers(step: Step, options: DyToxOptions) -> tuple[str, ...]:
    """Patterns of the parameters that belong to earlier steps alone, and to no part that all steps share."""
    kinds = []
    if options.token_expansion:
        kinds.append("dytox.task_tokens.{}")
    if options.independent_classifiers:
        kinds.append("classifiers.{}.*")
    return tuple(kind.format(old) for old in range(step.number - 1) for kind in kinds)
