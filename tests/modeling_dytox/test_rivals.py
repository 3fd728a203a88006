"""The architectures beside DyTox's: what they compute, against NumPy, and how they grow."""

from typing import Any

import numpy as np
import pytest
import torch

from modeling_dytox import MODELS, BranchedConfig, GrowingHeadConfig, GrowingHeadModel
from tests.modeling_dytox.small import RANGES, RIVALS, SIZES, make_images, make_model, make_rival


every_rival = pytest.mark.parametrize("fields", RIVALS, ids=lambda fields: " ".join(map(str, fields.values())))
NEW_NAMES = ["fox", "owl", "bee", "elk"]


def normalized(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def layer_normalized(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centered = rows - rows.mean(axis=-1, keepdims=True)
    return centered / np.sqrt(centered.var(axis=-1, keepdims=True) + 1e-5) * weight + bias


def similarities_of(embeddings: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """Cosines, from distances of vectors of length 1."""
    return 1 - ((normalized(embeddings)[:, None] - normalized(prototypes)) ** 2).sum(axis=2) / 2


def expected_logits(model: Any, outputs: Any) -> np.ndarray:
    """Logits from the embeddings, as the definitions say, class by class."""
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if "branched" in model.config.model_type:
        rows = [
            layer_normalized(row, weights[f"layernorms.{place}.weight"], weights[f"layernorms.{place}.bias"])
            for place, row in enumerate(outputs.branch_embeddings.numpy().swapaxes(0, 1))
        ]
        return np.concatenate(rows, axis=1) @ weights["head.weight"].T
    embeddings, config = outputs.embeddings.numpy(), model.config
    if config.prediction == "nearest_mean":
        return similarities_of(embeddings, weights["prototypes"])
    if config.head == "linear":
        rows = layer_normalized(embeddings, weights["head.layernorm.weight"], weights["head.layernorm.bias"])
        logits = rows @ weights["head.linear.weight"].T + weights.get("head.linear.bias", 0)
        if config.bias_correction:
            for step, (start, stop) in enumerate(config.class_ranges):
                logits[:, start:stop] = (
                    logits[:, start:stop] * weights["bias_scale"][step] + weights["bias_shift"][step]
                )
        return logits
    num_proxies = config.num_proxies if config.head == "proxy" else 1
    proxies = normalized(weights["head.weight"]).reshape(-1, num_proxies, config.hidden_size)
    logits = np.zeros((len(embeddings), len(proxies)))
    for image, embedding in enumerate(normalized(embeddings)):
        for label, of_class in enumerate(proxies):
            similarities = np.array([-((embedding - proxy) ** 2).sum() for proxy in of_class])
            shares = np.exp(similarities) / np.exp(similarities).sum()
            # One proxy: a cosine head, whose logit is the cosine itself.
            logits[image, label] = (shares * similarities).sum() if num_proxies > 1 else embedding @ of_class[0]
    return weights["head.scale"] * logits


@every_rival
def test_logits_are_what_the_definitions_say(fields: dict[str, Any]) -> None:
    model = make_rival(class_ranges=RANGES, **fields).double()
    with torch.no_grad():
        outputs = model(make_images(model.config).double())
    np.testing.assert_allclose(outputs.logits.numpy(), expected_logits(model, outputs), atol=1e-9)
    assert outputs.embeddings.shape == (3, 48 if fields["model_type"] == "branched" else 16)
    others = {"keeps_prototypes": "nearest_mean_logits", "bias_correction": "head_logits", "prediction": "head_logits"}
    assert model.other_readouts == tuple(name for field, name in others.items() if field in fields)
    if "keeps_prototypes" in fields:
        expected = similarities_of(outputs.embeddings.numpy(), model.prototypes.numpy())
        np.testing.assert_allclose(outputs.nearest_mean_logits.numpy(), expected, atol=1e-9)


@every_rival
def test_growth_keeps_what_was_learned(fields: dict[str, Any]) -> None:
    model = make_rival(class_ranges=RANGES[:2], **fields).double()
    images = make_images(model.config).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        old = model(images)
        model.add_task(NEW_NAMES)
        new = model(images)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name][tuple(map(slice, tensor.shape))], tensor), name
    # A larger matrix product may round differently.
    torch.testing.assert_close(new.logits[:, :5], old.logits, rtol=0, atol=1e-12)
    assert new.logits.isfinite().all() and new.logits.shape == (3, 9)
    config = model.config
    assert config.class_ranges == RANGES and config.class_names[-4:] == NEW_NAMES and model.num_labels == 9
    config.validate()
    at_once = make_rival(class_ranges=RANGES, **fields).state_dict()
    assert {name: tensor.shape for name, tensor in at_once.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    # A new step is not corrected, and has no prototype yet.
    grown = model.state_dict()
    assert grown.get("bias_scale", torch.ones(3))[2] == 1 and grown.get("bias_shift", torch.zeros(3))[2] == 0
    assert (grown.get("prototypes", torch.zeros(9, 16))[5:] == 0).all()


@every_rival
@pytest.mark.parametrize("training", [True, False])
def test_what_grows_has_the_type_and_the_mode_of_the_model(fields: dict[str, Any], training: bool) -> None:
    model: Any = make_rival(class_ranges=RANGES[:2], **fields).to(torch.bfloat16).train(training)
    frozen = list(model.branched.branches) if fields["model_type"] == "branched" else []
    for branch in frozen:
        branch.eval().requires_grad_(False)
    model.add_task(NEW_NAMES)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    of_frozen = {module for branch in frozen for module in branch.modules()}
    assert all(module.training == (training and module not in of_frozen) for module in model.modules())
    of_frozen_parameters = {parameter for branch in frozen for parameter in branch.parameters()}
    assert all(parameter.requires_grad != (parameter in of_frozen_parameters) for parameter in model.parameters())


@pytest.mark.parametrize("fields", [{"model_type": "dytox"}, *RIVALS], ids=str)
def test_with_a_step_only_its_classes_compete(fields: dict[str, Any]) -> None:
    options = {name: value for name, value in fields.items() if name != "model_type"}
    model: Any = make_model(class_ranges=RANGES) if not options and fields["model_type"] == "dytox" else None
    model = model or make_rival(class_ranges=RANGES, **fields)
    images = make_images(model.config)
    with torch.no_grad():
        logits = model(images).logits
        for step, (start, stop) in enumerate(RANGES, start=1):
            given = model(images, step=step).logits
            assert given.isfinite().all()
            assert torch.equal(given[:, start:stop], logits[:, start:stop])
            assert ((start <= given.argmax(1)) & (given.argmax(1) < stop)).all()
        for unknown in (0, 4):
            with pytest.raises(ValueError, match=f"step={unknown} is not known: give one of 1 to 3"):
                model(images, step=unknown)


def test_a_branch_starts_as_the_newest_and_the_head_can_be_drawn_again() -> None:
    model: Any = make_rival("branched", class_ranges=RANGES[:2])
    model.branched.branches.requires_grad_(False)
    model.add_task(NEW_NAMES)
    newest, copied = model.branched.branches[1:]
    for name, parameter in copied.named_parameters():
        assert torch.equal(parameter, newest.get_parameter(name)) and parameter.requires_grad
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.reset_head()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight"} and model.head.weight.abs().max() <= 1 / np.sqrt(48)


def test_the_encoder_has_the_size_of_the_paper_and_the_loss_follows_the_problem_type() -> None:
    # Patch embedding, positions, five gated blocks, the class-attention block and one token.
    assert sum(parameter.numel() for parameter in GrowingHeadModel(GrowingHeadConfig()).parameters()) == 10_683_948
    labels = torch.tensor([0, 4, 8])
    for problem_type in ("single_label_classification", "multi_label_classification"):
        model = make_rival("growing_head", class_ranges=RANGES, problem_type=problem_type)
        with torch.no_grad():
            outputs = model(make_images(model.config), labels=labels)
        logits = outputs.logits.double().numpy()
        if problem_type.startswith("single"):
            losses = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)]
        else:
            losses = np.logaddexp(0, np.where(np.eye(9)[labels] > 0, -logits, logits))
        assert outputs.loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (GrowingHeadConfig, {"head": "tanh"}, "head"),
        (GrowingHeadConfig, {"num_proxies": 0}, "num_proxies=0 must be at least 1"),
        (
            GrowingHeadConfig,
            {"token_expansion": True},
            "token_expansion=True, but in models of type .growing",
        ),
        (
            BranchedConfig,
            {"independent_classifiers": True},
            "independent_classifiers=True, but in models of type .branched.",
        ),
    ],
)
def test_configs_that_are_refused(kind: type, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        kind(**SIZES, class_ranges=RANGES, **fields)
    assert set(MODELS) == {"dytox", "growing_head", "branched", "feature_head"}
