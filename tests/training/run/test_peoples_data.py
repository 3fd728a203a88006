"""Photographs in folders, as people have them: from a first run to a published number that is found again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from training import evaluate


SMALL = {
    "image_size": 8,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_epochs": 1,
    "finetuning_epochs": 0,
    "num_workers": 0,
    "memory_size": 12,
}


@pytest.fixture
def photos(tmp_path: Path, noise_image: Callable[..., PILImage.Image]) -> Path:
    """Four folders of photographs, their bytes always the same; of `tulip`'s so few that none is held out."""
    for number, (name, count) in enumerate({"fox": 12, "owl": 10, "rose": 12, "tulip": 2}.items()):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for position in range(count):
            noise_image(100 * number + position, 20, 15).save(folder / f"IMG_{position}.bmp")
    return tmp_path / "photos"


def test_folders_of_photographs_become_steps_and_what_was_measured_is_found_again(
    photos: Path, tmp_path: Path, run_script: Callable[..., Any], noise_image: Callable[..., PILImage.Image]
) -> None:
    options = SMALL | {"dataset_name": photos, "output_dir": tmp_path / "run"}
    words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert run_script(*words).refusal.endswith("hold out a share of the images with --holdout 0.2.")

    chosen = (*words, "--holdout", "0.3", "--classes_per_step", "3", "--seed", "2")
    planned = run_script(*chosen, "--dry_run")
    assert planned.status == 0 and not (tmp_path / "run").exists(), planned.errors
    assert "Step 2: 1 class(es), 2 new images and 12 exemplars to learn from" in planned.output
    assert "Few images: class tulip has 2 to learn from." in planned.output and "s an update" in planned.output

    done = run_script(*chosen)
    assert done.status == 0, done.errors
    assert "2 steps of 3 and 1 classes" in done.output
    assert "Not measured, as they have no test image: 1 class(es), tulip" in done.output
    first, second = json.loads((tmp_path / "run" / "results.json").read_text())["steps"]
    assert first["accuracy"] is not None and second["accuracy"] is None
    assert second["measured_classes"] == ["fox", "owl", "rose"]
    assert second["accuracy_per_step"] == [second["accuracy_of_measured"], None]
    # Of the first step it is known what was lost.
    assert second["forgetting"] == pytest.approx(first["accuracy"] - second["accuracy_per_step"][0])
    card = (tmp_path / "run" / "step2" / "README.md").read_text()
    assert "train (30% held out)" in card and "Accuracy on the 3 of 4 classes with test images" in card

    # A week later: the plan of a fifth class, on top of what was learned.
    heron = tmp_path / "new" / "heron"
    heron.mkdir(parents=True)
    for position in range(10):
        noise_image(900 + position, 20, 15).save(heron / f"IMG_{position}.bmp")
    more = ("--model_name_or_path", tmp_path / "run" / "step2", "--dataset_name", heron.parent, "--holdout", "0.3")
    planned = run_script(*map(str, (*more, "--num_workers", 0, "--memory_size", 15, "--dry_run")))
    assert planned.status == 0, planned.errors
    assert "Step 3: 1 class(es)" in planned.output and "with --known_classes test" in planned.output

    again = ("--model", tmp_path / "run" / "step2", "--dataset_name", photos, "--holdout", 0.3, "--seed", 2)
    measured = run_script(*map(str, (*again, "--num_workers", 0)), main=evaluate.main)
    assert measured.status == 0 and "recorded numbers agree" in measured.output, measured.errors
