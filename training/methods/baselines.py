"""The methods to compare with: the floor, replay alone, and the ceiling."""

from collections.abc import Sequence

from modeling_dytox import DyToxForImageClassification
from training.data.scenario import Step
from training.methods.base import Method, Phase


class Finetune(Method):
    """The floor: learns the new classes alone, without memory or distillation, and forgets the old ones."""

    name = "finetune"
    uses_memory = False


class Replay(Method):
    """Learns the new classes together with the rehearsal memory, and nothing else."""

    name = "replay"


class Joint(Method):
    """The ceiling: at each step a new model learns all classes seen from all their images."""

    name = "joint"
    uses_memory = False

    def grow(self, model: DyToxForImageClassification, step: Step) -> DyToxForImageClassification:
        """The grown shape, drawn anew."""
        return DyToxForImageClassification(super().grow(model, step).config)

    def phases(self, step: Step) -> Sequence[Phase]:
        """One phase on all images seen."""
        return [self.main_phase("all")]
