"""Small models and their images, the switches of the paper's ablation, and what changes in a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from modeling_dytox import MODELS, DyToxConfig, DyToxForImageClassification, IncrementalModel


FIXTURES = Path(__file__).parents[1] / "fixtures"
SIZES: dict[str, Any] = {
    "image_size": 12,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}
RANGES = [[0, 3], [3, 5], [5, 9]]
# One task token and classifier a step, or one for all steps.
VARIANTS = [
    {"token_expansion": tokens, "independent_classifiers": classifiers}
    for tokens in (True, False)
    for classifiers in (True, False)
]


def _without(switches: Mapping[str, bool]) -> str:
    return " ".join(f"no_{name}" for name, on in switches.items() if not on) or "default"


every_variant = pytest.mark.parametrize("switches", VARIANTS, ids=_without)
every_backend = pytest.mark.parametrize("backend", ["eager", "sdpa"])


def make_model(**options: Any) -> DyToxForImageClassification:
    """A small model in eval mode, whose parameters are all far from their initial values; two steps by default."""
    options.setdefault("class_ranges", RANGES[:2])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = DyToxForImageClassification(DyToxConfig(**SIZES | options)).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def make_images(config: DyToxConfig, batch_size: int = 3) -> torch.Tensor:
    """A batch of normalised images that fit a configuration."""
    shape = (batch_size, config.num_channels, *config.image_height_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def snapshot(model: DyToxForImageClassification) -> dict[str, torch.Tensor]:
    """The parameters as they are now."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model: DyToxForImageClassification, before: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the parameters that are not as `before`, new ones included."""
    after = model.state_dict()
    return {name for name in after if name not in before or not torch.equal(after[name], before[name])}


# The other architectures: `model_type` and fields of the config.
RIVALS: list[dict[str, Any]] = [
    {"model_type": "growing_head"},
    {"model_type": "growing_head", "head_bias": False, "bias_correction": True},
    {"model_type": "growing_head", "head": "cosine", "keeps_prototypes": True},
    {"model_type": "growing_head", "head": "proxy", "num_proxies": 3},
    {"model_type": "growing_head", "prediction": "nearest_mean"},
    {"model_type": "branched"},
]


def make_rival(model_type: str, **options: Any) -> IncrementalModel:
    """A small model of another architecture in eval mode, whose numbers are all far from their initial values."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = MODELS[model_type](AutoConfig.for_model(model_type, **SIZES | options)).eval()
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(torch.randn_like(tensor), alpha=0.3)
    return model
