"""A run that is killed and started again with the same command ends as the run that was not, bit by bit."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import words


RunContent = Callable[[Path], dict[str, object]]
Logged = Callable[[Path], list[tuple[object, ...]]]


@pytest.fixture(params=["workers", "in_process"])
def options(request: pytest.FixtureRequest, tiny_options: dict[str, object]) -> dict[str, object]:
    """Drop path and MixUp on: their draws must come back as well. The second kind uses the other ways of training."""
    changed: dict[str, object] = {"num_epochs": 4, "finetuning_epochs": 2, "mixup_alpha": 0.8, "num_workers": 1}
    if request.param == "in_process":
        changed |= {"num_workers": 0, "sam_rho": 0.5, "repeated_augmentation": 3, "shuffle_finetuning": "false"}
    return tiny_options | changed


@pytest.mark.slow
def test_killed_at_random_moments_of_every_phase(
    nursery: Any, options: dict[str, object], run_content: RunContent, logged: Logged, tmp_path: Path
) -> None:
    assert nursery.run(options | {"output_dir": tmp_path / "straight"})["status"] == 0
    expected = logged(tmp_path / "straight")
    assert len(expected) == 4 + 6 + 6 + 3

    seed = int(time.time())
    moments = random.Random(seed)
    killed = tmp_path / "killed"
    for target in sorted(moments.sample(range(len(expected)), 12)):
        pid = nursery.start(options | {"output_dir": killed})
        deadline = time.monotonic() + 120
        while len(logged(killed)) < target and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        assert nursery.end()["status"] == -signal.SIGKILL
        for folder in killed.glob("step*"):
            assert (folder / "model.safetensors").is_file() and (folder / "README.md").is_file()

    assert nursery.run(options | {"output_dir": killed})["status"] == 0
    assert run_content(killed) == run_content(tmp_path / "straight"), seed
    assert logged(killed) == expected, seed
    assert not (killed / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["write", "replace", "replaced"])
def test_killed_inside_a_save(
    nursery: Any,
    tiny_options: dict[str, object],
    run_content: RunContent,
    logged: Logged,
    tmp_path: Path,
    operation: str,
) -> None:
    count = nursery.run(tiny_options | {"output_dir": tmp_path / "straight"})["calls"][operation]

    seed = int(time.time())
    moments = random.Random(seed)
    killed = tmp_path / "killed"
    deaths = 0
    # A few operations come before the first epoch of every try; those after it are spread over the whole run.
    for die_at in [1, 2, *(moments.randint(3, count // 2) for _ in range(6))]:
        end = nursery.run(tiny_options | {"output_dir": killed}, die=(operation, die_at))
        deaths += end["status"] == -signal.SIGKILL
    assert deaths >= 2, seed

    assert nursery.run(tiny_options | {"output_dir": killed})["status"] == 0, seed
    assert run_content(killed) == run_content(tmp_path / "straight"), seed
    assert logged(killed) == logged(tmp_path / "straight"), seed
    assert not list(killed.rglob("*.partial")), seed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_asked_to_stop_it_ends_cleanly_and_goes_on_later(
    root: Path,
    nursery: Any,
    tiny_options: dict[str, object],
    run_content: RunContent,
    logged: Logged,
    environment: dict[str, str],
    tmp_path: Path,
    number: signal.Signals,
    group: bool,
) -> None:
    options = tiny_options | {"num_epochs": 6, "num_workers": 2}
    command = [sys.executable, "training/incremental.py", *words(options | {"output_dir": tmp_path / "stopped"})]
    stopped = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(logged(tmp_path / "stopped")) < 8:
        assert stopped.poll() is None
        time.sleep(0.002)
    # A terminal and a cluster signal the whole group, the processes that load images included.
    os.killpg(stopped.pid, number) if group else stopped.send_signal(number)
    _, errors = stopped.communicate(timeout=30)
    assert stopped.returncode == 128 + number
    assert f"stopped by {number.name}" in errors
    # In a finalizer Python shows an exception that it cannot let out.
    assert "Traceback" not in errors or "Exception ignored" in errors

    for name in ("stopped", "straight"):
        assert nursery.run(options | {"output_dir": tmp_path / name})["status"] == 0
    assert run_content(tmp_path / "stopped") == run_content(tmp_path / "straight")
