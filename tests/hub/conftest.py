"""A real Hub in a folder for tests: the server is one process, each client another."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from huggingface_hub import close_session, constants

from tests.hub.faulty_server import CONTROL_PATH
from tests.warm import ROOT, warm_python, without_hub_settings


# How long a client may take.
CLIENT_SECONDS = 120
# Of the addresses of files.
TEMPLATE = "/{repo_id}/resolve/{revision}/{filename}"


class LocalHub:
    """
    A running Hub: a `process` that serves `endpoint` and writes its stderr to the file `log`.

    Args:
        folder (`Path`): where it keeps its repositories.
        homes (`Path`): where all else is kept: the homes of its clients, its log, its token file.
        tokens (`dict[str, Any]`, *optional*): the content of its token file.
    """

    def __init__(self, folder: Path, homes: Path, tokens: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self._homes = homes
        self.log = homes / "server.log"
        self._options: list[str] = []
        if tokens is not None:
            file = homes / "tokens.json"
            file.write_text(json.dumps(tokens))
            self._options = ["--tokens", str(file)]
        self.start()

    def start(self, port: int = 0, launcher: Sequence[str] = ("-m", "tests.hub.faulty_server")) -> None:
        """
        Starts the server; with the `port` of an earlier endpoint, clients find it again. `launcher` are the arguments
        of Python that start it.
        """
        command = [sys.executable, *launcher, str(self.folder), "--port", str(port), *self._options]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.endpoint = self.process.stdout.readline().strip()
        assert self.endpoint.startswith("http://127.0.0.1:"), f"the server did not start: {self.log.read_text()}"

    @property
    def port(self) -> int:
        """The TCP port of the endpoint."""
        return int(self.endpoint.rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends the server a signal, waits for its end, returns its exit status."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(timeout=20)

    def inject(self, *faults: Mapping[str, Any]) -> None:
        """Replaces the faults of the server, see `tests.hub.faulty_server`; without any, it behaves."""
        assert self.call("POST", CONTROL_PATH, json.dumps(faults))[0] == 200

    @property
    def num_hits(self) -> int:
        """How many requests the faults have hit since they were injected."""
        return int(self.call("GET", CONTROL_PATH)[2])

    def call(
        self, method: str, path: str, body: bytes | str = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, HTTPMessage, bytes]:
        """Sends one request as given, without a client's own care; returns status, headers and body of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def start_client(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        """Starts `python *arguments` as a process with an empty `HF_HOME`; `env` adds to its environment."""
        home, environment = self._place(env)
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_warm(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """
        Runs what `start_client` would start to its end, in a process that has all of torch already, but nothing that
        knows a Hub: clients that need torch start at once.
        """
        return warm_python().run([*map(dedent, arguments)], *self._place(env), timeout=CLIENT_SECONDS)

    def _place(self, env: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
        """A new folder for a client, which is its `HF_HOME`, and its environment."""
        home = self._homes / f"home{len(list(self._homes.iterdir()))}"
        home.mkdir()
        settings = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        return home, {**without_hub_settings(), **settings, **env}

    def start_python(self, code: str, **env: str) -> "subprocess.Popen[str]":
        """Starts client `code` as `start_client` does."""
        return self.start_client("-c", dedent(code), **env)

    def run_python(self, code: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Runs client `code` as `start_client` does, to its end; its exit status may be any."""
        return self.finish(self.start_python(code, **env))

    def finish(self, process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
        """Waits for the end of a client; its exit status may be any."""
        try:
            output, errors = process.communicate(timeout=CLIENT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.fixture
def start_local_hub(tmp_path: Path) -> Iterator[Callable[..., LocalHub]]:
    """A function that starts a Hub, `start_local_hub(tokens=None)`; all are killed after the test."""
    started: list[LocalHub] = []

    def start(tokens: dict[str, Any] | None = None) -> LocalHub:
        homes = tmp_path / f"homes{len(started)}"
        homes.mkdir()
        started.append(LocalHub(tmp_path / f"hub{len(started)}", homes, tokens))
        return started[-1]

    yield start
    for hub in started:
        if hub.process.poll() is None:
            hub.stop(signal.SIGKILL)


@pytest.fixture
def local_hub(start_local_hub: Callable[..., LocalHub]) -> LocalHub:
    """A Hub on which every caller may write."""
    return start_local_hub()


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """A Hub that the tests of a file share, each with repositories of its own."""
    folder = tmp_path_factory.mktemp("shared_hub")
    (folder / "homes").mkdir()
    hub = LocalHub(folder / "hub", folder / "homes")
    yield hub
    if hub.process.poll() is None:
        hub.stop(signal.SIGKILL)


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[LocalHub], LocalHub]:
    """A function that connects the client in this process to a Hub, as its environment does when Python starts."""

    def connect(hub: LocalHub) -> LocalHub:
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
def hub(connect: Callable[[LocalHub], LocalHub], shared_hub: LocalHub) -> LocalHub:
    """The Hub that the tests of a file share; the client of this process is connected to it."""
    return connect(shared_hub)
