"""A real Hub in a folder for tests: the server is one process, each client another."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest


ROOT = Path(__file__).resolve().parents[2]


class LocalHub:
    """A running `python -m hub.local_server`.

    Attributes:
        folder: where it keeps its repositories.
        endpoint: its address, e.g. `http://127.0.0.1:40213`.
        process: the server; `kill` and `start` replace it.
        log: the file of all it has written to stderr.
    """

    def __init__(self, folder: Path, homes: Path, tokens: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self._homes = homes
        self.log = homes / "server.log"
        self._faults = homes / "faults.json"
        self._options = ["--faults", str(self._faults)]
        if tokens is not None:
            file = homes / "tokens.json"
            file.write_text(json.dumps(tokens))
            self._options += ["--tokens", str(file)]
        self.inject()
        self.start()

    def start(self, port: int = 0, launcher: Sequence[str] = ("-m", "hub.local_server")) -> None:
        """Start the server; with the `port` of an earlier endpoint, clients find it again.

        `launcher` are the arguments of Python that start it.
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
        """Send the server a signal, wait for its end, return its exit status."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(timeout=20)

    def inject(self, *faults: Mapping[str, Any]) -> None:
        """Replace the faults that the server commits on purpose, see `hub.local.faults`; without any, it behaves."""
        aside = self._faults.with_suffix(".aside")
        aside.write_text(json.dumps(faults))
        aside.replace(self._faults)
        self._hits_before = self._count_hits()

    @property
    def num_hits(self) -> int:
        """How many requests the faults have hit since they were injected."""
        return self._count_hits() - self._hits_before

    def _count_hits(self) -> int:
        return self.log.read_text().count("hub.local.faults: fault ") if self.log.exists() else 0

    def call(
        self, method: str, path: str, body: bytes | str = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, HTTPMessage, bytes]:
        """Send one request as given, without a client's own care; return status, headers and body of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def start_client(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        """Start `python *arguments` in a fresh process with its own empty `HF_HOME`; `env` adds to its environment."""
        home = self._homes / f"home{len(list(self._homes.iterdir()))}"
        home.mkdir()
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
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
        return subprocess.Popen(
            [sys.executable, *arguments],
            env={**inherited, **settings, **env},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_python(self, code: str, **env: str) -> "subprocess.Popen[str]":
        """Start client `code` as `start_client` does."""
        return self.start_client("-c", dedent(code), **env)

    def run_python(self, code: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run client `code` as `start_client` does, to its end, whatever its exit status."""
        return self.finish(self.start_python(code, **env))

    def finish(self, process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
        """Wait for the end of a client, whatever its exit status."""
        try:
            output, errors = process.communicate(timeout=120)
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
