"""Files, folders, commits and dates in the words of the Hub's API."""

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from dulwich.objects import Blob, Commit, Tree

from hub.local.git import GitRepository
from hub.local.lfs import Pointer


Entry = dict[str, Any]


def format_date(seconds: float) -> str:
    """Seconds since 1970 as the Hub writes dates, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def describe(path: str, found: Blob | Tree) -> Entry:
    """The file or folder at `path`; a large file has the size of its content and an `lfs` member."""
    oid = found.id.decode()
    if isinstance(found, Tree):
        return {"type": "directory", "path": path, "oid": oid, "size": 0}
    entry = {"type": "file", "path": path, "oid": oid, "size": len(found.data)}
    pointer = Pointer.parse(found.data)
    if pointer is None:
        return entry
    lfs = {"oid": pointer.oid, "size": pointer.size, "pointerSize": len(found.data)}
    return {**entry, "size": pointer.size, "lfs": lfs}


def describe_commit(commit: Commit) -> Entry:
    """A commit with its title (the first line of its message), the rest of the message, its author and date."""
    title, _, message = commit.message.decode(errors="replace").partition("\n")
    author = commit.author.decode(errors="replace").partition(" <")[0]
    return {
        "id": commit.id.decode(),
        "title": title,
        "message": message.strip(),
        "authors": [{"user": author}],
        "date": format_date(commit.commit_time),
    }


def add_last_commits(git: GitRepository, commit: Commit, entries: Iterable[Entry]) -> None:
    """Gives each entry of `commit` a `lastCommit`: the newest one that changed it."""
    pending = {entry["path"]: entry for entry in entries}
    for newer in git.history(commit):
        older = git.parent(newer)
        for path, entry in list(pending.items()):
            before = git.lookup(older, path) if older is not None else None
            if before is None or before.decode() != entry["oid"]:
                described = describe_commit(newer)
                pending.pop(path)["lastCommit"] = {key: described[key] for key in ("id", "title", "date")}
        if not pending:
            return
