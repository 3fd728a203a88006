"""All task tokens in one pass give what Algorithm 1 gives with one pass a task token."""

from collections.abc import Callable
from typing import Any

import oracle
import pytest
import torch

from modeling_dytox import DyToxForImageClassification


ModelMaker = Callable[..., DyToxForImageClassification]
GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"image_size": [8, 20], "patch_size": 4},
    {"image_size": [12, 8], "patch_size": [3, 2], "num_channels": 1},
]


def ranges_of(num_steps: int) -> list[list[int]]:
    return [[2 * step, 2 * step + 2] for step in range(num_steps)]


def assert_equals_oracle(model: DyToxForImageClassification, images: torch.Tensor, tolerance: float) -> None:
    with torch.no_grad():
        outputs = model(images)
        embeddings = oracle.task_embeddings(model.state_dict(), model.config, images)
        logits = oracle.logits(model.state_dict(), model.config, images)
    for step, embedding in enumerate(embeddings):
        torch.testing.assert_close(outputs.task_embeddings[:, step], embedding, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(outputs.logits, logits, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("encoder_attention", ["gated", "plain"])
@pytest.mark.parametrize("num_steps", [1, 2, 10])
def test_one_pass_equals_a_pass_a_step(
    make_model: ModelMaker,
    make_images: Callable[..., torch.Tensor],
    num_steps: int,
    encoder_attention: str,
    attn_implementation: str,
) -> None:
    model = make_model(
        class_ranges=ranges_of(num_steps),
        encoder_attention=encoder_attention,
        attn_implementation=attn_implementation,
    )
    images = make_images(model.config)
    assert_equals_oracle(model, images, tolerance=1e-5)
    assert_equals_oracle(model.double(), images.double(), tolerance=1e-12)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("num_task_attention_layers", [1, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_any_geometry_and_several_decoder_blocks(
    make_model: ModelMaker,
    make_images: Callable[..., torch.Tensor],
    geometry: dict[str, Any],
    num_task_attention_layers: int,
    attn_implementation: str,
) -> None:
    model = make_model(
        **geometry, num_task_attention_layers=num_task_attention_layers, attn_implementation=attn_implementation
    ).double()
    assert_equals_oracle(model, make_images(model.config).double(), tolerance=1e-12)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("changed", [0, 1, 3])
def test_a_task_token_changes_its_own_embedding_alone(
    make_model: ModelMaker, make_images: Callable[..., torch.Tensor], changed: int, attn_implementation: str
) -> None:
    model = make_model(class_ranges=ranges_of(4), num_task_attention_layers=2, attn_implementation=attn_implementation)
    images = make_images(model.config)
    with torch.no_grad():
        before = model(images).task_embeddings
        model.dytox.task_tokens[changed].add_(5 * torch.randn(model.config.hidden_size))
        after = model(images).task_embeddings
    same = [torch.equal(before[:, step], after[:, step]) for step in range(4)]
    assert same == [step != changed for step in range(4)]


def test_images_of_another_size_are_refused(make_model: ModelMaker) -> None:
    model = make_model()
    for shape in [(1, 3, 12, 16), (1, 1, 12, 12), (3, 12, 12)]:
        with pytest.raises(ValueError, match=r"expected \(batch_size, 3, 12, 12\)"):
            model(torch.zeros(shape))
