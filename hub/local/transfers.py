"""Routes of the local Hub that move file content: downloads, and uploads of large files through Git LFS."""

import hashlib
import hmac
import math
import re
import secrets
from typing import Any

from hub.local.http import FileRange, HubError, Request, Response, Router, member
from hub.local.lfs import Pointer, check_sha256
from hub.local.store import Repository, Store


router = Router()

PART_BYTES = 64 << 20

_ID = r"(?:/(?P<kind>datasets|spaces))?/(?P<repo_id>[^/]+/[^/]+)"
_OBJECT = _ID + r"\.git/info/lfs/objects/(?P<oid>[0-9a-f]{64})/(?P<size>[0-9]{1,18})"
_PARTS = _OBJECT + r"/parts/(?P<upload>[0-9a-f]{32})"
_LFS_JSON = {"Content-Type": "application/vnd.git-lfs+json"}
# Links signed with it are permits to upload one object; they end with the process.
_SECRET = secrets.token_bytes(32)


@router.route("GET", _ID + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def download(store: Store, request: Request, repo_id: str, revision: str, path: str, kind: str = "models") -> Response:
    """The content of a file at a revision, or the part of it that a `Range` header asks for."""
    repository = store.open(kind, repo_id, request.account)
    with repository.git() as git:
        commit = git.find(revision)
        headers = {"X-Repo-Commit": commit.id.decode(), "Accept-Ranges": "bytes"}
        blob = git.lookup(commit, path)
        if blob is None or git.is_folder(blob):
            raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound", headers)
        content = git.read(blob)
    headers |= {"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff"}
    pointer = Pointer.parse(content)
    if pointer is None:
        return _partial(request, content, len(content), {**headers, "ETag": f'"{blob.decode()}"'})
    etag = f'"{pointer.oid}"'
    headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(pointer.size)}
    stored = FileRange(repository.blobs.path(pointer.oid), 0, pointer.size)
    return _partial(request, stored, pointer.size, headers)


