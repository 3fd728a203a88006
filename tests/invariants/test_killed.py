"""A run that is killed and started again with the same command ends as the run that was not, bit by bit."""

import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


RunContent = Callable[[Path], dict[str, object]]
Logged = Callable[[Path], list[dict[str, Any]]]
# Draws of drop path and MixUp must come back as well. The second kind is the other ways of training.
KINDS: dict[str, dict[str, object]] = {
    "workers": {"num_workers": 1, "gradient_accumulation_steps": 2, "mixed_precision": "bf16"},
    # The second phase of eeil has a teacher of its own, which no step folder holds.
    "frozen encoder": {"method": "eeil", "mixup_alpha": 0, "image_size": None, "patch_size": None, "cached_views": 2},
    "in process": {
        "sam_rho": 0.5,
        "repeated_augmentation": 3,
        "shuffle_finetuning": False,
        "lagging_schedule": True,
        "augmented_herding": True,
    },
}
PHASES = [(1, "main"), (2, "main"), (2, "finetuning"), (3, "main"), (3, "finetuning")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments_of_every_phase(
    nursery: Any,
    tiny_options: dict[str, object],
    run_content: RunContent,
    logged: Logged,
    tmp_path: Path,
    tiny_encoder: Path,
    kind: str,
) -> None:
    options = tiny_options | {"num_epochs": 4, "finetuning_epochs": 3, "mixup_alpha": 0.8} | KINDS[kind]
    if kind == "frozen encoder":
        options |= {"encoder_name_or_path": tiny_encoder, "feature_cache_dir": tmp_path / "features"}
    straight = nursery.complete(options | {"output_dir": tmp_path / "straight"})
    expected = logged(straight)
    epochs = [(record["step"], record["phase"]) if "phase" in record else None for record in expected]
    assert [phase for phase in dict.fromkeys(epochs) if phase] == PHASES

    moments = random.Random(kind)
    killed = tmp_path / "killed"
    resumed = set()
    for phase in PHASES:
        # After the second epoch of the phase, so that there is a state within it, or a later one but the last.
        second = epochs.index(phase) + 2
        pid = nursery.start(options | {"output_dir": killed})
        wait_for_records(logged, killed, second + moments.randrange(epochs.count(phase) - 2))
        time.sleep(moments.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        end = nursery.end()
        assert end["status"] == -signal.SIGKILL, end["errors"]
        resumed |= set(re.findall(r"Step (\d) resumes after (\w+), epoch", end["output"]))
        for folder in killed.glob("step*"):
            assert list(folder.glob("model*.safetensors")) and (folder / "README.md").is_file()

    end = nursery.run(options | {"output_dir": killed})
    assert end["status"] == 0, end["errors"]
    resumed |= set(re.findall(r"Step (\d) resumes after (\w+), epoch", end["output"]))
    assert resumed == {(str(step), phase) for step, phase in PHASES}
    assert run_content(killed) == run_content(straight)
    assert logged(killed) == expected
    assert not (killed / "checkpoints").exists()


def wait_for_records(logged: Logged, folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(logged(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(scope="module")
def short_run(
    nursery: Any, small_options: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, object], Path, dict[str, int]]:
    """A run of two steps that nothing happens to: its options, its folder, and how often it did what can be fatal."""
    folder = tmp_path_factory.mktemp("short") / "run"
    options = small_options | {"num_classes": 4, "max_train_samples_per_class": 12, "num_epochs": 2}
    end = nursery.run(options | {"output_dir": folder})
    assert end["status"] == 0, end["errors"]
    return options, folder, end["calls"]


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["write", "replace", "replaced"])
def test_killed_inside_a_save(
    nursery: Any,
    short_run: tuple[dict[str, object], Path, dict[str, int]],
    run_content: RunContent,
    logged: Logged,
    tmp_path: Path,
    operation: str,
) -> None:
    options, straight, calls = short_run
    moments = random.Random(operation)
    killed = tmp_path / "killed"
    deaths = 0
    # A few operations come before the first epoch of every try; those after it are spread over the whole run.
    for die_at in [1, *(moments.randint(3, calls[operation] // 2) for _ in range(4))]:
        end = nursery.run(options | {"output_dir": killed}, die=(operation, die_at))
        deaths += end["status"] == -signal.SIGKILL
    assert deaths >= 3

    nursery.complete(options | {"output_dir": killed})
    assert run_content(killed) == run_content(straight)
    assert logged(killed) == logged(straight)
    assert not list(killed.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_ends_cleanly_and_resumes_later(
    nursery: Any,
    tiny_options: dict[str, object],
    run_content: RunContent,
    logged: Logged,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    options = tiny_options | {"num_epochs": 6, "num_workers": 2}
    stopped = tmp_path / "stopped"
    pid = nursery.start(options | {"output_dir": stopped})
    wait_for_records(logged, stopped, 8)
    # A terminal and a cluster signal the whole group, the processes that load images included.
    os.killpg(pid, number)
    end = nursery.end()
    assert end["status"] == 128 + number
    assert f"stopped by {number.name}" in end["errors"]
    # Python shows an exception that it swallows in a finalizer.
    assert end["errors"].count("Traceback") == end["errors"].count("Exception ignored")

    straight = nursery.complete(options | {"output_dir": tmp_path / "straight"})
    assert run_content(nursery.complete(options | {"output_dir": stopped})) == run_content(straight)
