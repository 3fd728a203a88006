"""Runs that start at once, to be killed and started again; runs on several processes; and what they log."""

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


ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "training" / "incremental.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
# One thread, so that sums are taken in the same order; and never the network.
ENVIRONMENT = os.environ | {
    "ACCELERATE_USE_CPU": "true",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
}


class Nursery:
    """Starts runs as children of one warm process; see `nursery.py`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self, options: dict[str, object], die: tuple[str, int | str] | None = None, file_size_limit: int | None = None
    ) -> int:
        """Starts a run; returns its process id."""
        assert self.process.stdin is not None
        request = {"argv": words(options), "die": die, "file_size_limit": file_size_limit}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def end(self) -> dict[str, Any]:
        """Waits for the end of the run: `status`, minus the signal if one ended it, `output`, `errors`, `calls`."""
        return json.loads(self._line())

    def run(self, options: dict[str, object], **faults: Any) -> dict[str, Any]:
        """Starts a run and waits for its end."""
        self.start(options, **faults)
        return self.end()

    def complete(self, options: dict[str, object]) -> Path:
        """Runs to the end, which must be a good one; returns the output folder."""
        end = self.run(options)
        assert end["status"] == 0, end["errors"]
        return Path(str(options["output_dir"]))

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the nursery ended with status {self.process.wait(timeout=10)}"
        return line


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A warm process to start runs from."""
    warm = Nursery()
    yield warm
    warm.process.kill()
    warm.process.wait()


@pytest.fixture(scope="session")
def logged() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads the log of a run, record by record, apart from what depends on time: `logged(output_dir)`."""

    def read(output_dir: Path) -> list[dict[str, Any]]:
        file = output_dir / "log.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        timed = ("images_per_second", "train_seconds")
        return [{name: value for name, value in record.items() if name not in timed} for record in records]

    return read


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


class Launcher:
    """Starts scripts on several processes, as a user does."""

    def start(
        self,
        num_processes: int,
        options: dict[str, object],
        script: tuple[str, ...] = (SCRIPT,),
        *,
        machines: bool = False,
        folders: tuple[Path, ...] = (ROOT,),
    ) -> list["subprocess.Popen[str]"]:
        """
        Starts so many processes: on one machine, or each on a machine of its own (`machines`), all of them this one,
        that meet on a free port. The launchers run in `folders`, in turn.
        """
        places = [["--standalone", f"--nproc_per_node={num_processes}"]]
        if machines:
            meet = ["--master_addr=127.0.0.1", f"--master_port={free_port()}", "--nproc_per_node=1"]
            places = [[*meet, f"--nnodes={num_processes}", f"--node_rank={rank}"] for rank in range(num_processes)]
        return [
            subprocess.Popen(
                [*TORCHRUN, *place, *script, *words(options)],
                cwd=folders[number % len(folders)],
                env=ENVIRONMENT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, place in enumerate(places)
        ]

    def run(self, *arguments: Any, **options: Any) -> None:
        """Starts processes and waits for their end, which must be a good one."""
        for launcher in self.start(*arguments, **options):
            _, errors = launcher.communicate(timeout=400)
            assert launcher.returncode == 0, errors[-3000:]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def launcher() -> Launcher:
    """Starts scripts on several processes."""
    return Launcher()
