"""Every way to compute the model gives the same outputs, gradients and loss."""

import math

import pytest
import torch

from modeling_dytox import DyToxConfig, DyToxForImageClassification
from modeling_dytox.modeling_dytox import DyToxDropPath, DyToxLayer, DyToxTaskAttentionLayer
from tests.modeling_dytox.small import every_backend, make_images, make_model


every_encoder = pytest.mark.parametrize("encoder_attention", ["gated", "plain"])


def gradients(model: DyToxForImageClassification, images: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(images, labels=torch.tensor([0, 3, 4])).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# Their outputs are compared with those of the oracle in test_decoding.py.
@every_encoder
def test_eager_and_sdpa_give_equal_gradients(encoder_attention: str) -> None:
    options = {"encoder_attention": encoder_attention}
    eager, sdpa = (make_model(attn_implementation=name, **options).double() for name in ("eager", "sdpa"))
    images = make_images(eager.config).double()
    expected = gradients(eager, images)
    for name, gradient in gradients(sdpa, images).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12, msg=name)


@every_backend
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_gives_equal_gradients(backend: str, use_reentrant: bool) -> None:
    # Random drops have to repeat when a block is run a second time.
    model = make_model(attn_implementation=backend, drop_path_rate=0.5, hidden_dropout_prob=0.1).train()
    images = make_images(model.config)
    torch.manual_seed(0)
    expected = gradients(model, images)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    assert model.is_activation_checkpointing
    torch.manual_seed(0)
    for name, gradient in gradients(model, images).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


@every_encoder
def test_attentions_are_distributions_given_on_request(encoder_attention: str) -> None:
    model = make_model(
        encoder_attention=encoder_attention, attn_implementation="eager", num_task_attention_layers=2
    ).double()
    images = make_images(model.config).double()
    outputs = model(images, output_attentions=True)
    assert [tuple(attention.shape) for attention in outputs.attentions] == [(3, 4, 9, 9)] * 2
    assert [tuple(attention.shape) for attention in outputs.task_attentions] == [(3, 4, 2, 1 + 9)] * 2
    for attention in (*outputs.attentions, *outputs.task_attentions):
        assert attention.min() >= 0
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1], dtype=attention.dtype))
    unasked = model(images)
    assert unasked.attentions is unasked.task_attentions is unasked.hidden_states is None


def test_drop_path_is_random_in_training_alone_and_grows_over_the_blocks() -> None:
    model = make_model(drop_path_rate=0.5)
    images = make_images(model.config, batch_size=16)
    with torch.no_grad():
        assert torch.equal(model(images).logits, model(images).logits)
        model.train()
        assert not torch.equal(model(images).logits, model(images).logits)
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
    standard_error = math.sqrt(drop_prob / (1 - drop_prob) / math.prod(shape[:sample_dims]))
    assert samples.mean().item() == pytest.approx(1, abs=5 * standard_error)


def test_the_encoder_drops_whole_images_and_the_decoder_pairs_of_image_and_task_token() -> None:
    torch.manual_seed(0)
    config = DyToxConfig(hidden_size=8, num_attention_heads=2, encoder_attention="plain")
    patch_tokens, task_tokens = torch.randn(64, 5, 8), torch.randn(1, 3, 8)
    encoded = DyToxLayer(config, drop_path_rate=0.7).train()(patch_tokens, None)
    changed = (encoded != patch_tokens).any(dim=-1)
    assert torch.equal(changed.all(dim=1), changed.any(dim=1))
    assert 0 < changed.all(dim=1).sum() < 64

    decoded, _ = DyToxTaskAttentionLayer(config, drop_path_rate=0.7).train()(task_tokens, patch_tokens, None)
    changed = (decoded != task_tokens).any(dim=-1)
    assert all(0 < changed[:, step].sum() < 64 for step in range(3))
    assert (changed.any(dim=1) & ~changed.all(dim=1)).any()


@every_backend
def test_bfloat16_as_mixed_precision_and_as_weights(backend: str) -> None:
    model = make_model(attn_implementation=backend)
    # Images of the processor are float32.
    images = make_images(model.config)
    expected = model(images).logits.detach()
    # bfloat16 keeps 8 bits of the mantissa, and a logit passes through about ten roundings.
    tolerance = {"rtol": 0, "atol": 10 * 2**-8 * expected.abs().max().item()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images, labels=torch.tensor([0, 3, 4]))
    torch.testing.assert_close(outputs.logits.float(), expected, **tolerance)
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    logits = model.to(torch.bfloat16)(images).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, **tolerance)


LABEL_IDS = torch.tensor([0, 4, 2])
ONE_HOT = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 1, 0, 0]])
MIXED = 0.7 * ONE_HOT + 0.3 * ONE_HOT.flip(0)


@pytest.mark.parametrize(
    ("labels", "targets"),
    [(LABEL_IDS, ONE_HOT), (ONE_HOT, ONE_HOT), (ONE_HOT.long(), ONE_HOT), (MIXED, MIXED)],
    ids=["ids", "one hot", "whole numbers", "mixed"],
)
def test_loss_is_binary_cross_entropy(labels: torch.Tensor, targets: torch.Tensor) -> None:
    model = make_model().double()
    with torch.no_grad():
        outputs = model(make_images(model.config).double(), labels=labels)
    probabilities = 1 / (1 + (-outputs.logits).exp())
    expected = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log()).mean()
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_problem_type_chooses_another_loss() -> None:
    model = make_model(problem_type="single_label_classification").double()
    with torch.no_grad():
        outputs = model(make_images(model.config).double(), labels=LABEL_IDS)
    probabilities = outputs.logits.softmax(-1)[torch.arange(3), LABEL_IDS]
    assert outputs.loss.item() == pytest.approx(-probabilities.log().mean().item())
