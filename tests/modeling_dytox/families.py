"""A small encoder with random weights of each family of vision models, and models that carry one."""

import copy
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from modeling_dytox import MODELS, IncrementalModel
from modeling_dytox.encoders import make_encoder, measure_encoder


VIT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VIT |= {"image_size": 16, "patch_size": 8}
DINO = {name: value for name, value in VIT.items() if name != "intermediate_size"} | {"mlp_ratio": 2}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1]}
# model_type: config, side of the images, prefix tokens, patches.
FAMILIES: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "vit": (VIT, 32, 1, 16),
    "deit": (VIT, 32, 2, 16),
    "beit": (VIT, 32, 1, 16),
    "dinov2": (DINO, 32, 1, 16),
    "dinov2_with_registers": (DINO | {"num_register_tokens": 4}, 32, 5, 16),
    "dinov3_vit": (VIT | {"num_register_tokens": 3}, 32, 4, 16),
    "siglip_vision_model": (VIT, 32, 0, 16),
    "clip_vision_model": (VIT, 32, 1, 16),
    "ijepa": (VIT, 32, 0, 16),
    "convnext": (STAGES | {"num_stages": 2, "patch_size": 4}, 32, 0, 16),
    "convnextv2": (STAGES | {"num_stages": 2, "patch_size": 4}, 32, 0, 16),
    "dinov3_convnext": ({"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}, 64, 1, 4),
    "resnet": (STAGES | {"embedding_size": 8, "layer_type": "basic"}, 32, 0, 16),
    "regnet": (STAGES | {"embedding_size": 8, "groups_width": 8}, 32, 0, 16),
    "swin": (
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "image_size": 32, "patch_size": 2},
        32,
        0,
        64,
    ),
    "hiera": ({"embed_dim": 8, "image_size": [64, 64], "depths": [1] * 4, "num_heads": [1, 1, 2, 2]}, 64, 0, 4),
    "efficientnet": ({"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128}, 64, 0, 4),
    "mobilenet_v2": ({"depth_multiplier": 0.25}, 64, 0, 4),
    "timm_wrapper": ({"architecture": "test_convnext"}, 64, 0, 4),
}
# Their positions are for images of another size.
INTERPOLATED = ("vit", "deit", "beit", "siglip_vision_model", "clip_vision_model", "ijepa")


def encoder_of(family: str) -> PreTrainedModel:
    fields, *_ = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_encoder(SimpleNamespace(encoder_config=AutoConfig.for_model(family, **fields))).eval()


def first_step(family: str, model_type: str = "dytox", **fields: Any) -> tuple[IncrementalModel, PreTrainedModel]:
    """A model of one step with a frozen encoder, in eval mode, and the encoder that it got its weights from."""
    encoder, side = encoder_of(family), FAMILIES[family][1]
    chosen: dict[str, Any] = {"image_size": side, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32}
    chosen |= measure_encoder(encoder, (side, side), fields.get("encoder_output")).fields
    chosen |= {"encoder_config": encoder.config.to_dict(), "freeze_encoder": True, "class_ranges": [[0, 2]]}
    chosen |= {"id2label": {0: "v", 1: "w"}, "label2id": {"v": 0, "w": 1}}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MODELS[model_type](AutoConfig.for_model(model_type, **chosen | fields)).eval()
        model.base_model.encoder.load_state_dict(encoder.state_dict())
    return model, encoder


def make_model(family: str, model_type: str = "dytox", **fields: Any) -> tuple[IncrementalModel, PreTrainedModel]:
    """The same after a second step."""
    model, encoder = first_step(family, model_type, **fields)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model.add_task(["x", "y"])
    return copy.deepcopy(model), encoder


def images_for(family: str) -> torch.Tensor:
    side = FAMILIES[family][1]
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
