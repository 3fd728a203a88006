"""One task token for all steps, and one classifier for all classes: the two ablations that change the model."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from modeling_dytox import DyToxConfig, DyToxForImageClassification


ModelMaker = Callable[..., DyToxForImageClassification]
ImageMaker = Callable[..., torch.Tensor]

RANGES = [[0, 3], [3, 5], [5, 9]]
NUM_STEPS, NUM_CLASSES = len(RANGES), RANGES[-1][1]
SWITCHES = ("token_expansion", "independent_classifiers")
ALL = [
    dict(zip(SWITCHES, values, strict=True)) for values in [(True, True), (False, True), (True, False), (False, False)]
]
ABLATIONS = ALL[1:]
CLASSIFIER_PARTS = ("layernorm.weight", "layernorm.bias", "linear.weight", "linear.bias")

# Loads folders as a user without this package does, and writes their logits.
LOAD_WITHOUT_PACKAGE = """
import sys
sys.modules["modeling_dytox"] = None
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

images_file, outputs_file, *folders = sys.argv[1:]
images = load_file(images_file)["images"]
logits = {}
for folder in folders:
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    logits[folder] = model(images).logits.detach()
    model.add_task(["new class"])
    assert model(images).logits.shape[1] == logits[folder].shape[1] + 1
save_file(logits, outputs_file)
"""


def named(switches: dict[str, bool]) -> str:
    return " ".join(name for name, on in switches.items() if not on) or "default"


every_model = pytest.mark.parametrize("switches", ALL, ids=named)
every_ablation = pytest.mark.parametrize("switches", ABLATIONS, ids=named)


def expected_logits(model: DyToxForImageClassification, images: torch.Tensor) -> torch.Tensor:
    """Logits by one decoder pass a task token (`oracle`), then each class by itself from what its classifier reads."""
    weights, config = model.state_dict(), model.config
    embeddings = oracle.task_embeddings(weights, config, images)
    of_classes = []
    for step, (start, stop) in enumerate(config.step_class_ranges):
        for label in range(start, stop):
            if config.independent_classifiers:
                read, classifier, row = embeddings[step if config.token_expansion else 0], step, label - start
            else:
                read, classifier, row = torch.cat(embeddings, dim=1), 0, label
            part = {name: weights[f"classifiers.{classifier}.{name}"] for name in CLASSIFIER_PARTS}
            norm = part["layernorm.weight"], part["layernorm.bias"]
            normalised = F.layer_norm(read, read.shape[1:], *norm, eps=config.layer_norm_eps)
            of_classes.append((normalised * part["linear.weight"][row]).sum(dim=1) + part["linear.bias"][row])
    return torch.stack(of_classes, dim=1)


def snapshot(model: DyToxForImageClassification) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unequal(model: DyToxForImageClassification, before: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the parameters that are not as `before`, new ones included."""
    after = model.state_dict()
    return {name for name in after if name not in before or not torch.equal(after[name], before[name])}


@every_model
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("num_task_attention_layers", [1, 2])
def test_logits_equal_the_oracle(
    make_model: ModelMaker,
    make_images: ImageMaker,
    switches: dict[str, bool],
    attn_implementation: str,
    num_task_attention_layers: int,
) -> None:
    model = make_model(
        class_ranges=RANGES,
        attn_implementation=attn_implementation,
        num_task_attention_layers=num_task_attention_layers,
        **switches,
    ).double()
    images = make_images(model.config).double()
    with torch.no_grad():
        outputs = model(images)
    num_tokens = NUM_STEPS if switches["token_expansion"] else 1
    assert outputs.task_embeddings.shape == (len(images), num_tokens, model.config.hidden_size)
    torch.testing.assert_close(outputs.logits, expected_logits(model, images), rtol=1e-12, atol=1e-12)


