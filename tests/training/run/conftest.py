"""A run of three steps to resume and to continue, made once, and the beginning of a run without its training."""

from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import Accelerator

from tests.command_line import words as command_line
from tests.training.conftest import train
from training.parsing import parse_arguments
from training.run.resume import Progress, resume
from training.run.setup import Setup, prepare, set_up


Start = Callable[..., tuple[Setup, Progress]]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs are kept that several tests read."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def source_options(tiny_options: dict[str, object]) -> dict[str, object]:
    """Options of the run in `source`: digits 0 to 5 in three steps."""
    return tiny_options | {"num_classes": 6, "classes_per_step": 2}


@pytest.fixture
def source(kept: Path, source_options: dict[str, object]) -> Path:
    """The folder of a finished run; tests copy what they change."""
    folder = kept / "source"
    return folder if folder.exists() else train(source_options | {"output_dir": folder})


@pytest.fixture
def start() -> Start:
    """Sets a run up and finds where it starts, but learns nothing."""

    def run(options: dict[str, object]) -> tuple[Setup, Progress]:
        setup = set_up(parse_arguments(command_line(options)), Accelerator())
        try:
            prepare(setup, lambda: None)
            return setup, resume(setup)
        finally:
            setup.folder.close()

    return run
