"""Vision models of transformers as encoders: the tokens they give, and models that carry them."""

import copy
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from modeling_dytox import MODELS, IncrementalModel
from modeling_dytox.encoders import make_encoder, measure_encoder
from tests.warm import warm_python


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
# Both architectures that every family is tried with.
MODEL_TYPES = ["dytox", "growing_head"]


def encoder_of(family: str) -> PreTrainedModel:
    fields, *_ = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_encoder(SimpleNamespace(encoder_config=AutoConfig.for_model(family, **fields))).eval()


def make_model(family: str, model_type: str = "dytox", **fields: Any) -> tuple[IncrementalModel, PreTrainedModel]:
    """A model of two steps with a frozen encoder, in eval mode, and the encoder that it got its weights from."""
    encoder, side = encoder_of(family), FAMILIES[family][1]
    chosen: dict[str, Any] = {"image_size": side, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32}
    chosen |= measure_encoder(encoder, {"image_size": (side, side)} | fields)
    chosen |= {"encoder_config": encoder.config.to_dict(), "freeze_encoder": True, "class_ranges": [[0, 3]]}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MODELS[model_type](AutoConfig.for_model(model_type, **chosen | fields)).eval()
        model.base_model.encoder.load_state_dict(encoder.state_dict())
        model.add_task(["x"])
    return copy.deepcopy(model), encoder


def images_for(family: str) -> torch.Tensor:
    side = FAMILIES[family][1]
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_patches_of_every_family_and_nothing_else_reach_the_decoder(family: str) -> None:
    _, side, num_prefix, num_patches = FAMILIES[family]
    model, encoder = make_model(family)
    images = images_for(family)
    with torch.no_grad():
        last = encoder(
            images, **({"interpolate_pos_encoding": True} if family in INTERPOLATED else {})
        ).last_hidden_state
        tokens, pooled = model.base_model.features(images)
    assert model.config.num_prefix_tokens == num_prefix
    assert tokens.shape[1] == num_patches
    if last.ndim == 4:
        rows = [last[:, :, row, column] for row in range(last.shape[2]) for column in range(last.shape[3])]
        expected, of_image = torch.stack(rows, dim=1), last.mean(dim=(2, 3))
    else:
        expected = last[:, num_prefix:]
        of_image = last[:, 0] if num_prefix else last.mean(dim=1)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=0)
    torch.testing.assert_close(pooled, of_image)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, model(images).logits, rtol=0, atol=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A step folder of each family and architecture, with the logits of its model beside it."""
    root = tmp_path_factory.mktemp("encoders")
    found = {}
    for family in FAMILIES:
        for model_type in MODEL_TYPES:
            model, _ = make_model(family, model_type)
            folder = root / f"{family}-{model_type}"
            model.save_pretrained(folder)
            images = images_for(family)
            with torch.no_grad():
                torch.save({"images": images, "logits": model(images).logits}, folder / "expected.pt")
            found[folder.name] = folder
    return found


def test_a_frozen_encoder_is_a_file_of_its_own_that_no_step_changes(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in folders.items():
        family, model_type = name.rsplit("-", 1)
        model, _ = make_model(family, model_type)
        model.add_task(["y", "z"])
        model.train()
        assert not model.base_model.encoder.training
        model(images_for(family)).logits.sum().backward()
        assert all(parameter.grad is None for parameter in model.base_model.encoder.parameters())
        model.save_pretrained(tmp_path / name)
        digests = {hashlib.sha256((each / SHARD).read_bytes()).hexdigest() for each in (folder, tmp_path / name)}
        assert len(digests) == 1
        with safe_open(folder / SHARD, "pt") as shard:
            # Under the names that transformers gives them on disk, which may be those of earlier versions.
            assert {key.startswith("dytox.encoder.") for key in shard.keys()} == {True}
            assert len(set(shard.keys())) == sum(key.startswith("dytox.encoder.") for key in model.state_dict())


SHARD = "model-00001-of-00002.safetensors"
LOAD = """
import copy, json, sys, torch
from transformers import AutoModelForImageClassification, logging
logging.set_verbosity_error()
if sys.argv[1] == "package":
    import modeling_dytox
# Other threads, other rounding.
torch.set_num_threads(int(sys.argv[2]))
different = []
for folder in sys.argv[3:]:
    expected = torch.load(f"{folder}/expected.pt", weights_only=True)
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=sys.argv[1] == "remote code")
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(expected["images"]).logits
    if not torch.equal(logits, expected["logits"]):
        different.append(folder)
print(json.dumps([different, "modeling_dytox" in sys.modules]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["package", "remote code"])
def test_every_family_loads_bit_equal_in_a_clean_process(folders: dict[str, Path], tmp_path: Path, way: str) -> None:
    command = ["-c", LOAD, way, str(torch.get_num_threads()), *map(str, folders.values())]
    variables = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = warm_python().run(command, tmp_path, variables, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [[], way == "package"]


def test_an_earlier_output_of_the_encoder_can_be_read() -> None:
    model, encoder = make_model("resnet", encoder_output=1)
    images = images_for("resnet")
    with torch.no_grad():
        hidden_states = encoder(images, output_hidden_states=True).hidden_states
        tokens, pooled = model.base_model.features(images)
    torch.testing.assert_close(tokens, hidden_states[1].flatten(2).transpose(1, 2), rtol=0, atol=0)
    # The vector of the image is of the last map all the same.
    torch.testing.assert_close(pooled, hidden_states[-1].mean(dim=(2, 3)))
    with pytest.raises(ValueError, match="has 3 outputs, not one of number 9"):
        measure_encoder(encoder, {"image_size": (32, 32), "encoder_output": 9})


def test_precision_attention_and_checkpointing_reach_the_encoder(tmp_path: Path) -> None:
    model, _ = make_model("vit")
    model.save_pretrained(tmp_path)
    load = AutoModelForImageClassification.from_pretrained
    half = load(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.base_model.encoder.config._attn_implementation == "eager"
    with torch.no_grad():
        logits = half(images_for("vit")).logits
    assert logits.dtype == torch.bfloat16 and (logits - model(images_for("vit")).logits).abs().max() < 0.1
    model.gradient_checkpointing_enable()
    assert model.base_model.encoder.is_gradient_checkpointing
