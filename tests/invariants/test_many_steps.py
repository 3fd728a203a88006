"""Many steps run to their end without taking ever more memory."""

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


NUM_STEPS = 25
NUM_CLASSES = 2 * NUM_STEPS


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images of noise: three of each class to learn from, one to test on."""
    draws = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 1)):
        for label in range(NUM_CLASSES):
            folder = tmp_path / "images" / split / f"class{label:03}"
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"


def resident_bytes(pid: int) -> int:
    """Memory that a process holds now; 0 once it has ended."""
    try:
        match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(match[1]) * 1024 if match else 0


@pytest.mark.slow
def test_many_steps_take_no_more_memory_than_five(nursery: Any, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = {
        "dataset_name": images,
        "classes_per_step": 2,
        "image_size": 8,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_epochs": 2,
        "finetuning_epochs": 1,
        "memory_size": 200,
        "per_device_train_batch_size": 32,
        "num_workers": 0,
        "output_dir": output,
    }
    pid = nursery.start(options)
    peaks: dict[int, int] = {}
    while resident := resident_bytes(pid):
        step = 1 + len(list(output.glob("step*")))
        peaks[step] = max(resident, peaks.get(step, 0))
        time.sleep(0.02)
    assert nursery.end()["status"] == 0
    results = json.loads((output / "results.json").read_text())
    assert [step["num_seen_classes"] for step in results["steps"]] == list(range(2, NUM_CLASSES + 1, 2))
    assert peaks[NUM_STEPS] <= 1.2 * peaks[5], peaks
