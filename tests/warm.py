"""Python that starts at once: the side of the tests of `nursery.py`."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
# What `transformers`, `datasets` and the figures of a card import, apart from what reads the settings of a client.
MODULES = (
    *("torch", "torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp", "torch.distributed.checkpoint"),
    *("torch.distributed.run", "torch.export", "torchvision.transforms.v2", "scipy.optimize", "sklearn.datasets"),
    *("pandas", "pyarrow.dataset", "pyarrow.parquet", "aiohttp", "rich.console", "matplotlib.figure"),
    *("matplotlib.backends.backend_agg", "PIL.PngImagePlugin", "filelock", "tokenizers", "jinja2", "regex"),
)
Place = tuple[Path, Mapping[str, str]]


class WarmPython:
    """
    A process that has imported `modules`, whose children run Python at once; see `nursery.py`.

    Args:
        modules (`str`): their names.
        environment (`Mapping[str, str]`): of the imports; children have environments of their own.
    """

    def __init__(self, *modules: str, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py")), *modules],
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self,
        argv: Sequence[str],
        *places: Place,
        die: tuple[str, int | str] | None = None,
        file_size_limit: int | None = None,
    ) -> list[int]:
        """Starts `python *argv` in each place, a folder and an environment; returns the process ids."""
        named = [{"folder": str(folder), "environment": dict(environment)} for folder, environment in places]
        request = {"argv": list(argv), "places": named, "die": die, "file_size_limit": file_size_limit}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return list(json.loads(self._line()))

    def ends(self) -> list[dict[str, Any]]:
        """
        Waits for the end of what was started: in each place `status`, minus the signal if one ended it, `output`,
        `errors` and `calls`.
        """
        return list(json.loads(self._line()))

    def run(
        self, argv: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """Runs `python *argv` to its end, which must come within `timeout` seconds; its exit status may be any."""
        (pid,) = self.start(argv, (folder, environment))
        killer = threading.Timer(timeout, os.killpg, (pid, signal.SIGKILL))
        killer.start()
        (end,) = self.ends()
        killer.cancel()
        return subprocess.CompletedProcess(argv, end["status"], end["output"], end["errors"])

    def stop(self) -> None:
        """Ends the process; its children go on."""
        self.process.kill()
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the nursery ended with status {self.process.wait(timeout=10)}"
        return line


@cache
def warm_python() -> WarmPython:
    """Has all of torch, but nothing that knows a Hub; ends with the tests, which close its input."""
    return WarmPython(*MODULES, environment=without_hub_settings() | {"OMP_NUM_THREADS": "1"})


def without_hub_settings() -> dict[str, str]:
    """The environment of the tests without what clients of a Hub read."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}


def ranks(environment: Mapping[str, str], num_processes: int, *machines: Path) -> list[Place]:
    """
    Where so many processes start on each machine that make one group; all machines are this one, with a folder of its
    own to start in.
    """
    world = num_processes * len(machines)
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world)}
    return [
        (
            machines[rank // num_processes],
            {
                **environment,
                **meet,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank % num_processes),
                "LOCAL_WORLD_SIZE": str(num_processes),
            },
        )
        for rank in range(world)
    ]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