@every_model
def test_parameters_are_as_many_as_the_sizes_say(make_model: ModelMaker, switches: dict[str, bool]) -> None:
    model = make_model(class_ranges=RANGES, **switches)
    shared = sum(p.numel() for name, p in model.dytox.named_parameters() if not name.startswith("task_tokens."))
    width = model.config.hidden_size
    num_tokens = NUM_STEPS if switches["token_expansion"] else 1
    if switches["independent_classifiers"]:
        classifiers = sum(2 * width + (width + 1) * (stop - start) for start, stop in RANGES)
    else:
        classifiers = 2 * num_tokens * width + (num_tokens * width + 1) * NUM_CLASSES
    assert model.num_parameters() == shared + num_tokens * width + classifiers
    assert model.config.num_task_tokens == len(model.dytox.task_tokens) == num_tokens
    assert len(model.classifiers) == (NUM_STEPS if switches["independent_classifiers"] else 1)


@every_model
def test_every_parameter_takes_part(
    make_model: ModelMaker, make_images: ImageMaker, switches: dict[str, bool]
) -> None:
    model = make_model(class_ranges=RANGES, **switches)
    images = make_images(model.config)
    model(images, labels=torch.arange(len(images))).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_the_first_step_is_the_same_model(make_model: ModelMaker, make_images: ImageMaker) -> None:
    models = [make_model(class_ranges=RANGES[:1], **switches) for switches in ALL]
    with torch.no_grad():
        logits = [model(make_images(model.config)).logits for model in models]
    assert not any(unequal(model, models[0].state_dict()) for model in models)
    assert all(torch.equal(each, logits[0]) for each in logits)


@every_ablation
def test_growth(make_model: ModelMaker, make_images: ImageMaker, switches: dict[str, bool]) -> None:
    model = make_model(class_ranges=RANGES[:2], **switches).double()
    images = make_images(model.config).double()
    before, old_logits = snapshot(model), model(images).logits
    model.add_task(["fox", "owl", "bee", "elk"])
    logits = model(images).logits

    classifier = f"classifiers.{2 if switches['independent_classifiers'] else 0}"
    expected = {f"{classifier}.{part}" for part in CLASSIFIER_PARTS}
    if switches["token_expansion"]:
        expected |= {"dytox.task_tokens.2"}
    assert unequal(model, before) == expected
    assert before.keys() <= model.state_dict().keys()
    assert logits.shape == (len(images), NUM_CLASSES)
    if switches["independent_classifiers"]:
        torch.testing.assert_close(logits[:, :5], old_logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(logits, expected_logits(model, images), rtol=1e-12, atol=1e-12)

    config = model.config
    assert config.class_ranges == RANGES
    assert config.num_task_tokens == (NUM_STEPS if switches["token_expansion"] else 1)
    assert config.num_labels == model.num_labels == NUM_CLASSES
    config.validate()
    at_once = make_model(class_ranges=RANGES, **switches)
    assert {n: t.shape for n, t in at_once.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


@pytest.mark.parametrize("token_expansion", [True, False])
def test_the_single_classifier_is_drawn_anew(make_model: ModelMaker, token_expansion: bool) -> None:
    grown = []
    for seed in (0, 1, 0):
        model = make_model(hidden_size=64, token_expansion=token_expansion, independent_classifiers=False)
        torch.manual_seed(seed)
        model.add_task([f"class {label}" for label in range(45)])
        grown.append({part: model.get_parameter(f"classifiers.0.{part}").detach() for part in CLASSIFIER_PARTS})
    first, other, again = grown
    for part in CLASSIFIER_PARTS:
        assert torch.equal(first[part], again[part])
        assert torch.equal(first[part], other[part]) == part.startswith("layernorm")
    width = 64 * (3 if token_expansion else 1)
    assert torch.equal(first["layernorm.weight"], torch.ones(width))
    assert torch.equal(first["layernorm.bias"], torch.zeros(width))
    # Uniform within 1 / sqrt(width), as PyTorch draws its linear layers, for old and new classes alike.
    bound = 1 / math.sqrt(width)
    for rows in (first["linear.weight"][:5], first["linear.weight"][5:]):
        assert rows.abs().max() <= bound
        assert rows.std() == pytest.approx(bound / math.sqrt(3), rel=0.2)


@every_ablation
@pytest.mark.parametrize("training", [True, False])
def test_what_is_new_joins_what_was_there(make_model: ModelMaker, switches: dict[str, bool], training: bool) -> None:
    model = make_model(class_ranges=RANGES[:2], **switches).to(dtype=torch.bfloat16).train(training)
    model.requires_grad_(False)
    before = snapshot(model)
    model.add_task(["fox"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {module.training for module in model.modules()} == {training}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == unequal(model, before)


@every_ablation
def test_a_saved_folder_loads(
    make_model: ModelMaker, make_images: ImageMaker, tmp_path: Path, switches: dict[str, bool]
) -> None:
    model = make_model(class_ranges=RANGES[:2], **switches)
    model.add_task(["fox", "owl"])
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).items() >= switches.items()
    loaded, info = DyToxForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert {name: getattr(loaded.config, name) for name in SWITCHES} == switches
    assert loaded.config.class_ranges == [[0, 3], [3, 5], [5, 7]]
    assert loaded.config.num_task_tokens == (NUM_STEPS if switches["token_expansion"] else 1)
    assert not unequal(loaded, model.state_dict())
    images = make_images(model.config)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).logits, model(images).logits)


def test_a_saved_folder_loads_without_the_package(
    make_model: ModelMaker, make_images: ImageMaker, tmp_path: Path
) -> None:
    folders = [tmp_path / str(number) for number, _ in enumerate(ABLATIONS)]
    for folder, switches in zip(folders, ABLATIONS, strict=True):
        make_model(class_ranges=RANGES, **switches).save_pretrained(folder)
    images = make_images(DyToxConfig.from_pretrained(folders[0]))
    images_file, logits_file = tmp_path / "images.safetensors", tmp_path / "logits.safetensors"
    save_file({"images": images}, images_file)
    subprocess.run(
        [sys.executable, "-I", "-c", LOAD_WITHOUT_PACKAGE, *map(str, [images_file, logits_file, *folders])],
        env={
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        cwd=tmp_path,
        check=True,
    )
    logits = load_file(logits_file)
    for folder in folders:
        model = DyToxForImageClassification.from_pretrained(folder)
        with torch.no_grad():
            assert torch.equal(logits[str(folder)], model(images).logits)


def test_a_folder_from_before_the_switches_loads_as_it_was(
    make_model: ModelMaker, make_images: ImageMaker, tmp_path: Path
) -> None:
    model = make_model(class_ranges=RANGES)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in SWITCHES:
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded, info = DyToxForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert loaded.config.token_expansion is loaded.config.independent_classifiers is True
    assert loaded.config.num_task_tokens == NUM_STEPS
    assert not unequal(loaded, model.state_dict())
    images = make_images(model.config)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).logits, model(images).logits)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"token_expansion": False}, 1),
        ({"token_expansion": False, "class_ranges": RANGES}, 1),
        ({"token_expansion": False, "class_ranges": RANGES, "num_task_tokens": 1}, 1),
        ({"independent_classifiers": False, "class_ranges": RANGES}, NUM_STEPS),
    ],
    ids=str,
)
def test_the_number_of_task_tokens_follows(options: dict[str, Any], expected: int) -> None:
    assert DyToxConfig(**options).num_task_tokens == expected


