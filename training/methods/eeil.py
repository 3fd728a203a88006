"""EEIL, end-to-end incremental learning (Castro et al., ECCV 2018, https://arxiv.org/abs/1807.09536)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hub.run.results import MethodCard
from training.arguments import NonNegativeFloat, NonNegativeInt, PositiveFloat, option
from training.methods.base import Method, Phase, frozen_copy


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_dytox import IncrementalModel
    from training.data.examples import Examples
    from training.data.scenario import Step
    from training.loop.context import StepContext
    from training.loop.learner import LossModule


CITATION = r"""
@inproceedings{castro2018eeil,
  title     = {End-to-End Incremental Learning},
  author    = {Castro, Francisco M. and Mar{\'i}n-Jim{\'e}nez, Manuel J. and Guil, Nicol{\'a}s and Schmid, Cordelia
               and Alahari, Karteek},
  booktitle = {Proceedings of the European Conference on Computer Vision (ECCV)},
  year      = {2018},
  eprint    = {1807.09536},
  archivePrefix = {arXiv}
}
""".strip()


@dataclass
class EndToEndOptions:
    """Options of EEIL; the defaults are the paper's for CIFAR-100."""

    distillation_temperature: PositiveFloat = option("Temperature of the distillation.", 2.0)
    finetuning_epochs: NonNegativeInt = option(
        "Epochs of the second phase, on as many images of each new class as of each old one; 0 switches it off.", 30
    )
    balanced_learning_rate_factor: NonNegativeFloat = option(
        "Peak learning rate of the second phase, as a multiple of learning_rate.", 0.1
    )


class EndToEnd(Method):
    """
    Cross-entropy, and for the classes of each earlier step a distillation of their own; then a second phase on images
    balanced over classes, with the model of the first phase as teacher of all classes. Without the paper's noise on
    gradients, whose size means nothing to an optimizer that scales each gradient by its own size.
    """

    name = "eeil"
    summary = "distillation for the classes of each step, then all weights finetuned on balanced images (E2E)"
    Options = EndToEndOptions
    architecture = "growing_head"
    card = MethodCard(
        title="EEIL",
        sentence="Trained with [end-to-end incremental learning (EEIL)](https://arxiv.org/abs/1807.09536): rehearsal "
        "from a bounded memory, distillation of the classes of each earlier step, and finetuning on balanced images; "
        "without the noise on gradients of the paper.",
        citation=CITATION,
        tags=("eeil", "arxiv:1807.09536"),
    )
    options: EndToEndOptions
    teacher: IncrementalModel | None = None
    finetuning_teacher: IncrementalModel | None = None

    def describe(self) -> MethodCard:
        """Leaves out a second phase that is not there."""
        if self.options.finetuning_epochs:
            return self.card
        phase = ", and finetuning on balanced images; without the noise"
        return replace(self.card, sentence=self.card.sentence.replace(phase, "; without finetuning and the noise"))

    def before_growth(self, context: StepContext) -> None:
        """Keeps a copy of the model of the step before as teacher."""
        self.teacher, self.finetuning_teacher = frozen_copy(context.model), None

    def phases(self, step: Step) -> Sequence[Phase]:
        """The main phase; from step 2 on all weights on balanced images."""
        if step.number == 1:
            return [self.main_phase(step, "new")]
        options = self.options
        finetuning = self.phase(
            "finetuning",
            "balanced",
            options.finetuning_epochs,
            options.balanced_learning_rate_factor * self.arguments.optimization.learning_rate,
        )
        main = self.main_phase(step, "new+memory")
        return [main, finetuning] if finetuning.epochs else [main]

    def after_phase(self, context: StepContext, phase: Phase) -> None:
        """The model of the main phase teaches the second one."""
        if phase.name == "main" and len(self.phases(context.step)) > 1:
            self.finetuning_teacher = frozen_copy(context.model)

    def examples(self, context: StepContext, phase: Phase) -> Examples:
        """In the second phase as many images of each new class as of an old one, herded by the teacher."""
        if self.finetuning_teacher is None:
            return super().examples(context, phase)
        from training.methods.balanced_images import herd_new_classes

        return herd_new_classes(context, self.finetuning_teacher, self.embed)

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Equation 1 of the paper: cross-entropy, and a distillation for the classes of each step of the teacher."""
        import torch

        from training.methods.losses import cross_entropy, knowledge_distillation

        logits = learner.model(pixel_values).head_logits
        terms = {"classification": cross_entropy(logits, targets)}
        teacher = self.teacher if learner.phase.name == "main" else self.finetuning_teacher
        if teacher is None:
            return terms
        with torch.no_grad():
            teacher_logits = teacher(pixel_values).head_logits
        losses = [
            knowledge_distillation(
                logits[:, start:stop], teacher_logits[:, start:stop], self.options.distillation_temperature
            )
            for start, stop in teacher.config.step_class_ranges
        ]
        return terms | {"distillation": torch.stack(losses).sum()}

    def state(self) -> dict[str, Tensor]:
        """The weights of the second teacher, which no file holds."""
        return {} if self.finetuning_teacher is None else weights_that_train(self.finetuning_teacher)

    def bytes_of_state(self, model: IncrementalModel) -> int:
        """Those of the second teacher."""
        return sum(4 * tensor.numel() for tensor in weights_that_train(model).values())

    def load_state(self, tensors: Mapping[str, Tensor], model: IncrementalModel) -> None:
        """The second teacher as it was."""
        if tensors:
            self.finetuning_teacher = frozen_copy(model)
            self.finetuning_teacher.load_state_dict({**model.state_dict(), **tensors})


def weights_that_train(model: IncrementalModel) -> dict[str, Tensor]:
    """The weights of a model by name, without those of a frozen encoder."""
    from modeling_dytox.encoders import is_of_encoder

    is_frozen = model.config.freeze_encoder
    return {name: tensor for name, tensor in model.state_dict().items() if not (is_frozen and is_of_encoder(name))}
