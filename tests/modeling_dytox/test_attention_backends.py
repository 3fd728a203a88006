"""Every way to compute the model gives the same outputs, gradients and loss."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from modeling_dytox import DyToxConfig, DyToxForImageClassification
from modeling_dytox.modeling_dytox import DyToxDropPath, DyToxLayer, DyToxTaskAttentionLayer


ModelMaker = Callable[..., DyToxForImageClassification]
ImageMaker = Callable[..., torch.Tensor]


def gradients(model: DyToxForImageClassification, images: torch.Tensor, **forward: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(images, labels=torch.tensor([0, 3, 4]), **forward).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("encoder_attention", ["gated", "plain"])
@pytest.mark.parametrize("num_steps", [1, 2])
def test_eager_equals_sdpa(
    make_model: ModelMaker, make_images: ImageMaker, encoder_attention: str, num_steps: int
) -> None:
    class_ranges = [[0, 3], [3, 5]] if num_steps == 2 else [[0, 5]]
    options = {"encoder_attention": encoder_attention, "class_ranges": class_ranges}
    eager = make_model(attn_implementation="eager", **options).double()
    sdpa = make_model(attn_implementation="sdpa", **options).double()
    images = make_images(eager.config).double()
    torch.testing.assert_close(sdpa(images).logits, eager(images).logits, rtol=1e-12, atol=1e-12)
    expected = gradients(eager, images)
    for name, gradient in gradients(sdpa, images).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12, msg=name)
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_gives_equal_gradients(
    make_model: ModelMaker, make_images: ImageMaker, attn_implementation: str, use_reentrant: bool
) -> None:
    # Random drops have to repeat when a block is run a second time.
    model = make_model(attn_implementation=attn_implementation, drop_path_rate=0.5, hidden_dropout_prob=0.1).train()
    images = make_images(model.config)
    torch.manual_seed(0)
    expected = gradients(model, images)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    assert model.is_activation_checkpointing
    torch.manual_seed(0)
    for name, gradient in gradients(model, images).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


@pytest.mark.parametrize("encoder_attention", ["gated", "plain"])
def test_attentions_are_distributions(make_model: ModelMaker, make_images: ImageMaker, encoder_attention: str) -> None:
    model = make_model(
        encoder_attention=encoder_attention, attn_implementation="eager", num_task_attention_layers=2
    ).double()
    outputs = model(make_images(model.config).double(), output_attentions=True)
    batch_size, num_heads, num_patches, num_steps = 3, 4, 9, 2
    assert [tuple(a.shape) for a in outputs.attentions] == [(batch_size, num_heads, num_patches, num_patches)] * 2
    assert [tuple(a.shape) for a in outputs.task_attentions] == [
        (batch_size, num_heads, num_steps, 1 + num_patches)
    ] * 2
    for attention in (*outputs.attentions, *outputs.task_attentions):
        assert attention.min() >= 0
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1], dtype=attention.dtype))


def test_attentions_are_given_on_request_alone(make_model: ModelMaker, make_images: ImageMaker) -> None:
    model = make_model(attn_implementation="eager")
    outputs = model(make_images(model.config))
    assert outputs.attentions is None
    assert outputs.task_attentions is None
    assert outputs.hidden_states is None


def test_drop_path_is_random_in_training_alone(make_model: ModelMaker, make_images: ImageMaker) -> None:
    model = make_model(drop_path_rate=0.5)
    images = make_images(model.config, batch_size=16)
    with torch.no_grad():
        assert torch.equal(model(images).logits, model(images).logits)
        model.train()
        assert not torch.equal(model(images).logits, model(images).logits)


def test_drop_path_grows_over_all_blocks() -> None:
    with torch.device("meta"):
        model = DyToxForImageClassification(DyToxConfig(drop_path_rate=0.1))
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DyToxDropPath)]
    assert rates == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08, 0.1])


@pytest.mark.parametrize("sample_dims", [1, 2])
def test_drop_path_keeps_the_expectation(sample_dims: int) -> None:
    torch.manual_seed(0)
    drop_prob, shape = 0.3, (200, 100, 2)
    samples = DyToxDropPath(drop_prob, sample_dims).train()(torch.ones(shape))
    assert samples.unique().tolist() == pytest.approx([0, 1 / (1 - drop_prob)])
    num_samples = math.prod(shape[:sample_dims])
    standard_error = math.sqrt(drop_prob / (1 - drop_prob) / num_samples)
    assert samples.mean().item() == pytest.approx(1, abs=5 * standard_error)


def test_encoder_blocks_drop_whole_images() -> None:
    torch.manual_seed(0)
    config = DyToxConfig(hidden_size=8, num_attention_heads=2, encoder_attention="plain")
    layer = DyToxLayer(config, drop_path_rate=0.7)
    tokens = torch.randn(64, 5, 8)
    changed = (layer.train()(tokens, None) != tokens).any(dim=-1)
    assert torch.equal(changed.all(dim=1), changed.any(dim=1))
    assert 0 < changed.all(dim=1).sum() < len(tokens)


def test_decoder_blocks_drop_pairs_of_image_and_task_token() -> None:
    torch.manual_seed(0)
    config = DyToxConfig(hidden_size=8, num_attention_heads=2)
    layer = DyToxTaskAttentionLayer(config, drop_path_rate=0.7).train()
    task_tokens = torch.randn(1, 3, 8)
    embeddings, _ = layer(task_tokens, torch.randn(64, 5, 8), None)
    changed = (embeddings != task_tokens).any(dim=-1)
    for step in range(3):
        assert 0 < changed[:, step].sum() < len(changed)
    assert (changed.any(dim=1) & ~changed.all(dim=1)).any()


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_mixed_precision(make_model: ModelMaker, make_images: ImageMaker, attn_implementation: str) -> None:
    model = make_model(attn_implementation=attn_implementation)
    images = make_images(model.config)
    expected = model(images).logits
    # bfloat16 keeps 8 bits of the mantissa, and a logit passes through about ten roundings.
    tolerance = 10 * 2**-8 * expected.abs().max().item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images, labels=torch.tensor([0, 3, 4]))
    torch.testing.assert_close(outputs.logits.float(), expected, rtol=0, atol=tolerance)
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_bfloat16_weights(make_model: ModelMaker, make_images: ImageMaker, attn_implementation: str) -> None:
    model = make_model(attn_implementation=attn_implementation)
    images = make_images(model.config)
    with torch.no_grad():
        expected = model(images).logits
        # Images of the processor are float32.
        logits = model.to(torch.bfloat16)(images).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=10 * 2**-8 * expected.abs().max().item())


def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    terms = []
    for logit, target in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        terms.append(-target * math.log(probability) - (1 - target) * math.log(1 - probability))
    return sum(terms) / len(terms)


def test_loss_is_binary_cross_entropy(make_model: ModelMaker, make_images: ImageMaker) -> None:
    model = make_model().double()
    images = make_images(model.config).double()
    label_ids = torch.tensor([0, 4, 2])
    one_hot = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 1, 0, 0]])
    mixed = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    with torch.no_grad():
        for labels, targets in [(label_ids, one_hot), (one_hot, one_hot), (one_hot.long(), one_hot), (mixed, mixed)]:
            outputs = model(images, labels=labels)
            assert outputs.loss.item() == pytest.approx(binary_cross_entropy(outputs.logits, targets), rel=1e-6)


def test_problem_type_chooses_another_loss(make_model: ModelMaker, make_images: ImageMaker) -> None:
    model = make_model(problem_type="single_label_classification").double()
    label_ids = torch.tensor([0, 4, 2])
    with torch.no_grad():
        outputs = model(make_images(model.config).double(), labels=label_ids)
    probabilities = outputs.logits.softmax(-1)[torch.arange(3), label_ids]
    assert outputs.loss.item() == pytest.approx(-probabilities.log().mean().item())
