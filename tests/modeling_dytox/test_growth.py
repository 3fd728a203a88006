"""`add_task` adds a step and leaves everything learned before as it is."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from modeling_dytox import DyToxForImageClassification
from tests.modeling_dytox import oracle
from tests.modeling_dytox.small import (
    RANGES,
    changed,
    every_backend,
    every_variant,
    make_images,
    make_model,
    make_rival,
    snapshot,
)


def parameters_of_a_new_step(step: int, switches: dict[str, bool]) -> set[str]:
    """What `add_task` makes or, of the classifier that all steps share, replaces; `step` counts from 0."""
    classifier = f"classifiers.{step if switches['independent_classifiers'] else 0}"
    names = {f"{classifier}.{part}.{kind}" for part in ("layernorm", "linear") for kind in ("weight", "bias")}
    return names | {f"dytox.task_tokens.{step}"} if switches["token_expansion"] else names


def assert_rounding_apart(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Matrix products of more rows may sum in another order: nothing but that may differ, in float64."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=100 * torch.finfo(torch.float64).eps)


@every_variant
@every_backend
def test_old_parameters_and_logits_stay(switches: dict[str, bool], backend: str) -> None:
    # A mask appears with the second step and grows with the third.
    model = make_model(class_ranges=RANGES[:1], attn_implementation=backend, **switches).double()
    images = make_images(model.config).double()
    names = [["fox", "owl"], ["bee", "elk", "cow", "ant"]]
    for step, new_names in enumerate(names, start=1):
        weights = snapshot(model)
        with torch.no_grad():
            before = model(images)
            model.add_task(new_names)
            after = model(images)
        assert changed(model, weights) <= parameters_of_a_new_step(step, switches)
        assert model.state_dict().keys() == weights.keys() | parameters_of_a_new_step(step, switches)
        num_tokens, num_classes = before.task_embeddings.shape[1], before.logits.shape[1]
        assert_rounding_apart(after.task_embeddings[:, :num_tokens], before.task_embeddings)
        if switches["independent_classifiers"]:
            assert_rounding_apart(after.logits[:, :num_classes], before.logits)
        assert_rounding_apart(after.logits, oracle.logits(model.state_dict(), model.config, images))

    config = model.config
    assert config.class_ranges == RANGES
    assert config.num_task_tokens == (3 if switches["token_expansion"] else 1)
    assert config.num_labels == model.num_labels == 9
    assert config.class_names == ["LABEL_0", "LABEL_1", "LABEL_2", *sum(names, [])]
    assert config.label2id == {name: label for label, name in config.id2label.items()}
    assert model.dytox.config is config
    config.validate()
    at_once = make_model(class_ranges=RANGES, **switches)
    assert {n: t.shape for n, t in at_once.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


@every_variant
def test_new_parameters_are_drawn_like_those_of_a_new_model(switches: dict[str, bool]) -> None:
    drawn = []
    for seed in (0, 1, 0):
        model = make_model(hidden_size=64, **switches)
        before = snapshot(model)
        torch.manual_seed(seed)
        model.add_task([f"class {label}" for label in range(45)])
        drawn.append({name: model.state_dict()[name] for name in changed(model, before)})
    first, other, again = drawn
    assert first.keys() == parameters_of_a_new_step(2, switches)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, other[name]) == ("layernorm" in name)
        if "layernorm" in name:
            assert (tensor == name.endswith("weight")).all()
        elif "task_tokens" in name:
            # Five standard errors of the deviation of so few numbers.
            error = 5 / math.sqrt(2 * tensor.numel())
            assert tensor.std() == pytest.approx(model.config.initializer_range, rel=error)
        elif name.endswith("linear.weight"):
            # Uniform within 1 / sqrt(width), as PyTorch draws its linear layers, for old and new classes alike.
            bound = 1 / math.sqrt(tensor.shape[1])
            for rows in (tensor[:5], tensor[5:]):
                assert rows.abs().max() <= bound
                assert rows.std() == pytest.approx(bound / math.sqrt(3), rel=0.2)


@every_variant
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.bfloat16), ("meta", torch.float32)], ids=str)
def test_new_parameters_join_the_old_ones(
    switches: dict[str, bool], device: str, dtype: torch.dtype, training: bool
) -> None:
    model = make_model(**switches).to(device=device, dtype=dtype).train(training).requires_grad_(False)
    model.add_task(["fox"])
    assert {(parameter.device.type, parameter.dtype) for parameter in model.parameters()} == {(device, dtype)}
    assert {module.training for module in model.modules()} == {training}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == parameters_of_a_new_step(2, switches)


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
def test_class_names_that_are_refused(class_names: list[str], message: str) -> None:
    model = make_model()
    before, config = snapshot(model), model.config.to_dict()
    with pytest.raises(ValueError, match=message):
        model.add_task(class_names)
    assert model.config.to_dict() == config
    assert model.state_dict().keys() == before.keys()


@every_variant
def test_a_grown_model_is_saved_and_loaded(tmp_path: Path, switches: dict[str, bool]) -> None:
    # Without class ranges a model has one step of all its classes.
    model = make_model(class_ranges=None, num_labels=3, **switches)
    model.add_task(["fox", "owl"])
    model.save_pretrained(tmp_path)
    loaded, info = DyToxForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert loaded.config.to_dict().items() >= switches.items()
    assert loaded.config.class_ranges == [[0, 3], [3, 5]]
    assert loaded.config.id2label == model.config.id2label
    assert not changed(loaded, model.state_dict())
    loaded.add_task(["bee"])
    assert loaded.config.id2label[5] == "bee"


def test_a_folder_without_the_switches_loads_as_the_full_model(tmp_path: Path) -> None:
    model = make_model(class_ranges=RANGES)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["token_expansion"], config["independent_classifiers"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded, info = DyToxForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert loaded.config.token_expansion is loaded.config.independent_classifiers is True
    assert not changed(loaded, model.state_dict())


def test_an_early_checkpoint_loads_into_a_later_shape(tmp_path: Path) -> None:
    early = make_model()
    early.save_pretrained(tmp_path)
    later = make_model(class_ranges=[*RANGES, [9, 10]])
    loaded, info = DyToxForImageClassification.from_pretrained(tmp_path, config=later.config, output_loading_info=True)
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in early.state_dict().items())
    assert set(info["missing_keys"]) == later.state_dict().keys() - early.state_dict().keys()
    assert not info["unexpected_keys"]
    for step in (2, 3):
        assert weights[f"dytox.task_tokens.{step}"].std() > 0
        assert weights[f"classifiers.{step}.linear.weight"].std() > 0
        assert (weights[f"classifiers.{step}.layernorm.weight"] == 1).all()


@pytest.mark.parametrize("model_type", ["dytox", "growing_head", "branched"])
def test_a_step_loads_with_other_classes_as_any_model_of_transformers(model_type: str, tmp_path: Path) -> None:
    model = make_model() if model_type == "dytox" else make_rival(model_type, class_ranges=RANGES[:2])
    model.save_pretrained(tmp_path)
    load = AutoModelForImageClassification.from_pretrained
    other = load(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert other.config.class_ranges == [[0, 7]] and other.config.num_task_tokens == 1
    logits = other(make_images(other.config)).logits
    assert logits.shape == (3, 7) and logits.isfinite().all()
    old = model.state_dict()
    kept = [name for name, tensor in other.state_dict().items() if name in old and torch.equal(tensor, old[name])]
    assert sum("layers.1." in name for name in kept) == sum("layers.1." in name for name in other.state_dict()) > 5
    names = {0: "x", 1: "y"}
    named = load(tmp_path, num_labels=2, id2label=names, ignore_mismatched_sizes=True)
    named.add_task(["z"])
    assert (named.config.class_names, named.config.class_ranges) == (["x", "y", "z"], [[0, 2], [2, 3]])


def test_the_trainer_of_transformers_measures_a_step(tmp_path: Path) -> None:
    """`compute_metrics` gets logits, not a tuple with the embeddings."""
    model = make_model()
    images = make_images(model.config, 6)
    rows = [{"pixel_values": image, "labels": torch.tensor(label % 3)} for label, image in enumerate(images)]
    seen = []
    trainer = Trainer(
        model,
        TrainingArguments(
            tmp_path, num_train_epochs=1, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
        ),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=lambda output: seen.append(output.predictions) or {"seen": 1.0},
    )
    trainer.train()
    assert trainer.evaluate()["eval_seen"] == 1.0
    with torch.no_grad():
        expected = model.eval()(images).logits
    torch.testing.assert_close(torch.from_numpy(seen[0]), expected)
