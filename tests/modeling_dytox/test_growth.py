"""`add_task` adds a step and leaves everything learned before as it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modeling_dytox import DyToxConfig, DyToxForImageClassification


ModelMaker = Callable[..., DyToxForImageClassification]
ImageMaker = Callable[..., torch.Tensor]


def snapshot(model: DyToxForImageClassification) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_rounding_apart(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Matrix products of more rows may sum in another order: nothing but that may differ, in float64."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=100 * torch.finfo(torch.float64).eps)


def new_parameters(model: DyToxForImageClassification, before: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name not in before}


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_old_parameters_and_logits_stay(
    make_model: ModelMaker, make_images: ImageMaker, attn_implementation: str
) -> None:
    # A mask appears with the second step and grows with the third.
    model = make_model(class_ranges=[[0, 3]], attn_implementation=attn_implementation).double()
    images = make_images(model.config).double()
    for names in (["fox", "owl"], ["bee"]):
        weights = snapshot(model)
        with torch.no_grad():
            before = model(images)
            model.add_task(names)
            after = model(images)
        assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
        num_steps, num_classes = before.task_embeddings.shape[1], before.logits.shape[1]
        assert after.logits.shape == (len(images), num_classes + len(names))
        assert_rounding_apart(after.task_embeddings[:, :num_steps], before.task_embeddings)
        assert_rounding_apart(after.logits[:, :num_classes], before.logits)


def test_configuration_follows(make_model: ModelMaker) -> None:
    model = make_model(id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1}, class_ranges=[[0, 2]])
    model.add_task(("fox", "owl", "bee"))
    config = model.config
    assert config.class_ranges == [[0, 2], [2, 5]]
    assert config.num_task_tokens == 2
    assert config.num_labels == model.num_labels == 5
    assert config.id2label == {0: "cat", 1: "dog", 2: "fox", 3: "owl", 4: "bee"}
    assert config.label2id == {"cat": 0, "dog": 1, "fox": 2, "owl": 3, "bee": 4}
    assert model.dytox.config is config
    config.validate()


def test_class_ranges_become_explicit(make_model: ModelMaker) -> None:
    model = make_model(class_ranges=None, num_labels=3)
    assert model.config.class_ranges is None
    model.add_task(["fox"])
    assert model.config.class_ranges == [[0, 3], [3, 4]]


def test_new_parameters_are_drawn(make_model: ModelMaker) -> None:
    grown = []
    for seed in (0, 1, 0):
        model = make_model(hidden_size=64)
        before = snapshot(model)
        torch.manual_seed(seed)
        model.add_task(["fox", "owl"])
        grown.append(new_parameters(model, before))
    first, other, again = grown
    assert set(first) == {"dytox.task_tokens.2"} | {
        f"classifiers.2.{name}" for name in ("layernorm.weight", "layernorm.bias", "linear.weight", "linear.bias")
    }
    for name in first:
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name], other[name]) == ("layernorm" in name)


def test_a_grown_step_starts_like_one_made_at_once() -> None:
    # Same seed, same number of draws: a step's spread must not depend on how it came to be.
    config = DyToxConfig(hidden_size=96, num_hidden_layers=1, intermediate_size=8, class_ranges=[[0, 50], [50, 100]])
    at_once = DyToxForImageClassification(config)
    grown = DyToxForImageClassification(
        DyToxConfig(hidden_size=96, num_hidden_layers=1, intermediate_size=8, class_ranges=[[0, 50]])
    )
    grown.add_task([f"class {label}" for label in range(50)])
    for name in ("dytox.task_tokens.1", "classifiers.1.linear.weight", "classifiers.1.linear.bias"):
        ours, theirs = grown.state_dict()[name], at_once.state_dict()[name]
        # Five standard errors of the difference between two sample deviations.
        assert abs(ours.std() - theirs.std()) < 5 * theirs.std() / ours.numel() ** 0.5, name


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        ([], "at least one class name"),
        ("fox", "must be a list"),
        (["fox", "fox"], r"class_names\[1\]='fox' is a class the model has already"),
        (["fox", "LABEL_0"], r"class_names\[1\]='LABEL_0' is a class the model has already"),
        (["fox", 7], r"class_names\[1\]=7 must be a string"),
    ],
)
def test_class_names_that_are_refused(make_model: ModelMaker, class_names: list[str], message: str) -> None:
    model = make_model()
    before, config = snapshot(model), model.config.to_dict()
    with pytest.raises(ValueError, match=message):
        model.add_task(class_names)
    assert model.config.to_dict() == config
    assert model.state_dict().keys() == before.keys()


def test_saved_after_growth(make_model: ModelMaker, tmp_path: Path) -> None:
    model = make_model()
    model.add_task(["fox", "owl"])
    model.save_pretrained(tmp_path)
    loaded, info = DyToxForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert loaded.config.class_ranges == [[0, 3], [3, 5], [5, 7]]
    assert loaded.config.id2label == model.config.id2label
    weights = loaded.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    loaded.add_task(["bee"])
    assert loaded.config.id2label[7] == "bee"


def test_an_early_checkpoint_loads_into_a_later_shape(make_model: ModelMaker, tmp_path: Path) -> None:
    early = make_model()
    early.save_pretrained(tmp_path)
    later = make_model(class_ranges=[[0, 3], [3, 5], [5, 8], [8, 9]])
    loaded, info = DyToxForImageClassification.from_pretrained(tmp_path, config=later.config, output_loading_info=True)
    weights = loaded.state_dict()
    for name, tensor in early.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    assert set(info["missing_keys"]) == later.state_dict().keys() - early.state_dict().keys()
    assert not info["unexpected_keys"]
    for step in (2, 3):
        assert weights[f"dytox.task_tokens.{step}"].std() > 0
        assert weights[f"classifiers.{step}.linear.weight"].std() > 0
        assert torch.equal(weights[f"classifiers.{step}.layernorm.weight"], torch.ones(loaded.config.hidden_size))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.bfloat16), ("cpu", torch.float64), ("meta", torch.float32)], ids=str
)
def test_new_parameters_join_the_old_ones(
    make_model: ModelMaker, device: str, dtype: torch.dtype, training: bool
) -> None:
    model = make_model().to(device=device, dtype=dtype).train(training)
    model.add_task(["fox"])
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert {parameter.device.type for parameter in model.parameters()} == {device}
    assert {module.training for module in model.modules()} == {training}


def test_new_parameters_train_where_old_ones_are_frozen(make_model: ModelMaker) -> None:
    model = make_model().requires_grad_(False)
    before = snapshot(model)
    model.add_task(["fox"])
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == model.state_dict().keys() - before.keys()
