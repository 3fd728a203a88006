"""Runs that start at once, on one process or several, to be killed and started again; and what they log."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import words
from tests.warm import ROOT, WarmPython, ranks


# One thread, so that sums are taken in the same order; and never the network.
ENVIRONMENT = os.environ | {
    "ACCELERATE_USE_CPU": "true",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
}


class Nursery:
    """Starts runs as children of one warm process; see `tests/nursery.py`."""

    def __init__(self) -> None:
        # What a run imports, some of it only when it needs it.
        modules = ("training.incremental", "hub.cards.figures", "sklearn.datasets", "PIL.PngImagePlugin")
        self.python = WarmPython(*modules, environment=ENVIRONMENT)

    def start(
        self,
        options: dict[str, object],
        *,
        num_processes: int = 1,
        machines: tuple[Path, ...] = (ROOT,),
        script: Path = ROOT / "training" / "incremental.py",
        **faults: Any,
    ) -> int:
        """
        Starts a run, or a script that takes its options, on so many processes on each machine; all machines are this
        one, with a folder of its own to start in. Returns the id of the first process.
        """
        single = num_processes * len(machines) == 1
        places = [(ROOT, ENVIRONMENT)] if single else ranks(ENVIRONMENT, num_processes, *machines)
        return self.python.start([str(script), *words(options)], *places, **faults)[0]

    def ends(self) -> list[dict[str, Any]]:
        """
        Waits for the end of the run: for each process `status`, minus the signal if one ended it, `output`, `errors`
        and `calls`.
        """
        return self.python.ends()

    def end(self) -> dict[str, Any]:
        """Waits for the end of a run on one process."""
        (end,) = self.ends()
        return end

    def run(self, options: dict[str, object], **faults: Any) -> dict[str, Any]:
        """Starts a run on one process and waits for its end."""
        self.start(options, **faults)
        return self.end()

    def complete(self, options: dict[str, object], **where: Any) -> Path:
        """Runs to the end, which must be a good one; returns the output folder."""
        self.start(options, **where)
        for end in self.ends():
            assert end["status"] == 0, end["errors"][-3000:]
        return Path(str(options["output_dir"]))


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A warm process to start runs from."""
    warm = Nursery()
    yield warm
    warm.python.stop()


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
