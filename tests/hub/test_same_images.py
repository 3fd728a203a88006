"""Training and use read an image the same way: the recorded accuracy is what users of a revision get."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.command_line import words


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub


TRAIN = """
    import sys
    from training import incremental
    sys.argv = ["training/incremental.py", *{arguments!r}]
    incremental.main()
"""
# What a pipeline answers, and what the snippet of the card prints when it is run, for each file.
ANSWERS = """
    import contextlib, io, json, pathlib, re, shutil
    from huggingface_hub import hf_hub_download
    from transformers import pipeline
    files = {files!r}
    card = pathlib.Path(hf_hub_download("org/bars", "README.md", revision="step1")).read_text()
    snippet = re.search(r"```python\\n(import modeling_dytox.*?)```", card, re.DOTALL)[1]
    classifier = pipeline("image-classification", model="org/bars", revision="step1", trust_remote_code=True)
    answers = []
    for file in files:
        shutil.copyfile(file, "photo.png")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(snippet, {{}})
        answers.append((classifier(file)[0]["label"], printed.getvalue().strip()))
    print(json.dumps(answers))
"""
KINDS = ("plain", "turned", "palette", "grey", "opaque")


def bar(upright: bool, seed: int) -> Image.Image:
    """A dark bar on a light ground, across or upright."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(120, 256, (24, 24, 3), dtype=np.uint8)
    place = int(generator.integers(2, 16))
    rows, columns = (slice(None), slice(place, place + 5)) if upright else (slice(place, place + 5), slice(None))
    pixels[rows, columns] = generator.integers(0, 60, 3)
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path, kind: str) -> Path:
    """Writes the image in a way that only a reader who knows about it reads right."""
    if kind == "turned":
        path = path.with_suffix(".jpg")
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    elif kind == "palette":
        image.quantize(16).save(path)
    else:
        image.convert({"plain": "RGB", "grey": "L", "opaque": "RGBA"}[kind]).save(path)
    return path


def write_bars(folder: Path, num_images: dict[str, int]) -> Iterator[Path]:
    """Writes images of every kind in equal numbers; gives the files."""
    for split, count in num_images.items():
        for label in ("across", "upright"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                image = bar(label == "upright", seed=number + 1000 * (split == "test") + 50 * (label == "upright"))
                kind = KINDS[number % len(KINDS)]
                yield save(image, folder / split / label / f"{number:02}.png", kind)


@pytest.mark.slow
def test_recorded_accuracy_is_that_of_the_pipeline_and_of_the_snippet_in_the_card(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    files = list(write_bars(tmp_path / "bars", {"train": 30, "test": 10}))
    own = {"dataset_name": tmp_path / "bars", "num_classes": 2, "classes_per_step": 2, "image_size": 12}
    own |= {"num_epochs": 40, "learning_rate": 3e-3, "train_crop": "none", "auto_augment": "none"}
    own |= {"horizontal_flip": False, "max_train_samples_per_class": 30, "max_eval_samples_per_class": 10}
    own |= {"output_dir": tmp_path / "run", "push_to_hub": True, "hub_model_id": "org/bars", "memory_size": 60}
    done = local_hub.run_warm("-c", TRAIN.format(arguments=words(tiny_options | own)))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train: 60 images of 2 classes: across 30, upright 30" in done.stdout

    test = [str(file) for file in files if file.is_relative_to(tmp_path / "bars" / "test")]
    asked = local_hub.run_warm("-c", ANSWERS.format(files=test))
    assert asked.returncode == 0, asked.stderr[-3000:]
    answers = json.loads(asked.stdout.splitlines()[-1])
    recorded = json.loads((tmp_path / "run" / "results.json").read_text())["steps"][-1]["accuracy"]
    labels = [Path(file).parent.name for file in test]
    for reader in (0, 1):
        right = [answer[reader] == label for answer, label in zip(answers, labels, strict=True)]
        assert sum(right) / len(right) == pytest.approx(recorded), answers
    assert recorded > 0.6, "turned images read as they lie would be taken for the other class"
