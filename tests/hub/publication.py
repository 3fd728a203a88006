"""A run and the repository it goes to: publishing it by the command line, and what must then hold on the Hub."""

import json
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hub.publish import main


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

# How large files travel.
LFS = {"HF_HUB_DISABLE_XET": "1"}
XET = {"HF_HUB_DISABLE_XET": "0"}


@dataclass
class Publication:
    """Publishes `run` to `repo` on `hub`; `env` adds to the environment of the command."""

    hub: "LocalHub"
    run: Path
    repo: str
    env: dict[str, str] = field(default_factory=dict)

    def arguments(self, *options: str) -> list[str]:
        """The arguments of `python -m hub.publish`."""
        return [str(self.run), "--hub_model_id", self.repo, *options]

    def start(self, *options: str) -> "subprocess.Popen[str]":
        """Starts the command."""
        return self.hub.start_client("-m", "hub.publish", *self.arguments(*options), **self.env)

    def publish(self, *options: str) -> "subprocess.CompletedProcess[str]":
        """Runs the command to its end."""
        return self.hub.finish(self.start(*options))

    def published(self, *options: str) -> list[str]:
        """The lines that the command prints; it must succeed."""
        done = self.publish(*options)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def refused(self, *options: str) -> str:
        """The one line of error of the command, which must fail."""
        done = self.publish(*options)
        assert not succeeds(done), done.stdout
        return done.stderr

    def repeat_until_done(self, attempts: int = 12) -> int:
        """Runs the command again until it succeeds; returns how often it was run."""
        for attempt in range(1, attempts + 1):
            if succeeds(self.publish()):
                return attempt
        raise AssertionError(f"not published after {attempts} attempts")

    def assert_published_once(self) -> None:
        """
        One commit and one tag a step, in order, after the repository's first commit; each revision has the bytes of
        its folder; running the command again does not even try to write.
        """
        steps = [self.run / f"step{number}" for number in range(1, 1 + len(list(self.run.glob("step*"))))]
        state = self.state()
        titles = [commit["title"].partition(":")[0] for commit in state["commits"]]
        assert titles == ["initial commit", *(f"Step {number}" for number in range(1, 1 + len(steps)))]
        ids = [commit["id"] for commit in state["commits"]]
        assert state["tags"] == {step.name: commit for step, commit in zip(steps, ids[1:], strict=True)}
        assert state["branches"] == {"main": ids[-1]}
        for step in steps:
            assert self.content(step.name) == content_of(step), f"{step.name} differs from its folder"
            self._assert_lists_the_steps(step, state["tags"])
        self._assert_repetition_writes_nothing()
        assert self.state() == state

    def _assert_lists_the_steps(self, folder: Path, tags: dict[str, str]) -> None:
        """`steps.json` of a revision has every step so far, the earlier ones with their commits."""
        results = json.loads((folder / "results.json").read_bytes())
        entries = self.steps_file(folder.name)
        names = [f"step{step['step']}" for step in results["steps"]]
        assert [entry["tag"] for entry in entries] == names
        assert [entry["commit"] for entry in entries] == [*(tags[name] for name in names[:-1]), None]
        for key in ("classes", "num_seen_classes", "accuracy", "memory_size"):
            assert [entry[key] for entry in entries] == [step[key] for step in results["steps"]], key
        for key in ("average_incremental_accuracy", "code_version"):
            assert entries[-1][key] == results.get(key)

    def steps_file(self, revision: str) -> list[dict[str, Any]]:
        """What `steps.json` of a revision says."""
        entries: list[dict[str, Any]] = self._get(f"/{self.repo}/resolve/{revision}/steps.json")["steps"]
        return entries

    def _assert_repetition_writes_nothing(self) -> None:
        forbidden = {"path": "", "kind": "status", "status": 500, "count": 1000}
        self.hub.inject(*({"method": method, **forbidden} for method in ("POST", "PUT", "DELETE")))
        assert all(line.endswith("  already there") for line in self.published())
        assert self.hub.num_hits == 0
        self.hub.inject()

    def state(self) -> dict[str, Any]:
        """The history of `main`, oldest first, and the commits of branches and tags by name."""
        refs = self._get(f"/api/models/{self.repo}/refs")
        names = {kind: {ref["name"]: ref["targetCommit"] for ref in refs[kind]} for kind in ("branches", "tags")}
        return {"commits": self._get(f"/api/models/{self.repo}/commits/main")[::-1], **names}

    def exists(self) -> bool:
        """Whether the repository is there."""
        return self.hub.call("GET", f"/api/models/{self.repo}")[0] != 404

    def content(self, revision: str) -> dict[str, bytes]:
        """The files of a revision by path, without the one that the Hub adds and the one about all steps."""
        tree = self._get(f"/api/models/{self.repo}/tree/{revision}?recursive=true")
        files = {item["path"] for item in tree if item["type"] == "file"} - {".gitattributes", "steps.json"}
        return {path: self._read(f"/{self.repo}/resolve/{revision}/{quote(path)}") for path in files}

    def _get(self, path: str) -> Any:
        return json.loads(self._read(path))

    def _read(self, path: str) -> bytes:
        status, _, body = self.hub.call("GET", path, headers={"Authorization": f"Bearer {self._token}"})
        assert status == 200, (path, body)
        return body

    @property
    def _token(self) -> str:
        return self.env.get("HF_TOKEN", "hf_test")


class PublicationHere(Publication):
    """Publishes within the process of the tests, whose client must be connected to `hub`: faster than a fresh one."""

    def publish(self, *options: str) -> "subprocess.CompletedProcess[str]":
        """Runs the command to its end."""
        with redirect_stdout(StringIO()) as output, redirect_stderr(StringIO()) as errors:
            status = main(self.arguments(*options))
        return subprocess.CompletedProcess(self.arguments(*options), status, output.getvalue(), errors.getvalue())


def succeeds(done: "subprocess.CompletedProcess[str]") -> bool:
    """Whether the command succeeded; if it failed, then with exactly one line."""
    if done.returncode != 0:
        assert done.returncode == 1 and done.stderr.startswith("error: "), done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.returncode == 0


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
