"""Runs that start at once, to be killed and started again, and how to compare them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import words


TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
# One thread, so that sums are taken in the same order; and never the network.
ENVIRONMENT = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Nursery:
    """Starts runs as children of one warm process; see `nursery.py`."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            cwd=root,
            env=ENVIRONMENT | {"PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self, options: dict[str, object], die: tuple[str, int | str] | None = None, file_size_limit: int | None = None
    ) -> int:
        """Starts a run; returns its process id."""
        argv = words(options)
        assert self.process.stdin is not None
        request = {"argv": argv, "die": die, "file_size_limit": file_size_limit}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def end(self) -> dict[str, Any]:
        """Waits for the end of the run: `status`, minus the signal if one ended it, `errors` and `calls`."""
        return json.loads(self._line())

    def run(self, options: dict[str, object], **faults: Any) -> dict[str, Any]:
        """Starts a run and waits for its end."""
        self.start(options, **faults)
        return self.end()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the nursery broke down"
        return line


@pytest.fixture(scope="session")
def nursery(root: Path) -> Iterator[Nursery]:
    """A warm process to start runs from."""
    warm = Nursery(root)
    yield warm
    warm.process.kill()
    warm.process.wait()


def epochs_logged(output_dir: Path) -> list[tuple[object, ...]]:
    """What the log holds, record by record, apart from what takes time."""
    file = output_dir / "log.jsonl"
    if not file.exists():
        return []
    lines = [line for line in file.read_text().splitlines() if line.endswith("}")]
    records = [json.loads(line) for line in lines]
    return [(record["step"], record.get("phase"), record.get("epoch"), record.get("loss")) for record in records]


@pytest.fixture(scope="session")
def logged() -> Any:
    """Reads the log of a run: `logged(output_dir)`, see `epochs_logged`."""
    return epochs_logged


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of runs that are started from the command line."""
    return ENVIRONMENT


@pytest.fixture(scope="session")
def small_options() -> dict[str, object]:
    """Options of a run of three steps whose losses can be compared: no draw depends on how a batch is split."""
    return {
        "dataset_name": "digits",
        "num_classes": 6,
        "classes_per_step": 2,
        "max_train_samples_per_class": 30,
        "image_size": 8,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "drop_path_rate": 0.0,
        "num_epochs": 4,
        "finetuning_epochs": 2,
        "memory_size": 30,
        "learning_rate": 2e-3,
        "learning_rate_batch_size": 0,
        "num_workers": 0,
    }


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., list[str]]:
    """A command line: `torchrun(num_processes, script, **options)` on one machine."""

    def command(num_processes: int, *script: str, **options: object) -> list[str]:
        return [*TORCHRUN, "--standalone", f"--nproc_per_node={num_processes}", *script, *words(options)]

    return command


@pytest.fixture(scope="session")
def on_two_machines() -> Callable[..., list[list[str]]]:
    """Command lines of two launchers that meet: `on_two_machines(script, **options)`."""
    return lambda script, **options: on_machines(2, [script, *words(options)])


@pytest.fixture(scope="session")
def launch(
    root: Path,
    environment: dict[str, str],
    small_options: dict[str, object],
    torchrun: Callable[..., list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """
    Runs the script on so many processes, on one machine or on as many (`machines=True`), with `small_options` and
    others; gives the output folder of the run.
    """

    def run(num_processes: int, machines: bool = False, **options: object) -> Path:
        output = tmp_path_factory.mktemp("run") / "out"
        script, all_options = "training/incremental.py", small_options | options | {"output_dir": output}
        commands = [torchrun(num_processes, script, **all_options)]
        if machines:
            commands = on_machines(num_processes, [script, *words(all_options)])
        started = [
            subprocess.Popen(
                command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            for command in commands
        ]
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
        return output

    return run


def on_machines(count: int, script: list[str]) -> list[list[str]]:
    """One launcher for each of so many machines, all of them this one, that meet on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = ["--master_addr=127.0.0.1", f"--master_port={port}", "--nproc_per_node=1", f"--nnodes={count}"]
    return [[*TORCHRUN, *meet, f"--node_rank={rank}", *script] for rank in range(count)]
