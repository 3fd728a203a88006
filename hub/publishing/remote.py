"""The state of a run's repository: head of `main`, tags `step{t}`, and what a commit holds, without downloads."""

import json
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hub.publishing.destination import Destination, RepoType
from hub.publishing.local_file import LocalFile
from hub.run.errors import PublishError
from hub.run.layout import CARD_FILE, RESULTS_FILE, STEPS_FILE, step_number


# No part of a step: the Hub writes the first itself, it says how files are stored; the second is about all steps.
_OF_NO_STEP = (".gitattributes", STEPS_FILE)


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
    _history: list[str] | None = None

    @classmethod
    def read(cls, api: HfApi, repo_id: str, repo_type: RepoType = "model", private: bool = False) -> "RemoteRun":
        """Asks the Hub; see above for the arguments."""
        try:
            refs = api.list_repo_refs(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            return cls(api, repo_id, repo_type, private)
        head = next((branch.target_commit for branch in refs.branches if branch.name == "main"), None)
        tags = {step: tag.target_commit for tag in refs.tags if (step := step_number(tag.name)) is not None}
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
        """The files of a commit by path, except those that are no part of a step."""
        if commit is None:
            return {}
        if commit not in self._trees:
            tree = self.api.list_repo_tree(self.repo_id, recursive=True, revision=commit, repo_type=self.repo_type)
            self._trees[commit] = {
                item.path: item for item in tree if isinstance(item, RepoFile) and item.path not in _OF_NO_STEP
            }
        return self._trees[commit]

    def holds(self, commit: str | None, files: dict[str, LocalFile]) -> bool:
        """Whether a commit has exactly these files with these bytes."""
        remote = self.files(commit)
        return remote.keys() == files.keys() and all(files[path].equals(item) for path, item in remote.items())

    def history(self) -> list[str]:
        """The commits of `main`, oldest first."""
        if self._history is None:
            commits = []
            if self.head is not None:
                commits = self.api.list_repo_commits(self.repo_id, repo_type=self.repo_type, revision=self.head)
            self._history = [commit.commit_id for commit in reversed(commits)]
        return self._history

    def last_edit(self, step: int) -> str:
        """The last of the commits that follow a step on `main` and change its card alone; without one, the step's."""
        published, history = self.tags[step], self.history()
        following = history[history.index(published) + 1 :] if published in history else []
        steps = set(self.tags.values())
        edits = takewhile(lambda commit: commit not in steps and self._differ_in_card(published, commit), following)
        return [published, *edits][-1]

    def read_card(self, commit: str) -> str:
        """The text of the card of a commit."""
        path = self.api.hf_hub_download(self.repo_id, CARD_FILE, revision=commit, repo_type=self.repo_type)
        return Path(path).read_text(encoding="utf-8")

    def _differ_in_card(self, one: str, other: str) -> bool:
        """Whether two commits hold the same files, but for the content of the card."""
        blobs, others = ({path: file.blob_id for path, file in self.files(it).items()} for it in (one, other))
        return blobs == others | {CARD_FILE: blobs.get(CARD_FILE)} and CARD_FILE in others

    def steps_of(self, commit: str) -> Any:
        """The steps that `results.json` of a commit records, as parsed JSON; `None` if it cannot be read."""
        results = self.read_json(RESULTS_FILE, commit)
        return results.get("steps") if isinstance(results, dict) else None

    def read_json(self, name: str, commit: str) -> Any:
        """A file of a commit as parsed JSON; `None` if it is not there or is no JSON."""
        try:
            path = self.api.hf_hub_download(self.repo_id, name, revision=commit, repo_type=self.repo_type)
            return json.loads(Path(path).read_bytes())
        except LocalEntryNotFoundError:
            # The client's name for a connection that failed, which says nothing about the file.
            raise
        except (EntryNotFoundError, ValueError, RecursionError):
            return None

    def record(self, step: int, commit: str, files: dict[str, RepoFile] | None = None) -> None:
        """Notes that `step` has been published as `commit`, now the head of `main` and the last step."""
        if commit not in (history := self.history()):
            history.append(commit)
        self.head = commit
        self.tags = {known: oid for known, oid in self.tags.items() if known < step} | {step: commit}
        if files is not None:
            self._trees[commit] = files