def _partial(request: Request, body: bytes | FileRange, size: int, headers: dict[str, str]) -> Response:
    asked = _range(request.headers.get("Range"), size)
    if asked is None:
        return Response(200, body, headers)
    start, stop = asked
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    part = body[start:stop] if isinstance(body, bytes) else FileRange(body.path, start, stop - start)
    return Response(206, part, headers)


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Half-open byte range that a header asks for; `None` if it asks for the whole or in another form.

    Raises `HubError` 416 if the file is too short for it.
    """
    match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise HubError(416, f"{header}: the file has {size} bytes", headers={"Content-Range": f"bytes */{size}"})
    return start, stop


@router.route("POST", _ID + r"\.git/info/lfs/objects/batch")
def plan_transfers(store: Store, request: Request, repo_id: str, kind: str = "models") -> Response:
    """For each large file, links to upload it, or nothing if it is stored already."""
    repository = store.open(kind, repo_id, request.account, write=True)
    payload = request.json()
    if payload.get("operation") != "upload":
        raise HubError(400, f"LFS operation {payload.get('operation')!r:.80}: expected 'upload'")
    pointers = [_pointer(item) for item in member(payload, "objects", list)]
    # One answer has one kind of transfer: parts as soon as one object is too long for a single request.
    parts = "multipart" in payload.get("transfers", ()) and any(item.size > PART_BYTES for item in pointers)
    objects = [_transfer(repository, request.endpoint, item, parts) for item in pointers]
    answer = {"transfer": "multipart" if parts else "basic", "objects": objects}
    return Response.of_json(answer, headers=_LFS_JSON)


def _pointer(item: Any) -> Pointer:
    if not isinstance(item, dict):
        raise HubError(400, f"'objects' has {item!r:.80}: expected objects")
    pointer = Pointer(check_sha256(member(item, "oid", str)), member(item, "size", int))
    if pointer.size < 0:
        raise HubError(400, f"LFS object {pointer.oid}: size is {pointer.size}, expected >= 0")
    return pointer


def _transfer(repository: Repository, endpoint: str, pointer: Pointer, parts: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"oid": pointer.oid, "size": pointer.size}
    if repository.blobs.size(pointer.oid) == pointer.size:
        return answer
    base = f"/{repository.url_path}.git/info/lfs"
    target = f"{base}/objects/{pointer.oid}/{pointer.size}"
    header: dict[str, str] = {}
    if parts:
        target = f"{target}/parts/{secrets.token_hex(16)}"
        header["chunk_size"] = str(PART_BYTES)
        for number in range(1, math.ceil(pointer.size / PART_BYTES) + 1):
            header[str(number)] = _signed(endpoint, f"{target}/{number}")
    upload = {"href": _signed(endpoint, target), "header": header}
    return {**answer, "actions": {"upload": upload, "verify": {"href": f"{endpoint}{base}/verify"}}}


def _signature(path: str) -> str:
    return hmac.new(_SECRET, path.encode(), hashlib.sha256).hexdigest()


def _signed(endpoint: str, path: str) -> str:
    return f"{endpoint}{path}?signature={_signature(path)}"


def _permitted(store: Store, request: Request, kind: str, repo_id: str) -> Repository:
    """The repository of a signed link, which carries no token; raises `HubError` 403 for any other signature."""
    given = request.query.get("signature", [""])[-1]
    if not hmac.compare_digest(given.encode(), _signature(request.path).encode()):
        raise HubError(403, "this upload link is not valid (any more): start the upload again")
    return store.repository(kind, repo_id)


@router.route("PUT", _OBJECT)
def upload_object(store: Store, request: Request, repo_id: str, oid: str, size: str, kind: str = "models") -> Response:
    """Store a large file from a single request."""
    _permitted(store, request, kind, repo_id).blobs.add(Pointer(oid, int(size)), request.body.chunks())
    return Response()


@router.route("PUT", _PARTS + r"/(?P<number>[1-9][0-9]{0,8})")
def upload_part(
    store: Store, request: Request, repo_id: str, oid: str, size: str, upload: str, number: str, kind: str = "models"
) -> Response:
    """Receive one part of a large file, again if it came before."""
    repository = _permitted(store, request, kind, repo_id)
    offset = (int(number) - 1) * PART_BYTES
    expected = min(PART_BYTES, int(size) - offset)
    if request.body.length != expected:
        raise HubError(400, f"part {number} of LFS object {oid} has {request.body.length} bytes, expected {expected}")
    repository.blobs.write_part(upload, offset, request.body.chunks())
    return Response(headers={"ETag": f'"{upload}-{number}"'})


@router.route("POST", _PARTS)
def finish_parts(
    store: Store, request: Request, repo_id: str, oid: str, size: str, upload: str, kind: str = "models"
) -> Response:
    """Store a large file of which all parts have come."""
    _permitted(store, request, kind, repo_id).blobs.finish(upload, Pointer(oid, int(size)))
    return Response.of_json({"success": True}, headers=_LFS_JSON)


@router.route("POST", _ID + r"\.git/info/lfs/verify")
def verify_object(store: Store, request: Request, repo_id: str, kind: str = "models") -> Response:
    """Confirm that a large file is stored."""
    repository = store.open(kind, repo_id, request.account, write=True)
    pointer = _pointer(request.json())
    if repository.blobs.size(pointer.oid) != pointer.size:
        raise HubError(404, f"LFS object {pointer.oid} of {pointer.size} bytes is not stored: upload it again")
    return Response()


@router.route("GET", r"/api/(?:models|datasets|spaces)/(?P<name>[^/]+)(?:/revision/[^/]+)?")
@router.route("GET", r"(?:/(?:datasets|spaces))?/(?P<name>[^/]+)/resolve/[^/]+/.+")
def no_namespace(store: Store, request: Request, name: str) -> Response:
    """Repositories without a namespace: there are none."""
    raise HubError(404, f"Repository not found: {name} (expected namespace/name)", "RepoNotFound")
