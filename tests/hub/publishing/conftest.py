"""Runs to publish."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hub.fake_run import write_run
from tests.hub.publication import PublicationHere


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of three steps; tests work on copies of it."""
    return write_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def publication(hub: "LocalHub", run: Path, tmp_path: Path) -> PublicationHere:
    """The run, and a repository of its own."""
    return PublicationHere(hub, run, f"org/{tmp_path.name}")
