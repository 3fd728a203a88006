"""Sharpness-aware minimisation: as the authors compute it, and as its definition says."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from modeling_dytox.image_processing import make_image_processor
from training.arguments import Arguments
from training.data.augmentation import Normalizer
from training.data.loading import Batch
from training.data.scenario import Step
from training.loop.epoch import EpochTrainer
from training.loop.logs import progress_bar
from training.loop.sam import SharpnessAwareMinimization
from training.methods import Method, make_method


@pytest.mark.parametrize("adaptive", [True, False])
def test_it_moves_as_the_authors_do_and_comes_back_exactly(root: Path, adaptive: bool) -> None:
    name = f"adaptive{int(adaptive)}"
    with np.load(root / "tests" / "fixtures" / "sam.npz") as file:
        fixture = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files if key.startswith(name)}
    parameters = [nn.Parameter(fixture[f"{name}/p{index}_before"].clone()) for index in range(2)]
    for index, parameter in enumerate(parameters):
        parameter.grad = fixture[f"{name}/g{index}"].clone()
    sam = SharpnessAwareMinimization(parameters, float(fixture[f"{name}/rho"]), adaptive)
    sam.ascend()
    for index, parameter in enumerate(parameters):
        torch.testing.assert_close(parameter.data, fixture[f"{name}/p{index}_perturbed"], atol=1e-5, rtol=0)
    sam.descend()
    for index, parameter in enumerate(parameters):
        assert torch.equal(parameter, fixture[f"{name}/p{index}_before"])
        torch.testing.assert_close(parameter.data, fixture[f"{name}/p{index}_restored"], atol=1e-5, rtol=0)
        assert torch.equal(parameter.grad, fixture[f"{name}/g{index}"])


class Cubic(nn.Module):
    """A loss that is cubic in its weights, so that the gradient differs from place to place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, pixel_values: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        scale = pixel_values.mean()
        return {"cube": (self.weight**3).sum() * scale, "line": self.weight.sum() * targets.sum()}


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("num_batches", [1, 2])
def test_an_update_uses_the_gradient_of_the_higher_place(adaptive: bool, num_batches: int) -> None:
    normalize = Normalizer(make_image_processor(4), torch.device("cpu"))
    images = torch.randint(0, 256, (4, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches = [
        Batch(part, torch.zeros(len(part), dtype=torch.long), 1 / num_batches) for part in images.chunk(num_batches)
    ]

    def gradient(weight: torch.Tensor) -> torch.Tensor:
        parts = [3 * weight**2 * normalize(batch.images).mean() + len(batch.labels) for batch in batches]
        return sum(parts[1:], parts[0]) / num_batches

    learner = Cubic()
    before = learner.weight.detach().clone()
    scale = before.abs() if adaptive else torch.ones(3)
    uphill = before + 0.3 * scale**2 * gradient(before) / (scale * gradient(before)).norm()
    expected = before - 0.01 * gradient(uphill)

    accelerator = Accelerator()
    prepared, optimizer = accelerator.prepare(learner, torch.optim.SGD(learner.parameters(), lr=0.01))
    module: Any = SimpleNamespace(method=Method(None, None))  # type: ignore[arg-type]
    sam = SharpnessAwareMinimization(list(learner.parameters()), 0.3, adaptive)
    trainer = EpochTrainer(accelerator, prepared, module, optimizer, normalize, 2, sam=sam)
    losses = trainer.train(iter([batches]), progress_bar(accelerator))
    torch.testing.assert_close(learner.weight.data, expected)
    assert torch.equal(learner.unused, torch.ones(3)), "it has no gradient"
    # What is logged is the loss at the weights themselves.
    cube = (before**3).sum() * normalize(images).mean()
    assert losses["cube"] == pytest.approx(cube.item(), rel=1e-5)


def test_it_is_part_of_the_main_phase_from_the_second_step_on(make_arguments: Callable[..., Arguments]) -> None:
    method = make_method(make_arguments(sam_rho=3.0))
    steps = (Step(number, ["a"], (number - 1, number), None) for number in (1, 2))  # type: ignore[arg-type]
    first, second = ([(phase.name, phase.sam_rho) for phase in method.phases(step)] for step in steps)
    assert first == [("main", 0.0)]
    assert second == [("main", 3.0), ("finetuning", 0.0)]
