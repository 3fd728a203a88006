"""The methods to compare others with: the floor, replay alone, and the ceiling."""

from collections.abc import Sequence

from hub.run.results import MethodCard
from modeling_dytox import DyToxForImageClassification
from training.data.scenario import Step
from training.methods.base import Method, Phase


class Finetune(Method):
    """The floor: learns the new classes alone, without memory or distillation, and forgets the old ones."""

    name = "finetune"
    card = MethodCard(
        title="Finetune baseline",
        sentence="This is the *finetune* baseline: each step trains on its new classes alone, without memory or "
        "distillation. It marks the floor that a method for incremental learning has to beat.",
    )
    uses_memory = False


class Replay(Method):
    """Learns the new classes together with the rehearsal memory, without distillation."""

    name = "replay"
    card = MethodCard(
        title="Replay baseline",
        sentence="This is the *replay* baseline: each step trains on its new classes and a bounded memory of old "
        "images, without distillation.",
    )


class Joint(Method):
    """The ceiling: at each step a new model learns all classes seen from all their images."""

    name = "joint"
    card = MethodCard(
        title="Joint baseline",
        sentence="This is the *joint* baseline: each step trains from scratch on the data of all classes seen. It "
        "marks the ceiling, as it keeps all the data that an incremental learner gives up.",
        can_continue=False,
    )
    uses_memory = False

    def grow(self, model: DyToxForImageClassification, step: Step) -> DyToxForImageClassification:
        """The grown shape, with fresh weights."""
        return DyToxForImageClassification(super().grow(model, step).config)

    def phases(self, step: Step) -> Sequence[Phase]:
        """One phase on all images seen."""
        return [self.main_phase("all")]
