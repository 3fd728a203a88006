"""Sharpness-aware minimisation (SAM), which makes DyTox+ into DyTox++."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SharpnessAwareMinimization:
    """
    Takes the gradient of an update not at the weights but where the loss is highest around them: SAM (Foret et al.,
    ICLR 2021, https://arxiv.org/abs/2010.01412), or adaptive SAM (Kwon et al., ICML 2021,
    https://arxiv.org/abs/2102.11600), whose neighbourhood is as wide as each weight is large.

    Args:
        parameters (`Sequence[nn.Parameter]`): those that train.
        rho (`float`): radius of the neighbourhood, > 0.
        adaptive (`bool`): whether to scale it by the size of each weight.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rho: float, adaptive: bool) -> None:
        self.parameters = parameters
        self.rho = rho
        self.adaptive = adaptive
        self.weights: list[tuple[nn.Parameter, Tensor]] = []

    @torch.no_grad()
    def ascend(self) -> None:
        """Moves the weights uphill along their gradients: `rho * s**2 * g / |s * g|`, s = |w| if adaptive, else 1."""
        trained = [(parameter, parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        scales = [parameter.abs() if self.adaptive else torch.ones_like(parameter) for parameter, _ in trained]
        norms = [(scale * gradient).norm() for scale, (_, gradient) in zip(scales, trained, strict=True)]
        factor = self.rho / (torch.stack(norms).norm() + 1e-12)
        self.weights = [(parameter, parameter.clone()) for parameter, _ in trained]
        for scale, (parameter, gradient) in zip(scales, trained, strict=True):
            parameter.add_(scale.square() * gradient * factor)

    @torch.no_grad()
    def descend(self) -> None:
        """Restores the weights exactly; their gradients stay those of the higher place."""
        for parameter, weight in self.weights:
            parameter.copy_(weight)
        self.weights = []
