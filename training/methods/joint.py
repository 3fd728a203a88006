"""Training on everything seen so far: the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hub.run.results import MethodCard
from training.methods.base import Method, Phase


if TYPE_CHECKING:
    from modeling_dytox import IncrementalModel
    from training.data.scenario import Step
    from training.loop.context import StepContext


class Joint(Method):
    """At each step a new model learns all classes seen from all their images."""

    name = "joint"
    summary = "ceiling: at each step a new model on all images seen"
    card = MethodCard(
        title="Joint baseline",
        sentence="This is the *joint* baseline: each step trains from scratch on the data of all classes seen. It "
        "marks the ceiling, as it keeps all the data that an incremental learner gives up.",
        can_continue=False,
    )
    architecture = "growing_head"
    uses_memory = False
    keeps_old_logits = False

    def grow(self, context: StepContext) -> IncrementalModel:
        """The grown shape, with fresh weights."""
        grown = super().grow(context)
        return type(grown)(grown.config)

    def phases(self, step: Step) -> Sequence[Phase]:
        """One phase on all images seen."""
        return [self.main_phase(step, "all")]
