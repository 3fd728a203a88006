"""What BiC and WA share: cross-entropy, and distillation by the fraction of old classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from training.methods.base import Method, frozen_copy


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_dytox import IncrementalModel
    from training.loop.context import StepContext
    from training.loop.learner import LossModule


class DistillingMethod(Method):
    """A method that learns from the labels and from the model of the step before; has `distillation_temperature`."""

    #: Which output of the teacher is learned.
    teacher_output: ClassVar[str] = "head_logits"
    teacher: IncrementalModel | None = None

    def before_growth(self, context: StepContext) -> None:
        """Keeps a copy of the model of the step before as teacher."""
        self.teacher = frozen_copy(context.model)

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """
        `(1 - a) * cross-entropy + a * distillation` with a the fraction of old classes (BiC, equation 3; WA, section
        4.2).
        """
        import torch

        from training.methods.losses import cross_entropy, distilled

        logits = learner.model(pixel_values).head_logits
        terms = {"classification": cross_entropy(logits, targets)}
        if self.teacher is None:
            return terms
        with torch.no_grad():
            teacher_logits = self.teacher(pixel_values)[self.teacher_output]
        return distilled(terms, logits, teacher_logits, learner.step, self.options.distillation_temperature)