def test_class_ranges_of_the_classifiers() -> None:
    assert DyToxConfig(class_ranges=RANGES).classifier_class_ranges == RANGES
    assert DyToxConfig(class_ranges=RANGES, independent_classifiers=False).classifier_class_ranges == [[0, 9]]
    assert DyToxConfig(num_labels=4, independent_classifiers=False).classifier_class_ranges == [[0, 4]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_expansion": False, "num_task_tokens": 3}, "num_task_tokens=3 but token_expansion=False"),
        ({"token_expansion": False, "num_task_tokens": 0}, "num_task_tokens=0 but token_expansion=False"),
        ({"independent_classifiers": False, "num_task_tokens": 1}, "num_task_tokens=1 but class_ranges"),
        ({"token_expansion": "no"}, "token_expansion"),
        ({"independent_classifiers": 0}, "independent_classifiers"),
    ],
    ids=str,
)
def test_contradictions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        DyToxConfig(class_ranges=RANGES, **options)


def test_a_saved_model_cannot_lose_its_task_tokens(make_model: ModelMaker, tmp_path: Path) -> None:
    make_model(class_ranges=RANGES).save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="num_task_tokens=3 but token_expansion=False"):
        DyToxForImageClassification.from_pretrained(tmp_path, token_expansion=False)
