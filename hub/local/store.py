"""
A folder of repositories: what the local Hub keeps on disk, and how that survives being killed.

FOLDER/lock                                   held while a server runs
FOLDER/incoming/                              repositories being made or deleted
FOLDER/models/NAMESPACE/NAME/repository.json  visibility and date of creation
FOLDER/models/NAMESPACE/NAME/git/             a bare git repository
FOLDER/models/NAMESPACE/NAME/lfs/ab/abcd...   large files by SHA-256
FOLDER/models/NAMESPACE/NAME/incoming/        uploads that are not complete yet
"""

import fcntl
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from hub.local.accounts import Account, check_may_write
from hub.local.errors import HubError
from hub.local.git import GitRepository
from hub.local.lfs import DEFAULT_GITATTRIBUTES, BlobStore
from hub.local.names import REPO_TYPES, check_repo_id


@dataclass(frozen=True)
class Settings:
    """What a repository has besides its content; `created_at` is in seconds since 1970."""

    private: bool
    created_at: float


class Repository:
    """
    One repository in `folder`: its settings, its git repository and its large files.

    `kind` is `"models"`, `"datasets"` or `"spaces"`, `repo_id` is `namespace/name`; who changes it holds `lock`.
    """

    def __init__(self, kind: str, repo_id: str, folder: Path, lock: threading.Lock) -> None:
        self.kind = kind
        self.repo_id = repo_id
        self.folder = folder
        self._lock = lock
        self.incoming = folder / "incoming"
        self.blobs = BlobStore(folder / "lfs", self.incoming)

    @property
    def url_path(self) -> str:
        """The repository's page, relative to the endpoint."""
        return self.repo_id if self.kind == "models" else f"{self.kind}/{self.repo_id}"

    def git(self) -> GitRepository:
        """Opens the git repository for reading; close it with `with`."""
        return GitRepository(self.folder / "git")

    @contextmanager
    def writing(self) -> Iterator[GitRepository]:
        """Opens the git repository while no one else changes anything; raises `HubError` 404 if it was deleted."""
        with self._lock:
            if not self.folder.exists():
                raise HubError(404, f"Repository not found: {self.repo_id}", "RepoNotFound")
            with self.git() as git:
                yield git

    @property
    def settings(self) -> Settings:
        """The settings on disk."""
        return Settings(**json.loads((self.folder / "repository.json").read_bytes()))

    def set_private(self, private: bool) -> None:
        """Changes the visibility."""
        with self.writing():
            _write_settings(self.folder, Settings(private, self.settings.created_at))


class Store:
    """
    All repositories of a folder, which one process at a time may serve.

    Args:
        folder (`Path`): the folder; made if it does not exist.

    Raises:
        `BlockingIOError`: another process serves the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"
        self._locks: dict[Path, threading.Lock] = {}
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._lock_file = _lock(folder / "lock")
        self._clean_up()

    def close(self) -> None:
        """Lets another process serve the folder."""
        self._lock_file.close()

    def _clean_up(self) -> None:
        """Removes what a killed server was still writing: nothing refers to it."""
        _empty(self._incoming)
        for kind in REPO_TYPES:
            for settings in self._folder.glob(f"{kind}/*/*/repository.json"):
                repository = settings.parent
                _empty(repository / "incoming")
                for leftover in (*repository.glob("*.aside"), *(repository / "git").rglob("*.lock")):
                    leftover.unlink()

    def repository(self, kind: str, repo_id: str) -> Repository:
        """The repository, whether or not it exists and whoever asks; raises `HubError` 400 for an invalid id."""
        folder = self._folder / kind / check_repo_id(repo_id)
        return Repository(kind, repo_id, folder, self._locks.setdefault(folder, threading.Lock()))

    def open(self, kind: str, repo_id: str, account: Account | None, write: bool = False) -> Repository:
        """
        The repository, for reading or for writing.

        Raises:
            `HubError`: 404 (401 without an account) RepoNotFound if it does not exist or is hidden from the account,
                401 or 403 if it is visible but the account may not write to it.
        """
        repository = self.repository(kind, repo_id)
        member = account is not None and account.belongs_to(repo_id.split("/")[0])
        try:
            hidden = repository.settings.private and not member
        except FileNotFoundError:
            hidden = True
        if hidden:
            raise HubError(401 if account is None else 404, f"Repository not found: {repo_id}", "RepoNotFound")
        if write:
            check_may_write(account, repo_id)
        return repository

    def create(self, repository: Repository, author: str, private: bool) -> None:
        """Makes a repository with its first commit, complete or not at all; raises `FileExistsError` if it exists."""
        aside = self._incoming / uuid.uuid4().hex
        GitRepository.create(aside / "git", {".gitattributes": DEFAULT_GITATTRIBUTES}, author)
        (aside / "lfs").mkdir()
        (aside / "incoming").mkdir()
        _write_settings(aside, Settings(private, time.time()))
        repository.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.rename(repository.folder)
        except OSError:
            shutil.rmtree(aside)
            if not repository.folder.exists():
                raise
            raise FileExistsError(f"You already created this repository: {repository.url_path}") from None

    def delete(self, repository: Repository) -> None:
        """Removes a repository, in one step as seen from outside."""
        aside = self._incoming / uuid.uuid4().hex
        with repository.writing():
            repository.folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _write_settings(folder: Path, settings: Settings) -> None:
    aside = folder / f"{uuid.uuid4().hex}.aside"
    with open(aside, "xb") as file:
        file.write(json.dumps(asdict(settings)).encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, folder / "repository.json")


def _lock(path: Path) -> BinaryIO:
    file = open(path, "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BlockingIOError(
            f"{path.parent} is served by another process: stop it or choose another folder"
        ) from None
    return file


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
