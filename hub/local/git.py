"""One bare git repository of the local Hub: revisions, files, commits and refs, through dulwich."""

import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from dulwich.index import commit_tree
from dulwich.object_store import iter_tree_contents, peel_sha
from dulwich.objects import Blob, Commit, ObjectID, Tag, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

from hub.local.errors import HubError
from hub.local.names import check_ref, encode


MAIN = "main"
HEADS = "refs/heads/"
TAGS = "refs/tags/"

_FILE_MODE = stat.S_IFREG | 0o644

Files = dict[str, ObjectID]


class GitRepository:
    """
    A bare git repository whose commits are written directly, without a working tree; closed by `with`.

    Objects and refs are written aside and renamed by dulwich, objects first: whenever the process dies, every ref
    still names a complete commit. Writers of the same repository must take turns; readers need no lock.
    """

    def __init__(self, path: Path) -> None:
        self._repo = Repo(str(path))
        self._store = self._repo.object_store
        self._refs = self._repo.refs

    def __enter__(self) -> "GitRepository":
        return self

    def __exit__(self, *_: object) -> None:
        self._repo.close()

    @staticmethod
    def create(path: Path, files: Mapping[str, bytes], author: str) -> None:
        """Makes a repository at the new folder `path`, with one commit of `files` on `main`."""
        path.mkdir(parents=True)
        repo = Repo.init_bare(str(path), default_branch=encode(MAIN))
        config = repo.get_config()
        # dulwich flushes refs to disk; what they name must not be less durable.
        config.set((b"core",), b"fsyncObjectFiles", b"true")
        config.write_to_path()
        repo.close()
        with GitRepository(path) as git:
            blobs = {name: git.add_blob(content) for name, content in files.items()}
            git.commit(MAIN, None, blobs, author, "initial commit")

    def find(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a full ref or a 40-digit commit id; raises `HubError` 404 otherwise."""
        commits = (self._read_ref(prefix + revision) for prefix in (HEADS, TAGS, ""))
        commit = next(filter(None, commits), None)
        if commit is None and re.fullmatch(r"[0-9a-f]{40}", revision):
            commit = self._peel(ObjectID(revision.encode()))
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def head(self, branch: str) -> Commit:
        """The last commit of `branch`; raises `HubError` 404 if there is none, 400 if it names no branch."""
        commit = self._read_ref(HEADS + branch)
        if commit is None:
            self.find(branch)
            raise HubError(400, f"revision {branch!r} is not a branch: commits go to branches only")
        return commit

    def _read_ref(self, name: str) -> Commit | None:
        # dulwich returns None for an invalid name, so `..` leads nowhere.
        value = self._refs.read_ref(Ref(encode(name)))
        return self._peel(ObjectID(value)) if value else None

    def _peel(self, object_id: ObjectID) -> Commit | None:
        try:
            _, found = peel_sha(self._store, object_id)
        except KeyError:
            return None
        return found if isinstance(found, Commit) else None

    def refs(self, prefix: str) -> dict[str, Commit]:
        """The commits of all branches (`HEADS`) or tags (`TAGS`) by name, sorted."""
        values = sorted(self._refs.as_dict(Ref(encode(prefix.rstrip("/")))).items())
        commits = ((name.decode(), self._peel(value)) for name, value in values)
        return {name: commit for name, commit in commits if commit is not None}

    def parent(self, commit: Commit) -> Commit | None:
        """The commit before `commit`, `None` for the first (histories here are linear)."""
        return self._peel(commit.parents[0]) if commit.parents else None

    def history(self, commit: Commit) -> Iterator[Commit]:
        """Yields `commit` and its ancestors, newest first."""
        current: Commit | None = commit
        while current is not None:
            yield current
            current = self.parent(current)

    def files(self, commit: Commit) -> Files:
        """The blob of every file of `commit`, by path."""
        entries = iter_tree_contents(self._store, commit.tree)
        return {entry.path.decode(): entry.sha for entry in entries if entry.path and entry.sha}

    def entries(self, commit: Commit, folder: str, recursive: bool) -> Files | None:
        """The members of `folder` (`""`: the root) by path, or all that is below it; `None` if it is no folder."""
        root = self.lookup(commit, folder)
        tree = self.read(root) if root is not None else None
        if not isinstance(tree, Tree):
            return None
        if recursive:
            found = iter_tree_contents(self._store, tree.id, include_trees=True)
        else:
            found = tree.iteritems(name_order=True)
        prefix = f"{folder}/" if folder else ""
        return {prefix + entry.path.decode(): entry.sha for entry in found if entry.path and entry.sha}

    def lookup(self, commit: Commit, path: str) -> ObjectID | None:
        """The object of a file or folder of `commit` (`""`: the root), or `None`."""
        current: ObjectID = commit.tree
        for name in path.split("/") if path else ():
            tree = self._store[current]
            if not isinstance(tree, Tree) or encode(name) not in tree:
                return None
            current = tree[encode(name)][1]
        return current

    def read(self, object_id: ObjectID) -> Blob | Tree:
        """The file or folder that is stored as `object_id`."""
        found = self._store[object_id]
        assert isinstance(found, Blob | Tree)
        return found

    def find_file(self, commit: Commit, path: str) -> Blob | None:
        """The file at `path` of `commit`, or `None`."""
        object_id = self.lookup(commit, path)
        found = self.read(object_id) if object_id is not None else None
        return found if isinstance(found, Blob) else None

    def add_blob(self, content: bytes) -> ObjectID:
        """Stores `content`, which is invisible until a commit names it."""
        blob = Blob.from_string(content)
        self._store.add_object(blob)
        return blob.id

    def commit(self, branch: str, parent: Commit | None, files: Files, author: str, message: str) -> Commit:
        """
        Puts `files` on `branch` as a child of `parent`. The ref is written last.

        Returns:
            `Commit`: the new commit, or `parent` if that has the same content.

        Raises:
            `HubError`: 400, a path is both a file and a folder.
        """
        _refuse_files_as_folders(files)
        tree = commit_tree(self._store, [(encode(path), blob, _FILE_MODE) for path, blob in files.items()])
        if parent is not None and parent.tree == tree:
            return parent
        commit = Commit()
        commit.tree = tree
        commit.parents = [parent.id] if parent is not None else []
        commit.author = commit.committer = _identity(author)
        commit.author_time = commit.commit_time = int(time.time())
        commit.author_timezone = commit.commit_timezone = 0
        commit.encoding = b"UTF-8"
        commit.message = encode(message)
        self._store.add_object(commit)
        self._refs.set_if_equals(Ref(encode(HEADS + branch)), None, commit.id)
        return commit

    def create_ref(self, prefix: str, name: str, commit: Commit, author: str, message: str = "") -> None:
        """Creates a branch or tag, annotated if it has a `message`; raises `HubError` 409 if it exists."""
        check_ref(name)
        for known in self.refs(prefix):
            if known == name or known.startswith(f"{name}/") or name.startswith(f"{known}/"):
                raise HubError(409, f"Reference already exists: {prefix}{known}")
        target = self._add_tag(name, commit, author, message) if message else commit.id
        self._refs.set_if_equals(Ref(encode(prefix + name)), None, target)

    def _add_tag(self, name: str, commit: Commit, author: str, message: str) -> ObjectID:
        tag = Tag()
        tag.name = encode(name)
        tag.message = encode(message)
        tag.tagger = _identity(author)
        tag.tag_time = int(time.time())
        tag.tag_timezone = 0
        tag.object = (Commit, commit.id)
        self._store.add_object(tag)
        return tag.id

    def delete_ref(self, prefix: str, name: str) -> None:
        """Deletes a branch or tag; raises `HubError` 404 if there is none."""
        ref = Ref(encode(prefix + name))
        if self._refs.read_ref(ref) is None:
            raise HubError(404, f"Reference does not exist: {prefix}{name}", "RevisionNotFound")
        self._refs.remove_if_equals(ref, None)


def _identity(account: str) -> bytes:
    return f"{account} <{account}@localhost>".encode()


def _refuse_files_as_folders(files: Files) -> None:
    for path in files:
        for folder in map(str, PurePosixPath(path).parents):
            if folder in files:
                raise HubError(400, f"{folder!r} cannot be both a file and a folder (of {path!r})")
