"""Files, folders, commits and dates in the words of the Hub's API."""

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from dulwich.objects import Commit, ObjectID

from hub.local.git import GitRepository
from hub.local.lfs import Pointer


Entry = dict[str, Any]


def format_date(seconds: float) -> str:
    """Seconds since 1970 as the Hub writes dates, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def describe(git: GitRepository, path: str, object_id: ObjectID) -> Entry:
    """The file or folder at `path`; a large file has the size of its content and an `lfs` member."""
    oid = object_id.decode()
    if git.is_folder(object_id):
        return {"type": "directory", "path": path, "oid": oid, "size": 0}
    content = git.read(object_id)
    pointer = Pointer.parse(content)
    if pointer is None:
        return {"type": "file", "path": path, "oid": oid, "size": len(content)}
    lfs = {"oid": pointer.oid, "size": pointer.size, "pointerSize": len(content)}
    return {"type": "file", "path": path, "oid": oid, "size": pointer.size, "lfs": lfs}


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
    """Give each entry of `commit` a `lastCommit`: the newest one that changed it."""
    pending = {entry["path"]: entry for entry in entries}
    for newer, older in git.history_pairs(commit):
        for path, entry in list(pending.items()):
            before = git.lookup(older, path) if older is not None else None
            if before is None or before.decode() != entry["oid"]:
                described = describe_commit(newer)
                pending.pop(path)["lastCommit"] = {key: described[key] for key in ("id", "title", "date")}
        if not pending:
            return
