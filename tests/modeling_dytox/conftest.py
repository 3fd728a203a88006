"""Models and inputs that the tests of `modeling_dytox` share."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_dytox import DyToxConfig, DyToxForImageClassification


# Tests import `oracle` by name.
sys.path.insert(0, str(Path(__file__).parent))

FIXTURES = Path(__file__).parents[1] / "fixtures"
SMALL_SIZES: dict[str, Any] = {
    "image_size": 12,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}

ModelMaker = Callable[..., DyToxForImageClassification]


@pytest.fixture
def fixtures_folder() -> Path:
    """Where the numbers of the authors' code lie."""
    return FIXTURES


@pytest.fixture(scope="session")
def model_a() -> dict[str, np.ndarray]:
    """The authors' small model of three steps: parameters, input, and outputs of every part."""
    with np.load(FIXTURES / "model_a.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def make_model() -> ModelMaker:
    """Makes small models in eval mode, whose parameters are all far from their initial values."""

    def make(**options: Any) -> DyToxForImageClassification:
        options.setdefault("class_ranges", [[0, 3], [3, 5]])
        config = DyToxConfig(**SMALL_SIZES | options)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            model = DyToxForImageClassification(config).eval()
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        return model

    return make


@pytest.fixture
def make_images() -> Callable[..., torch.Tensor]:
    """Makes a batch of normalised images that fit a configuration."""

    def make(config: DyToxConfig, batch_size: int = 3, seed: int = 1) -> torch.Tensor:
        shape = (batch_size, config.num_channels, *config.image_height_width)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return make
