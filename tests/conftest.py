"""Fixtures for all rooms."""

from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


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
