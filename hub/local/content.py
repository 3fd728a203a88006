"""Routes of the local Hub about the content of a repository: listing files and committing changes."""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from itertools import islice
from tempfile import TemporaryFile
from typing import Any, BinaryIO
from urllib.parse import parse_qs

from dulwich.ignore import IgnoreFilter, read_ignore_patterns
from dulwich.objects import Commit

from hub.local import xet
from hub.local.describe import add_last_commits, describe
from hub.local.errors import HubError
from hub.local.git import Files, GitRepository
from hub.local.http import API, MAX_JSON_BYTES, Request, Response, Router, member, parse_object
from hub.local.lfs import MAX_REGULAR_BYTES, Pointer, is_large
from hub.local.names import check_path
from hub.local.store import Repository


router = Router()

ENTRIES_PER_PAGE = 1000

Payload = Mapping[str, Any]


@router.repository_route("GET", API + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?")
def list_tree(repository: Repository, request: Request, revision: str, path: str = "") -> Response:
    """One page of the files and folders below a folder."""
    start = request.number("cursor")
    end = start + ENTRIES_PER_PAGE
    with repository.git() as git:
        commit = git.find(revision)
        found = git.entries(commit, path.strip("/"), request.flag("recursive"))
        if found is None:
            raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        entries = [describe(name, git.read(object_id)) for name, object_id in islice(found.items(), start, end)]
        if request.flag("expand"):
            add_last_commits(git, commit, entries)
    return Response.of_json(entries, headers=request.link_to(cursor=end) if end < len(found) else {})


@router.repository_route("POST", API + r"/paths-info/(?P<revision>[^/]+)")
def list_paths(repository: Repository, request: Request, revision: str) -> Response:
    """The files and folders of a form's `paths`; what does not exist is left out."""
    form = parse_qs(request.body.read().decode(errors="replace"))
    with repository.git() as git:
        commit = git.find(revision)
        found = {path: git.lookup(commit, path) for path in form.get("paths", [])}
        entries = [describe(path, git.read(object_id)) for path, object_id in found.items() if object_id is not None]
        if form.get("expand", [""])[-1].lower() == "true":
            add_last_commits(git, commit, entries)
    return Response.of_json(entries)


@router.repository_route("POST", API + r"/preupload/(?P<revision>[^/]+)", write=True)
def plan_upload(repository: Repository, request: Request, revision: str) -> Response:
    """How each file is to be uploaded, and what is already there in its place."""
    _refuse_pull_request(request)
    payload = request.json()
    files = member(payload, "files", list)
    with repository.git() as git:
        commit = git.head(revision)
        ignored = _ignored(payload, git, commit)
        attributes = _read_file(git, commit, ".gitattributes")
        plans = [_plan(file, git, commit, ignored, attributes) for file in files]
    return Response.of_json({"files": plans})


def _refuse_pull_request(request: Request) -> None:
    if request.flag("create_pr"):
        raise HubError(400, "the local Hub has no pull requests: commit to a branch instead")


def _ignored(payload: Payload, git: GitRepository, commit: Commit) -> IgnoreFilter:
    given = payload.get("gitIgnore")
    content = given.encode() if isinstance(given, str) else _read_file(git, commit, ".gitignore")
    return IgnoreFilter(read_ignore_patterns(BytesIO(content)))


def _read_file(git: GitRepository, commit: Commit, path: str) -> bytes:
    blob = git.find_file(commit, path)
    return blob.data if blob is not None else b""


def _plan(file: Any, git: GitRepository, commit: Commit, ignored: IgnoreFilter, attributes: bytes) -> dict[str, Any]:
    if not isinstance(file, dict):
        raise HubError(400, f"'files' has {file!r:.80}: expected objects")
    path = check_path(member(file, "path", str))
    sample = _decode(member(file, "sample", str), path) if "sample" in file else b""
    large = is_large(path, member(file, "size", int), sample, attributes)
    plan = {
        "path": path,
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": bool(ignored.is_ignored(path)),
    }
    current = git.find_file(commit, path)
    if current is not None:
        entry = describe(path, current)
        plan["oid"] = entry.get("lfs", entry)["oid"]
    return plan


def _decode(text: str, path: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise HubError(400, f"the content of {path!r} is not valid base64") from None


@router.repository_route("POST", API + r"/commit/(?P<revision>[^/]+)", write=True)
def create_commit(repository: Repository, request: Request, revision: str) -> Response:
    """Applies a list of changes to a branch as one commit; none is made if they change nothing."""
    _refuse_pull_request(request)
    with TemporaryFile(dir=repository.incoming) as spool:
        # Received before the repository is locked: a slow client must not keep others waiting.
        for chunk in request.body.chunks():
            spool.write(chunk)
        spool.seek(0)
        with repository.writing() as git:
            commit = _commit(repository, git, revision, request.author, spool)
    oid = commit.id.decode()
    url = f"{request.endpoint}/{repository.url_path}/commit/{oid}"
    return Response.of_json({"success": True, "commitUrl": url, "commitOid": oid, "hookOutput": ""})


def _commit(repository: Repository, git: GitRepository, branch: str, author: str, spool: BinaryIO) -> Commit:
    items = _items(spool)
    key, header = next(items, ("", {}))
    if key != "header":
        raise HubError(400, f"a commit begins with its header, got {key!r}")
    parent = git.head(branch)
    expected = header.get("parentCommit")
    if expected and expected != parent.id.decode():
        raise HubError(412, f"A commit has happened since {expected}: {branch!r} is at {parent.id.decode()}")
    files = git.files(parent)
    for key, value in items:
        if key not in _CHANGES:
            raise HubError(400, f"change {key!r} is unknown: expected one of {', '.join(_CHANGES)}")
        _CHANGES[key](repository, git, files, value)
    message = f"{member(header, 'summary', str)}\n\n{header.get('description') or ''}".strip() + "\n"
    return git.commit(branch, parent, files, author, message)


def _items(spool: BinaryIO) -> Iterator[tuple[str, Payload]]:
    while line := spool.readline(MAX_JSON_BYTES + 1):
        if len(line) > MAX_JSON_BYTES:
            raise HubError(413, f"a line of the request is longer than {MAX_JSON_BYTES} bytes: send it as LFS")
        if line.strip():
            item = parse_object(line)
            yield member(item, "key", str), member(item, "value", dict)


def _put_file(repository: Repository, git: GitRepository, files: Files, value: Payload) -> None:
    path = check_path(member(value, "path", str))
    content = _decode(member(value, "content", str), path)
    if len(content) > MAX_REGULAR_BYTES:
        raise HubError(400, f"{path!r} has {len(content)} bytes: upload files over {MAX_REGULAR_BYTES} bytes as LFS")
    if Pointer.parse(content):
        raise HubError(400, f"{path!r} is an LFS pointer: upload the file that it stands for")
    files[path] = git.add_blob(content)


def _put_large_file(repository: Repository, git: GitRepository, files: Files, value: Payload) -> None:
    path, oid = check_path(member(value, "path", str)), member(value, "oid", str)
    if repository.blobs.size(oid) is None:
        xet.receive(repository, oid)
    size = repository.blobs.size(oid)
    if size is None or size != value.get("size", size):
        raise HubError(400, f"{path!r}: LFS object {oid} of that size was not uploaded")
    files[path] = git.add_blob(Pointer(oid, size).to_bytes())


def _delete_file(repository: Repository, git: GitRepository, files: Files, value: Payload) -> None:
    path = member(value, "path", str)
    if files.pop(path, None) is None:
        raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")


def _delete_folder(repository: Repository, git: GitRepository, files: Files, value: Payload) -> None:
    folder = member(value, "path", str).strip("/") + "/"
    inside = [path for path in files if path.startswith(folder)]
    if not inside:
        raise HubError(404, f"A folder with this name doesn't exist: {folder}", "EntryNotFound")
    for path in inside:
        del files[path]


_CHANGES: dict[str, Callable[[Repository, GitRepository, Files, Payload], None]] = {
    "file": _put_file,
    "lfsFile": _put_large_file,
    "deletedFile": _delete_file,
    "deletedFolder": _delete_folder,
}
