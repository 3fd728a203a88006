"""The state of a run's repository: head of `main`, tags `step{t}`, and what a commit holds, without downloads."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hub.publishing.content import LocalFile
from hub.publishing.destination import Destination, RepoType
from hub.run.errors import PublishError


# The Hub writes this file itself; it says how files are stored, not what the step is.
KEPT_ON_MAIN = ".gitattributes"

# What a run measured, in every revision of a model.
RESULTS = "results.json"

_TAG = re.compile(r"step([1-9][0-9]*)")


@dataclass
class RemoteRun:
    """
    What the Hub holds of a run.

    Args:
        api (`HfApi`): the client.
        repo_id (`str`): `namespace/name`.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"` or `"dataset"`.
        private (`bool`, *optional*, defaults to `False`): visibility of the repository if it is made.
        exists (`bool`, *optional*, defaults to `False`): whether the repository is there and visible to the token.
        head (`str`, *optional*): commit of `main`; `None` if there is no repository or no commit.
        tags (`dict[int, str]`, *optional*): number of each published step -> commit.
    """

    api: HfApi
    repo_id: str
    repo_type: RepoType = "model"
    private: bool = False
    exists: bool = False
    head: str | None = None
    tags: dict[int, str] = field(default_factory=dict)
    _trees: dict[str, dict[str, RepoFile]] = field(default_factory=dict)

    @classmethod
    def read(cls, api: HfApi, repo_id: str, repo_type: RepoType = "model", private: bool = False) -> "RemoteRun":
        """Asks the Hub; see above for the arguments."""
        try:
            refs = api.list_repo_refs(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            return cls(api, repo_id, repo_type, private)
        head = next((branch.target_commit for branch in refs.branches if branch.name == "main"), None)
        tags = {int(match[1]): tag.target_commit for tag in refs.tags if (match := _TAG.fullmatch(tag.name))}
        return cls(api, repo_id, repo_type, private, exists=True, head=head, tags=tags)

    @classmethod
    def at(cls, destination: Destination, repo_type: RepoType) -> "RemoteRun":
        """
        Asks for the models of a destination, or for their rehearsal memories: those of a private model are private.

        Raises:
            `PublishError`: the data set is public, but must not be.
        """
        remote = cls.read(destination.api, destination.repo_id(repo_type), repo_type, destination.private)
        if repo_type == "dataset":
            models = cls(remote.api, destination.hub_model_id)
            remote.private = destination.private or models.is_private()
            if remote.private and remote.exists and not remote.is_private():
                raise PublishError(
                    f"{remote.name} is public, but its images must be private like the model; make it private first, "
                    "or publish without the memory"
                )
        return remote

    def read_again(self) -> "RemoteRun":
        """What the Hub holds now."""
        return self.read(self.api, self.repo_id, self.repo_type, self.private)

    def create(self) -> None:
        """Makes the repository; a conflict (409) if it exists."""
        # Without a wish of the user, the default of the namespace holds.
        self.api.create_repo(self.repo_id, private=self.private or None, repo_type=self.repo_type)

    @property
    def name(self) -> str:
        """The repository as users name it."""
        return self.repo_id if self.repo_type == "model" else f"the {self.repo_type} {self.repo_id}"

    @property
    def url(self) -> str:
        """The web page of the repository."""
        prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{self.api.endpoint}/{prefix}{self.repo_id}"

    def is_private(self) -> bool:
        """Whether the repository is hidden from the public; `False` if it does not exist."""
        try:
            return bool(self.api.repo_info(self.repo_id, repo_type=self.repo_type).private)
        except RepositoryNotFoundError:
            return False

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
        """The steps that `results.json` of a commit records, as parsed JSON; `None` if it cannot be read."""
        try:
            path = self.api.hf_hub_download(self.repo_id, RESULTS, revision=commit, repo_type=self.repo_type)
            return json.loads(Path(path).read_bytes())["steps"]
        except LocalEntryNotFoundError:
            # The client's name for a connection that failed, which says nothing about the file.
            raise
        except (EntryNotFoundError, ValueError, KeyError, TypeError):
            return None

    def record(self, step: int, commit: str, files: dict[str, RepoFile] | None = None) -> None:
        """Notes that `step` has been published as `commit`, now the head of `main` and the last step."""
        self.head = commit
        self.tags = {known: oid for known, oid in self.tags.items() if known < step} | {step: commit}
        if files is not None:
            self._trees[commit] = files
