"""Fixtures for all rooms."""

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.weights import load_weights


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def garbage_is_looked_for_in_new_objects_only() -> None:
    """Each phase of a run ends with a collection of garbage, which would look at all that was ever imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


@pytest.fixture
def tiny_options() -> dict[str, object]:
    """Options of a run on a few digits that takes seconds: three steps of two classes, two epochs."""
    return {
        "dataset_name": "digits",
        "num_classes": 6,
        "classes_per_step": 2,
        "max_train_samples_per_class": 12,
        "max_eval_samples_per_class": 6,
        "image_size": 8,
        "patch_size": 4,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_epochs": 2,
        "finetuning_epochs": 1,
        "memory_size": 24,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,
        "learning_rate_batch_size": 0,
        "num_workers": 0,
    }


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small vision transformer for images of 8 pixels, as `save_pretrained` writes it."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    folder = tmp_path_factory.mktemp("encoder") / "vit"
    config = ViTConfig(image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.3] * 3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def run_content() -> Callable[[Path], dict[str, object]]:
    """Reads all of a run that must not depend on how it was run: weights, configurations, memory and results."""
    return _run_content


def _run_content(output_dir: Path) -> dict[str, object]:
    """Everything a run made that must not depend on how it was run: weights, memory and results."""
    content: dict[str, object] = {}
    for folder in sorted(output_dir.glob("step*")):
        content[folder.name] = {name: tensor.numpy().tobytes() for name, tensor in load_weights(folder).items()}
        content[f"{folder.name}/config"] = (folder / "config.json").read_text()
        if (statistics := folder / "statistics.safetensors").exists():
            content[f"{folder.name}/statistics"] = statistics.read_bytes()
    for file in sorted((output_dir / "memory").glob("*.parquet")):
        content[file.name] = pq.read_table(file).to_pydict()
    results = json.loads((output_dir / "results.json").read_text())
    for step in results["steps"]:
        del step["train_seconds"]
    return content | {"results": results}
