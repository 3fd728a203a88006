"""BiC, bias correction (Wu et al., CVPR 2019, https://arxiv.org/abs/1905.13260)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub.run.results import MethodCard
from training.arguments import OpenFraction, PositiveFloat, option
from training.methods.base import Phase
from training.methods.distilling import DistillingMethod


if TYPE_CHECKING:
    from torch import Tensor

    from training.data.scenario import Step
    from training.loop.context import StepContext


#: Of the square of the shift (the authors' code).
SHIFT_PENALTY = 0.05
CITATION = r"""
@inproceedings{wu2019bic,
  title     = {Large Scale Incremental Learning},
  author    = {Wu, Yue and Chen, Yinpeng and Wang, Lijuan and Ye, Yuancheng and Liu, Zicheng and Guo, Yandong and
               Fu, Yun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2019},
  eprint    = {1905.13260},
  archivePrefix = {arXiv}
}
""".strip()


@dataclass
class BiasCorrectionOptions:
    """Options of BiC; the defaults are the paper's."""

    distillation_temperature: PositiveFloat = option("Temperature of the distillation.", 2.0)
    bic_validation_fraction: OpenFraction = option(
        "Share of the exemplars of each old class, and as many images of each new class, that the correction is "
        "fitted on and the model does not learn from.",
        0.1,
    )


class BiasCorrection(DistillingMethod):
    """
    Cross-entropy and distillation on new classes and memory; then two numbers, fitted on balanced images that were
    held out, scale and shift the logits of the new classes, which takes away their advantage. The next step is taught
    by the corrected logits, learns raw ones, and has numbers of its own alone.
    """

    name = "bic"
    summary = "distillation, then the new classes' logits scaled and shifted by two numbers"
    Options = BiasCorrectionOptions
    architecture = "growing_head"
    needs_fields = {"bias_correction": True}
    # One to learn from, one held out.
    min_exemplars = 2
    # As the model predicts: corrected.
    teacher_output = "logits"
    card = MethodCard(
        title="BiC",
        sentence="Trained with [bias correction (BiC)](https://arxiv.org/abs/1905.13260): rehearsal from a bounded "
        "memory, distillation from the previous step, and after each step two numbers that scale and shift the logits "
        "of the new classes, fitted on exemplars and new images that were held out.",
        citation=CITATION,
        tags=("bic", "arxiv:1905.13260"),
    )
    options: BiasCorrectionOptions

    def model_fields(self) -> dict[str, Any]:
        """Two numbers for each step."""
        return {"bias_correction": True}

    def phases(self, step: Step) -> Sequence[Phase]:
        """One phase; from step 2 on it lacks the images that the correction is fitted on."""
        if step.number == 1:
            return [self.main_phase(step, "new")]
        return [self.main_phase(step, "new+memory", held_out=self.options.bic_validation_fraction)]

    def after_phase(self, context: StepContext, phase: Phase) -> None:
        """Fits the two numbers of this step (paper, equation 4); those of earlier steps are in the weights by now."""
        import torch
        from accelerate.logging import get_logger

        if context.step.number == 1:
            return
        model: Any = context.model
        model.bias_scale.fill_(1.0)
        model.bias_shift.fill_(0.0)
        held_out = context.examples("held-out", phase.held_out)
        labels = torch.from_numpy(held_out.labels)
        scale, shift = fit_correction(context.logits(held_out), labels, context.step.num_old_classes)
        model.bias_scale[-1], model.bias_shift[-1] = scale, shift
        if scale <= 0:
            get_logger(__name__).warning(
                f"BiC's scale of the logits of step {context.step.number} is {scale:.4f}, expected above 0: its "
                f"{len(labels)} held-out images are too few. Keep more exemplars, or raise --bic_validation_fraction."
            )


def fit_correction(logits: Tensor, labels: Tensor, num_old_classes: int) -> tuple[float, float]:
    """
    The scale and the shift of the logits of new classes with the least cross-entropy plus `SHIFT_PENALTY` times the
    squared shift, which is convex in both.

    Args:
        logits (`Tensor` of shape `(n, C)`): of images held out; the old classes come first.
        labels (`Tensor` of shape `(n,)`): their label ids.
        num_old_classes (`int`): how many classes are old.

    Returns:
        `tuple[float, float]`: scale and shift.
    """
    import torch
    from torch.nn.functional import cross_entropy

    logits = logits.double()
    old, new = logits[:, :num_old_classes], logits[:, num_old_classes:]
    numbers = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [numbers], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=0
    )

    def objective() -> Tensor:
        solver.zero_grad()
        corrected = torch.cat([old, numbers[0] * new + numbers[1]], dim=1)
        loss = cross_entropy(corrected, labels) + SHIFT_PENALTY * numbers[1] ** 2
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        solver.step(objective)
    scale, shift = numbers.tolist()
    return scale, shift
