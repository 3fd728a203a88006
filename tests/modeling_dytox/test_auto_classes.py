"""A saved folder loads through the Auto classes and pipelines, with this package and without it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

from modeling_dytox import DyToxConfig, DyToxForImageClassification, DyToxModel
from modeling_dytox.image_processing import make_image_processor
from tests.modeling_dytox.small import RANGES, RIVALS, SIZES, VARIANTS, changed, make_images, make_model, make_rival


CLASS_NAMES = ["cat", "dog", "fox", "owl", "bee"]

# Loads folders as a user without this package does, and writes their logits.
LOAD_WITHOUT_PACKAGE = """
import sys
sys.modules["modeling_dytox"] = None
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageClassification

images_file, logits_file, *folders = sys.argv[1:]
images, logits = load_file(images_file)["images"], {}
for folder in folders:
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    outputs = model(images)
    logits[folder] = outputs.logits.detach()
    base_model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    name = "branch_embeddings" if "branch_embeddings" in outputs else "embeddings"
    embeddings = base_model(images).get("task_embeddings", base_model(images).get("branch_embeddings"))
    assert (embeddings.flatten(1) == outputs[name].flatten(1)).all()
    model.add_task(["new class"])
    assert model(images).logits.shape[1] == outputs.logits.shape[1] + 1
save_file(logits, logits_file)
"""


@pytest.fixture
def model() -> DyToxForImageClassification:
    return make_model(id2label=dict(enumerate(CLASS_NAMES)), label2id={name: i for i, name in enumerate(CLASS_NAMES)})


@pytest.fixture
def folder(model: DyToxForImageClassification, tmp_path: Path) -> Path:
    folder = tmp_path / "dytox-animals"
    model.save_pretrained(folder)
    make_image_processor(SIZES["image_size"]).save_pretrained(folder)
    return folder


def test_auto_classes_make_our_classes(model: DyToxForImageClassification, folder: Path) -> None:
    assert type(AutoConfig.from_pretrained(folder)) is DyToxConfig
    classifier = AutoModelForImageClassification.from_pretrained(folder)
    base_model = AutoModel.from_pretrained(folder)
    assert (type(classifier), type(base_model)) == (DyToxForImageClassification, DyToxModel)
    assert not changed(classifier, model.state_dict())
    images = make_images(model.config)
    with torch.no_grad():
        assert torch.equal(base_model(images).task_embeddings, classifier(images).task_embeddings)


def test_folder_holds_safetensors_and_code_alone(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "class_ranges.py",
        "config.json",
        "configuration_dytox.py",
        "encoders.py",
        "heads.py",
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


@pytest.mark.slow
def test_remote_code_gives_the_same_bits(tmp_path: Path) -> None:
    models = [make_model(class_ranges=RANGES, **switches) for switches in VARIANTS]
    models += [make_rival(class_ranges=RANGES, **fields) for fields in RIVALS]
    folders = [tmp_path / str(number) for number, _ in enumerate(models)]
    for folder, model in zip(folders, models, strict=True):
        model.save_pretrained(folder)
    images = make_images(DyToxConfig.from_pretrained(folders[0]))
    images_file, logits_file = tmp_path / "images.safetensors", tmp_path / "logits.safetensors"
    save_file({"images": images}, images_file)
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    command = [sys.executable, "-I", "-c", LOAD_WITHOUT_PACKAGE, *map(str, [images_file, logits_file, *folders])]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    logits = load_file(logits_file)
    for folder in folders:
        # Where weights lie in memory moves the last bit of some products, so both sides load the file.
        with_package = AutoModelForImageClassification.from_pretrained(folder)
        with torch.no_grad():
            assert torch.equal(logits[str(folder)], with_package(images).logits)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pipeline_gives_sigmoid_scores(model: DyToxForImageClassification, folder: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    predictions = pipeline("image-classification", model=str(folder))(image, top_k=len(CLASS_NAMES))

    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**processor(image.convert("RGB"), return_tensors="pt")).logits[0]
    expected = dict(zip(CLASS_NAMES, logits.sigmoid().tolist(), strict=True))
    assert {prediction["label"]: prediction["score"] for prediction in predictions} == pytest.approx(expected)
    scores = [prediction["score"] for prediction in predictions]
    assert scores == sorted(scores, reverse=True)
    # Sigmoids need not sum to one, a softmax would.
    assert sum(scores) != pytest.approx(1)
