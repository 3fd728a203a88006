"""WA, weight aligning (Zhao et al., CVPR 2020, https://arxiv.org/abs/1911.07053)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub.run.results import MethodCard
from training.arguments import PositiveFloat, option
from training.methods.base import Phase
from training.methods.distilling import DistillingMethod


if TYPE_CHECKING:
    from torch import Tensor

    from training.loop.context import StepContext


CITATION = r"""
@inproceedings{zhao2020wa,
  title     = {Maintaining Discrimination and Fairness in Class Incremental Learning},
  author    = {Zhao, Bowen and Xiao, Xi and Gan, Guojun and Zhang, Bin and Xia, Shu-Tao},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2020},
  eprint    = {1911.07053},
  archivePrefix = {arXiv}
}
""".strip()


@dataclass
class WeightAligningOptions:
    """Options of WA; the default is the paper's."""

    distillation_temperature: PositiveFloat = option("Temperature of the distillation.", 2.0)


class WeightAligning(DistillingMethod):
    """
    Cross-entropy and distillation on new classes and memory; then the rows of the head that belong to the new classes
    are scaled to the mean norm of the others, which takes away their advantage. The head has no bias.
    """

    name = "wa"
    summary = "distillation, then the new classes' weights scaled to the norm of the old ones'"
    Options = WeightAligningOptions
    architecture = "growing_head"
    needs_fields = {"head": "linear"}
    card = MethodCard(
        title="WA",
        sentence="Trained with [weight aligning (WA)](https://arxiv.org/abs/1911.07053): rehearsal from a bounded "
        "memory, distillation from the previous step, and after each step weights of the new classes scaled to the "
        "mean norm of those of the old ones.",
        citation=CITATION,
        tags=("wa", "arxiv:1911.07053"),
    )
    options: WeightAligningOptions

    def model_fields(self) -> dict[str, Any]:
        """A head without bias, whose rows can be compared by their norms."""
        return {"head_bias": False}

    def after_phase(self, context: StepContext, phase: Phase) -> None:
        """Aligns the rows of the new classes (paper, equation 7), before the memory sees the model."""
        if context.step.number > 1:
            head: Any = context.model.head
            align(head.linear.weight.data, context.step.num_old_classes)


def align(weight: Tensor, num_old_classes: int) -> None:
    """
    Scales the rows of new classes by the ratio of the mean norms of old and new rows.

    Args:
        weight (`Tensor` of shape `(C, D)`): of a linear head, changed in place; the old classes come first.
        num_old_classes (`int`): how many of them are old.
    """
    norms = weight.norm(dim=1)
    weight[num_old_classes:] *= norms[:num_old_classes].mean() / norms[num_old_classes:].mean()
