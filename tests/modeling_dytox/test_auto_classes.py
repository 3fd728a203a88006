"""A saved folder loads through the Auto classes and pipelines, with this package and without it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

from modeling_dytox import DyToxConfig, DyToxForImageClassification, DyToxModel
from modeling_dytox.image_processing import make_image_processor


CLASS_NAMES = ["cat", "dog", "fox", "owl", "bee"]

# Loads the folder as a user without this package does.
LOAD_WITHOUT_PACKAGE = """
import sys
sys.modules["modeling_dytox"] = None
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageClassification

folder, images_file, outputs_file = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
images = load_file(images_file)["images"]
save_file({"logits": model(images).logits.detach()}, outputs_file)
base_model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert (base_model(images).task_embeddings == model(images).task_embeddings).all()
model.add_task(["new class"])
assert model.config.class_ranges[-1] == [5, 6], model.config.class_ranges
"""


@pytest.fixture
def model(make_model: Callable[..., DyToxForImageClassification]) -> DyToxForImageClassification:
    labels = {"id2label": dict(enumerate(CLASS_NAMES)), "label2id": {name: i for i, name in enumerate(CLASS_NAMES)}}
    return make_model(class_ranges=[[0, 3], [3, 5]], **labels)


@pytest.fixture
def folder(model: DyToxForImageClassification, tmp_path: Path) -> Path:
    folder = tmp_path / "dytox-animals"
    model.save_pretrained(folder)
    make_image_processor(model.config.image_height_width[0]).save_pretrained(folder)
    return folder


def test_auto_classes_make_our_classes(
    model: DyToxForImageClassification, folder: Path, make_images: Callable[..., torch.Tensor]
) -> None:
    assert type(AutoConfig.from_pretrained(folder)) is DyToxConfig
    classifier = AutoModelForImageClassification.from_pretrained(folder)
    base_model = AutoModel.from_pretrained(folder)
    assert (type(classifier), type(base_model)) == (DyToxForImageClassification, DyToxModel)
    assert all(torch.equal(tensor, classifier.state_dict()[name]) for name, tensor in model.state_dict().items())
    images = make_images(model.config)
    with torch.no_grad():
        assert torch.equal(base_model(images).task_embeddings, classifier(images).task_embeddings)


def test_folder_holds_safetensors_and_code_alone(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "configuration_dytox.py",
        "model.safetensors",
        "modeling_dytox.py",
        "preprocessor_config.json",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_dytox.DyToxConfig",
        "AutoModel": "modeling_dytox.DyToxModel",
        "AutoModelForImageClassification": "modeling_dytox.DyToxForImageClassification",
    }


def test_remote_code_gives_the_same_bits(
    model: DyToxForImageClassification, folder: Path, make_images: Callable[..., torch.Tensor]
) -> None:
    images = make_images(model.config)
    images_file, logits_file = folder.parent / "images.safetensors", folder.parent / "logits.safetensors"
    save_file({"images": images}, images_file)
    environment = {
        "HF_HOME": str(folder.parent / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    subprocess.run(
        [sys.executable, "-I", "-c", LOAD_WITHOUT_PACKAGE, str(folder), str(images_file), str(logits_file)],
        env=environment,
        cwd=folder.parent,
        check=True,
    )
    # Where weights lie in memory moves the last bit of some products, so both sides load the file.
    with_package = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(load_file(logits_file)["logits"], with_package(images).logits)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pipeline_gives_sigmoid_scores(model: DyToxForImageClassification, folder: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    classify = pipeline("image-classification", model=str(folder))
    predictions = classify(image, top_k=len(CLASS_NAMES))

    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**processor(image.convert("RGB"), return_tensors="pt")).logits[0]
    expected = dict(zip(CLASS_NAMES, logits.sigmoid().tolist(), strict=True))
    assert {prediction["label"]: prediction["score"] for prediction in predictions} == pytest.approx(expected)
    scores = [prediction["score"] for prediction in predictions]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    # Sigmoids need not sum to one, a softmax would.
    assert sum(scores) != pytest.approx(1)
