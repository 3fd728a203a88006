"""The state of a run's repository: head of `main`, tags `step{t}`, and what a commit holds, without downloads."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash, sha_fileobj


# The Hub writes this file itself; it says how files are stored, not what the step is.
KEPT_ON_MAIN = ".gitattributes"

# What a run measured, in every revision of a model.
RESULTS = "results.json"

_TAG = re.compile(r"step([1-9][0-9]*)")


@dataclass(frozen=True)
class LocalFile:
    """A file to publish; `content` stands in for what `path` will hold once it is rewritten."""

    path: Path
    content: bytes | None = None

    def equals(self, remote: RepoFile) -> bool:
        """Whether the Hub's file has the same bytes, by its LFS sha256 or its git blob sha1."""
        size = self.path.stat().st_size if self.content is None else len(self.content)
        if remote.lfs is None:
            return size == remote.size and git_hash(self.read()) == remote.blob_id
        return size == remote.lfs.size and self._sha256 == remote.lfs.sha256

    def read(self) -> bytes:
        """The bytes to publish."""
        return self.path.read_bytes() if self.content is None else self.content

    @cached_property
    def _sha256(self) -> str:
        with self.path.open("rb") as file:
            return sha_fileobj(file).hex()


@dataclass
class RemoteRun:
    """
    What the Hub holds of a run. `head` is None when the repository is missing or has no commit.

    `tags` maps the number of each published step to its commit.
    """

    api: HfApi
    repo_id: str
    repo_type: str = "model"
    exists: bool = False
    head: str | None = None
    tags: dict[int, str] = field(default_factory=dict)
    _trees: dict[str, dict[str, RepoFile]] = field(default_factory=dict)

    @classmethod
    def read(cls, api: HfApi, repo_id: str, repo_type: str = "model") -> "RemoteRun":
        """Asks the Hub. A repository that is missing, or hidden from this token, has `exists=False`."""
        try:
            refs = api.list_repo_refs(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            return cls(api, repo_id, repo_type)
        head = next((branch.target_commit for branch in refs.branches if branch.name == "main"), None)
        tags = {int(match[1]): tag.target_commit for tag in refs.tags if (match := _TAG.fullmatch(tag.name))}
        return cls(api, repo_id, repo_type, exists=True, head=head, tags=tags)

    def read_again(self) -> "RemoteRun":
        """What the Hub holds now."""
        return self.read(self.api, self.repo_id, self.repo_type)

    @property
    def name(self) -> str:
        """The repository as users name it."""
        return self.repo_id if self.repo_type == "model" else f"the {self.repo_type} {self.repo_id}"

    @property
    def url(self) -> str:
        """Where the repository is to be seen."""
        prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{self.api.endpoint}/{prefix}{self.repo_id}"

    def is_private(self) -> bool:
        """Whether the repository, which exists, is hidden from the public."""
        return bool(self.api.repo_info(self.repo_id, repo_type=self.repo_type).private)

    def files(self, commit: str | None) -> dict[str, RepoFile]:
        """The files of a commit by path, except the one the Hub keeps for itself."""
        if commit is None:
            return {}
        if commit not in self._trees:
            tree = self.api.list_repo_tree(self.repo_id, recursive=True, revision=commit, repo_type=self.repo_type)
            files = {item.path: item for item in tree if isinstance(item, RepoFile)}
            files.pop(KEPT_ON_MAIN, None)
            self._trees[commit] = files
        return self._trees[commit]

    def holds(self, commit: str | None, files: dict[str, LocalFile]) -> bool:
        """Whether a commit has exactly these files with these bytes."""
        remote = self.files(commit)
        return remote.keys() == files.keys() and all(files[path].equals(item) for path, item in remote.items())

    def steps_of(self, commit: str) -> Any:
        """What `results.json` of a commit tells of its steps, as parsed JSON; None where it cannot be told."""
        try:
            path = self.api.hf_hub_download(self.repo_id, RESULTS, revision=commit, repo_type=self.repo_type)
            return json.loads(Path(path).read_bytes())["steps"]
        except LocalEntryNotFoundError:
            # The client's name for a connection that failed, which tells nothing about the file.
            raise
        except (EntryNotFoundError, ValueError, KeyError, TypeError):
            return None

    def record(self, step: int, commit: str, files: dict[str, RepoFile] | None = None) -> None:
        """Notes that `step` has been published as `commit`, now the head of `main` and the last step."""
        self.head = commit
        self.tags = {known: oid for known, oid in self.tags.items() if known < step} | {step: commit}
        if files is not None:
            self._trees[commit] = files
