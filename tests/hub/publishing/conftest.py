"""Runs to publish, and the client of this process connected to a Hub in a folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import close_session, constants

from tests.hub.fake_run import write_run
from tests.hub.publication import PublicationHere


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

TEMPLATE = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[["LocalHub"], "LocalHub"]:
    """A function that connects the client in this process to a Hub, as its environment does when Python starts."""

    def connect(hub: "LocalHub") -> "LocalHub":
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + TEMPLATE)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        close_session()
        hub.inject()
        return hub

    return connect


@pytest.fixture
def hub(connect: Callable[["LocalHub"], "LocalHub"], shared_hub: "LocalHub") -> "LocalHub":
    """The Hub that the tests of a file share; the client of this process is connected to it."""
    return connect(shared_hub)


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
