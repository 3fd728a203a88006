"""Vision models of transformers as encoders: the tokens they give, and models that carry them."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageClassification

from modeling_dytox.encoders import measure_encoder
from tests.modeling_dytox.families import FAMILIES, INTERPOLATED, images_for, make_model


# Both architectures that every family is tried with.
MODEL_TYPES = ["dytox", "growing_head"]
SHARD = "model-00001-of-00002.safetensors"


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


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_frozen_encoder_is_a_file_of_its_own_that_no_step_changes(model_type: str, tmp_path: Path) -> None:
    for family in FAMILIES:
        model, _ = make_model(family, model_type)
        # Not even before `train` or `eval` are called.
        assert not any(module.training for module in type(model)(model.config).base_model.encoder.modules())
        model.save_pretrained(tmp_path / family / "before")
        model.add_task(["z"])
        model.train()
        assert not model.base_model.encoder.training
        model(images_for(family)).logits.sum().backward()
        assert all(parameter.grad is None for parameter in model.base_model.encoder.parameters())
        model.save_pretrained(tmp_path / family / "after")
        before, after = (tmp_path / family / name / SHARD for name in ("before", "after"))
        assert before.read_bytes() == after.read_bytes()
        with safe_open(after, "pt") as shard:
            # Under the names that transformers gives them on disk, which may be those of earlier versions.
            assert {key.startswith("dytox.encoder.") for key in shard.keys()} == {True}
            assert len(set(shard.keys())) == sum(key.startswith("dytox.encoder.") for key in model.state_dict())


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
        measure_encoder(encoder, (32, 32), encoder_output=9)


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
