"""One bare git repository of the local Hub: revisions, files, commits and refs, through dulwich."""

import re
import stat
import time
from collections.abc import Iterator, Mapping
from itertools import tee, zip_longest
from pathlib import Path
from types import TracebackType

from dulwich.index import commit_tree
from dulwich.object_store import iter_tree_contents
from dulwich.objects import Blob, Commit, ObjectID, Tag, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

from hub.local.http import HubError
from hub.local.names import check_ref, encode


MAIN = "main"
HEADS = "refs/heads/"
TAGS = "refs/tags/"

Files = dict[str, ObjectID]


class GitRepository:
    """A bare git repository whose commits are written directly, without a working tree.

    Objects and refs are written aside and renamed by dulwich, objects first: whenever the process dies, every ref
    still names a complete commit. Writers of the same repository must take turns; readers need no lock.
    """

    def __init__(self, path: Path) -> None:
        self._repo = Repo(str(path))
        self._store = self._repo.object_store
        self._refs = self._repo.refs

    def __enter__(self) -> "GitRepository":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._repo.close()

    @staticmethod
    def create(path: Path, files: Mapping[str, bytes], author: str) -> None:
        """Make a repository at the new folder `path`, with one commit of `files` on `main`."""
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
        for prefix in (HEADS, TAGS, ""):
            # dulwich answers None for a name that is no valid ref, so `..` leads nowhere.
            value = self._refs.read_ref(Ref(encode(prefix + revision)))
            commit = self._peel(ObjectID(value)) if value else None
            if commit is not None:
                return commit
        named = re.fullmatch(r"[0-9a-f]{40}", revision) and self._peel(ObjectID(revision.encode()))
        if not named:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return named

    def head(self, branch: str) -> Commit:
        """The last commit of `branch`; raises `HubError` 404 if there is none, 400 if it names no branch."""
        value = self._refs.read_ref(Ref(encode(HEADS + branch)))
        commit = self._peel(ObjectID(value)) if value else None
        if commit is None:
            self.find(branch)
            raise HubError(400, f"revision {branch!r} is not a branch: commits go to branches only")
        return commit

    def _peel(self, object_id: ObjectID) -> Commit | None:
        try:
            found = self._store[object_id]
            while isinstance(found, Tag):
                found = self._store[found.object[1]]
        except KeyError:
            return None
        return found if isinstance(found, Commit) else None

    def refs(self, prefix: str) -> dict[str, Commit]:
        """The commits of all branches (`HEADS`) or tags (`TAGS`) by name, sorted."""
        found = {}
        for name, value in sorted(self._refs.as_dict(Ref(encode(prefix.rstrip("/")))).items()):
            commit = self._peel(value)
            if commit is not None:
                found[name.decode()] = commit
        return found

    def history(self, commit: Commit) -> Iterator[Commit]:
        """Yield `commit` and its ancestors, newest first (histories here are linear)."""
        while True:
            yield commit
            parent = self._peel(commit.parents[0]) if commit.parents else None
            if parent is None:
                return
            commit = parent

    def history_pairs(self, commit: Commit) -> Iterator[tuple[Commit, Commit | None]]:
        """Yield each commit of the history with the one before it, `None` for the first."""
        newer, older = tee(self.history(commit))
        next(older)
        return zip_longest(newer, older)

    def files(self, commit: Commit) -> Files:
        """The blob of every file of `commit`, by path."""
        entries = iter_tree_contents(self._store, commit.tree)
        return {entry.path.decode(): entry.sha for entry in entries if entry.path and entry.sha}

    def entries(self, commit: Commit, folder: str, recursive: bool) -> dict[str, ObjectID] | None:
        """The files and folders below `folder` (`""`: the root) by path; `None` if there is no such folder.

        Without `recursive`, only the direct members. Folders are told from files by `is_folder` of their object.
        """
        root = commit.tree if not folder else self.lookup(commit, folder)
        if root is None or not self.is_folder(root):
            return None
        prefix = f"{folder}/" if folder else ""
        if recursive:
            found = iter_tree_contents(self._store, root, include_trees=True)
        else:
            tree = self._store[root]
            assert isinstance(tree, Tree)
            found = tree.iteritems(name_order=True)
        return {prefix + entry.path.decode(): entry.sha for entry in found if entry.path and entry.sha}

    def lookup(self, commit: Commit, path: str) -> ObjectID | None:
        """The object of a file or folder of `commit`, or `None`."""
        current: ObjectID = commit.tree
        for part in path.split("/"):
            tree = self._store[current]
            if not isinstance(tree, Tree) or encode(part) not in tree:
                return None
            current = tree[encode(part)][1]
        return current

    def is_folder(self, object_id: ObjectID) -> bool:
        """Whether the object is a folder."""
        return isinstance(self._store[object_id], Tree)

    def read(self, object_id: ObjectID) -> bytes:
        """The content of a blob."""
        blob = self._store[object_id]
        assert isinstance(blob, Blob)
        return blob.data

    def add_blob(self, content: bytes) -> ObjectID:
        """Store `content`; until a commit names it, it is invisible."""
        blob = Blob.from_string(content)
        self._store.add_object(blob)
        return blob.id

    def commit(self, branch: str, parent: Commit | None, files: Files, author: str, message: str) -> Commit:
        """Put `files` on `branch` as a child of `parent`; the parent itself if it already has this very content.

        The ref is written last. Raises `HubError` 400 if a path is both a file and a folder.
        """
        tree = commit_tree(
            self._store, [(encode(path), blob, _FILE_MODE) for path, blob in _consistent(files).items()]
        )
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
        """Name `commit` by a new branch or tag, a tag with a `message` being annotated; raises `HubError` 409."""
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
        """Forget a branch or tag; raises `HubError` 404 RevisionNotFound if there is none."""
        ref = Ref(encode(prefix + name))
        if self._refs.read_ref(ref) is None:
            raise HubError(404, f"Reference does not exist: {prefix}{name}", "RevisionNotFound")
        self._refs.remove_if_equals(ref, None)


_FILE_MODE = stat.S_IFREG | 0o644


def _identity(account: str) -> bytes:
    return f"{account} <{account}@localhost>".encode()


def _consistent(files: Files) -> Files:
    for path in files:
        for end, character in enumerate(path):
            if character == "/" and path[:end] in files:
                raise HubError(400, f"{path[:end]!r} cannot be both a file and a folder (of {path!r})")
    return files
