"""A disk that fills, damaged files and a data set that changed: a clear word, and nothing finished is lost."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


RunContent = Callable[[Path], dict[str, object]]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A run of two steps with two phases and two epochs each on a folder of images, which tests may change."""
    images = tmp_path_factory.mktemp("images")
    draws = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name in ("ant", "bee", "cat", "dog"):
            folder = images / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return {
        "dataset_name": images,
        "classes_per_step": 2,
        "image_size": 8,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_epochs": 2,
        "finetuning_epochs": 2,
        "memory_size": 12,
        "per_device_train_batch_size": 8,
        "num_workers": 0,
    }


@pytest.fixture(scope="module")
def straight(
    nursery: Any,
    options: dict[str, object],
    run_content: RunContent,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, object]:
    """What the run gives when nothing happens."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    end = nursery.run(options | {"output_dir": folder})
    assert end["status"] == 0, end["errors"]
    return run_content(folder)


@pytest.fixture
def broken_off(nursery: Any, options: dict[str, object], tmp_path: Path) -> dict[str, object]:
    """Options of a run that was killed after the last epoch of step 2."""
    begun = options | {"output_dir": tmp_path / "run"}
    end = nursery.run(begun, die=("replaced", "step2_phase1_epoch2.safetensors"))
    assert end["status"] == -signal.SIGKILL, end["errors"]
    return begun


@pytest.mark.slow
def test_a_disk_that_fills_stops_the_run_which_goes_on_later(
    nursery: Any, options: dict[str, object], straight: dict[str, object], run_content: RunContent, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begun = options | {"output_dir": run}
    assert nursery.run(begun, die=("replaced", "step2_phase0_epoch1.safetensors"))["status"] == -signal.SIGKILL
    before = run_content(run)
    # The system refuses what is larger than 20 kB: states and weights, but not the log.
    end = nursery.run(begun, file_size_limit=20_000)
    assert end["status"] == 2
    assert end["errors"].startswith("error: ") and end["errors"].count("\n") == 1
    assert "step2_phase0_epoch2.safetensors cannot be written (File too large): make room" in end["errors"]
    assert run_content(run) == before
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step2_phase0_epoch1.safetensors"]
    assert nursery.run(begun)["status"] == 0
    assert run_content(run) == straight


@pytest.mark.slow
def test_a_damaged_state_is_named_and_the_one_before_is_used(
    nursery: Any, broken_off: dict[str, object], straight: dict[str, object], run_content: RunContent, tmp_path: Path
) -> None:
    newest = tmp_path / "run" / "checkpoints" / "step2_phase1_epoch2.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    end = nursery.run(broken_off)
    assert end["status"] == 0, end["errors"]
    assert f"The state {newest} is damaged" in end["errors"]
    assert "goes back to the state before it" in end["errors"]
    assert run_content(tmp_path / "run") == straight


@pytest.mark.slow
def test_without_any_good_state_the_step_starts_again(
    nursery: Any, broken_off: dict[str, object], straight: dict[str, object], run_content: RunContent, tmp_path: Path
) -> None:
    states = list((tmp_path / "run" / "checkpoints").iterdir())
    for file in states:
        os.truncate(file, file.stat().st_size // 2)
    end = nursery.run(broken_off)
    assert end["status"] == 0 and end["errors"].count("is damaged") == len(states) >= 2
    assert run_content(tmp_path / "run") == straight


@pytest.mark.slow
def test_a_truncated_memory_within_a_step_is_herded_again(
    nursery: Any, broken_off: dict[str, object], straight: dict[str, object], run_content: RunContent, tmp_path: Path
) -> None:
    memory = tmp_path / "run" / "memory" / "step2.parquet"
    os.truncate(memory, memory.stat().st_size // 2)
    begun = memory.stat().st_mtime
    end = nursery.run(broken_off)
    assert end["status"] == 0
    assert "The rehearsal memory step2.parquet cannot be read" in end["errors"]
    assert run_content(tmp_path / "run") == straight
    # The main phase was not learned again: its end is where the run went on, and the memory is a new one.
    assert memory.stat().st_mtime > begun


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_memory_of_a_complete_step_stops_the_run(
    nursery: Any,
    broken_off: dict[str, object],
    straight: dict[str, object],
    run_content: RunContent,
    tmp_path: Path,
    damage: str,
) -> None:
    run = tmp_path / "run"
    memory = run / "memory" / "step1.parquet"
    content = memory.read_bytes()
    flipped = bytearray(content)
    flipped[200] ^= 1
    memory.unlink()
    if damage != "missing":
        memory.write_bytes(content[:-50] if damage == "truncated" else flipped)
    end = nursery.run(broken_off)
    assert end["status"] == 2
    assert "The rehearsal memory step1.parquet cannot be read" in end["errors"]
    assert "delete step1 and the later steps to learn them again" in end["errors"]
    assert (run / "step1" / "model.safetensors").is_file()
    # As the error says.
    shutil.rmtree(run / "step1")
    assert nursery.run(broken_off)["status"] == 0
    assert run_content(run) == straight


@pytest.mark.slow
@pytest.mark.parametrize("change", ["pixels", "label", "new image"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_data_set_that_changed_stops_the_run(
    nursery: Any,
    broken_off: dict[str, object],
    straight: dict[str, object],
    run_content: RunContent,
    tmp_path: Path,
    change: str,
    split: str,
) -> None:
    images = Path(str(broken_off["dataset_name"]))
    changed = tmp_path / "changed"
    shutil.copytree(images, changed)
    first = changed / split / "bee" / "0.png"
    if change == "pixels":
        pixels = np.asarray(Image.open(first)).copy()
        pixels[3, 3, 0] ^= 1
        Image.fromarray(pixels).save(first)
    elif change == "label":
        first.rename(changed / split / "cat" / "9.png")
    else:
        Image.new("RGB", (8, 8)).save(first.with_name("9.png"))
    run = tmp_path / "run"
    before = run_content(run)
    kept = tmp_path / "kept"
    images.rename(kept)
    changed.rename(images)
    try:
        end = nursery.run(broken_off)
    finally:
        shutil.rmtree(images)
        kept.rename(images)
    named = "training" if split == "train" else "test"
    assert end["status"] == 2
    assert f"holds a run on other data (the {named} images or their labels have changed since)" in end["errors"]
    assert run_content(run) == before
    assert nursery.run(broken_off)["status"] == 0
    assert run_content(run) == straight
