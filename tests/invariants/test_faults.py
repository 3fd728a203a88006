"""A disk that fills, damaged files and a data set that changed: a clear word, and nothing finished is lost."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.loop.checkpointing import Checkpoints


pytestmark = pytest.mark.slow
RunContent = Callable[[Path], dict[str, object]]
# The run of these tests was killed in the finetuning phase of step 2, after the first of these states was saved and
# before the last one was deleted.
STATES = [f"step2_{place}.safetensors" for place in ("phase1_epoch1", "phase0_epoch2", "phase0_epoch1")]
NEWEST = STATES[0]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A run of two steps with two phases and two epochs each on a folder of images, which tests may change."""
    images = tmp_path_factory.mktemp("images") / "pets"
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
def runs(nursery: Any, options: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run when nothing happens, and when it is killed."""
    folders = {name: tmp_path_factory.mktemp("runs") / name for name in ("straight", "killed")}
    nursery.complete(options | {"output_dir": folders["straight"]})
    end = nursery.run(options | {"output_dir": folders["killed"]}, die=("replaced", NEWEST))
    assert end["status"] == -signal.SIGKILL, end["errors"]
    assert {path.name for path in (folders["killed"] / "checkpoints").iterdir()} == set(STATES)
    return folders


@pytest.fixture(scope="module")
def straight(runs: dict[str, Path], run_content: RunContent) -> dict[str, object]:
    """What the run gives when nothing happens."""
    return run_content(runs["straight"])


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the run that was killed."""
    return Path(shutil.copytree(runs["killed"], tmp_path / "run"))


@pytest.fixture
def killed(options: dict[str, object], run: Path) -> dict[str, object]:
    """The options of that copy: the same command."""
    return options | {"output_dir": run}


def test_a_disk_that_fills_stops_the_run_which_resumes_later(
    nursery: Any, killed: dict[str, object], run: Path, straight: dict[str, object], run_content: RunContent
) -> None:
    before = run_content(run)
    # The system refuses what is larger than 20 kB: states and weights, but not the log.
    end = nursery.run(killed, file_size_limit=20_000)
    assert end["status"] == 2
    assert end["errors"].startswith("error: ") and end["errors"].count("\n") == 1
    assert "step2_phase1_epoch2.safetensors cannot be written (File too large): free some space" in end["errors"]
    assert run_content(run) == before
    assert {path.name for path in (run / "checkpoints").iterdir()} == set(STATES)
    assert run_content(nursery.complete(killed)) == straight


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def reshape(path: Path) -> None:
    """An undamaged state whose config is that of a narrower model."""
    checkpoints = Checkpoints(path.parent)
    state = next(checkpoints.newest_first(2))
    checkpoints.save(replace(state, config=state.config | {"hidden_size": 8}))


def truncate_all(path: Path) -> None:
    for state in path.parent.iterdir():
        os.truncate(state, state.stat().st_size // 2)


@pytest.mark.parametrize(
    ("damage", "named", "resumed"),
    [
        (flip, [f"/{NEWEST} is damaged"], "Step 2 resumes after main, epoch 2 of 2."),
        (
            reshape,
            ["The state after epoch 1 of phase 2 of step 2 cannot be used ("],
            "Step 2 resumes after main, epoch 2 of 2.",
        ),
        (truncate_all, [f"/{state} is damaged" for state in STATES], None),
    ],
    ids=["flipped", "reshaped", "all truncated"],
)
def test_a_state_that_cannot_be_used_is_named_and_the_run_resumes_from_before_it(
    nursery: Any,
    killed: dict[str, object],
    run: Path,
    straight: dict[str, object],
    run_content: RunContent,
    damage: Callable[[Path], None],
    named: list[str],
    resumed: str | None,
) -> None:
    damage(run / "checkpoints" / NEWEST)
    end = nursery.run(killed)
    assert end["status"] == 0, end["errors"]
    assert all(part in end["errors"] for part in named)
    assert end["errors"].count("The run resumes from before it.") == len(named)
    assert resumed in end["output"] if resumed else "resumes after" not in end["output"]
    assert run_content(run) == straight


def test_a_truncated_memory_within_a_step_is_herded_again(
    nursery: Any, killed: dict[str, object], run: Path, straight: dict[str, object], run_content: RunContent
) -> None:
    memory = run / "memory" / "step2.parquet"
    os.truncate(memory, memory.stat().st_size // 2)
    end = nursery.run(killed)
    assert end["status"] == 0
    assert "The rehearsal memory step2.parquet cannot be read" in end["errors"]
    assert "Step 2 resumes after main, epoch 2 of 2." in end["output"], "the main phase is not learned again"
    assert run_content(run) == straight


def test_a_damaged_memory_of_a_finished_step_stops_the_run(
    nursery: Any, killed: dict[str, object], run: Path, straight: dict[str, object], run_content: RunContent
) -> None:
    memory = run / "memory" / "step1.parquet"
    content = memory.read_bytes()
    for damaged in (content[:-50], content[:200] + bytes([content[200] ^ 1]) + content[201:], None):
        memory.unlink()
        if damaged is not None:
            memory.write_bytes(damaged)
        end = nursery.run(killed)
        assert end["status"] == 2
        assert "The rehearsal memory step1.parquet cannot be read" in end["errors"]
        assert "delete step1 and the later steps to learn them again" in end["errors"]
        assert (run / "step1" / "model.safetensors").is_file()
    # As the error says.
    shutil.rmtree(run / "step1")
    assert run_content(nursery.complete(killed)) == straight


def change_a_pixel(images: Path) -> None:
    path = images / "train" / "bee" / "0.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[3, 3, 0] ^= 1
    Image.fromarray(pixels).save(path)


def change_a_label(images: Path) -> None:
    (images / "test" / "bee" / "0.png").rename(images / "test" / "cat" / "9.png")


def add_an_image(images: Path) -> None:
    Image.new("RGB", (8, 8)).save(images / "train" / "bee" / "9.png")


def test_a_data_set_that_changed_stops_the_run(
    nursery: Any,
    killed: dict[str, object],
    run: Path,
    straight: dict[str, object],
    run_content: RunContent,
    tmp_path: Path,
) -> None:
    images = Path(str(killed["dataset_name"]))
    kept = Path(shutil.copytree(images, tmp_path / "kept"))
    before = run_content(run)
    for change, split in ((change_a_pixel, "training"), (change_a_label, "test"), (add_an_image, "training")):
        change(images)
        end = nursery.run(killed)
        assert end["status"] == 2
        assert f"holds a run on other data (the {split} images or their labels have changed since)" in end["errors"]
        assert run_content(run) == before
        shutil.rmtree(images)
        shutil.copytree(kept, images)
    assert run_content(nursery.complete(killed)) == straight
