"""What trains in one phase."""

from torch import Tensor, nn

from modeling_dytox import IncrementalModel
from training.data.scenario import Step
from training.methods import Method, Phase


class LossModule(nn.Module):
    """
    The model and its auxiliary modules. The forward pass is the loss of the method, so that an accelerator can prepare
    all of it at once.

    Args:
        method (`Method`): gives the auxiliary modules and the loss.
        model (`IncrementalModel`): knows the classes of the step.
        step (`Step`): what is learned.
        phase (`Phase`): one of the step.
    """

    def __init__(self, method: Method, model: IncrementalModel, step: Step, phase: Phase) -> None:
        super().__init__()
        self.method = method
        self.model = model
        self.step = step
        self.phase = phase
        self.auxiliary = nn.ModuleDict(method.auxiliary_modules(model, step, phase))

    def forward(self, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The terms of the loss; see [`Method.loss`]."""
        return self.method.loss(self, pixel_values, targets)
