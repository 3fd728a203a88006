"""A run that is killed and started again with the same command ends as the run that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_killed_at_random_and_resumed(
    root: Path, tiny_options: dict[str, object], run_content: Callable[[Path], dict[str, object]], tmp_path: Path
) -> None:
    def start(name: str) -> subprocess.Popen[str]:
        options = tiny_options | {"output_dir": tmp_path / name}
        arguments = [part for option, value in options.items() for part in (f"--{option}", str(value))]
        command = [sys.executable, "training/incremental.py", *arguments]
        return subprocess.Popen(command, cwd=root, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)

    straight = start("straight")
    assert straight.wait(timeout=120) == 0, straight.stderr

    moments = random.Random(int(time.time()))
    for file_to_wait_for in ("training_config.yaml", "step1", "memory/step2.parquet"):
        killed = start("killed")
        while not (tmp_path / "killed" / file_to_wait_for).exists():
            assert killed.poll() is None, killed.stderr and killed.stderr.read()
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.4))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        for folder in (tmp_path / "killed").glob("step*"):
            assert (folder / "model.safetensors").is_file() and (folder / "README.md").is_file()

    finished = start("killed")
    assert finished.wait(timeout=120) == 0, finished.stderr and finished.stderr.read()
    assert run_content(tmp_path / "killed") == run_content(tmp_path / "straight")
