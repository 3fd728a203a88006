"""Routes of the local Hub that move file content: downloads, and uploads of large files through Git LFS."""

import hashlib
import hmac
import math
import re
import secrets
from typing import Any

from hub.local.errors import HubError
from hub.local.http import FileRange, Request, Response, Router, member
from hub.local.lfs import Pointer
from hub.local.store import Repository, Store


router = Router()

PART_BYTES = 64 << 20

_ID = r"(?:/(?P<kind>datasets|spaces))?/(?P<repo_id>[^/]+/[^/]+)"
_LFS = _ID + r"\.git/info/lfs"
_OBJECT = _LFS + r"/objects/(?P<oid>[0-9a-f]{64})/(?P<size>[0-9]{1,18})"
_PARTS = _OBJECT + r"/parts/(?P<upload>[0-9a-f]{32})"
_LFS_JSON = {"Content-Type": "application/vnd.git-lfs+json"}
# Links signed with it are permits to upload one object; they end with the process.
_SECRET = secrets.token_bytes(32)


@router.repository_route("GET", _ID + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def download(repository: Repository, request: Request, revision: str, path: str) -> Response:
    """The content of a file at a revision, or the part of it that a `Range` header asks for."""
    with repository.git() as git:
        commit = git.find(revision)
        headers = {"X-Repo-Commit": commit.id.decode(), "Accept-Ranges": "bytes"}
        blob = git.find_file(commit, path)
    if blob is None:
        raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound", headers)
    headers |= {"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff"}
    pointer = Pointer.parse(blob.data)
    if pointer is None:
        return _partial(request, blob.data, {**headers, "ETag": f'"{blob.id.decode()}"'})
    etag = f'"{pointer.oid}"'
    headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(pointer.size)}
    return _partial(request, FileRange(repository.blobs.path(pointer.oid), 0, pointer.size), headers)


def _partial(request: Request, body: bytes | FileRange, headers: dict[str, str]) -> Response:
    asked = _range(request.headers.get("Range"), len(body))
    if asked is None:
        return Response(200, body, headers)
    start, stop = asked
    content_range = f"bytes {start}-{stop - 1}/{len(body)}"
    return Response(206, body[start:stop], {**headers, "Content-Range": content_range})


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """
    The half-open byte range that a header asks for; `None` if it asks for the whole or in another form.

    Raises:
        `HubError`: 416, the file is too short for it.
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


@router.repository_route("POST", _LFS + r"/objects/batch", write=True)
def plan_transfers(repository: Repository, request: Request) -> Response:
    """For each large file, links to upload it, or nothing if it is stored already."""
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
    pointer = Pointer(member(item, "oid", str), member(item, "size", int))
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
    """Stores a large file from a single request."""
    _permitted(store, request, kind, repo_id).blobs.add(Pointer(oid, int(size)), request.body.chunks())
    return Response()


@router.route("PUT", _PARTS + r"/(?P<number>[1-9][0-9]{0,8})")
def upload_part(
    store: Store, request: Request, repo_id: str, oid: str, size: str, upload: str, number: str, kind: str = "models"
) -> Response:
    """Receives one part of a large file, again if it came before."""
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
    """Stores a large file of which all parts have arrived."""
    _permitted(store, request, kind, repo_id).blobs.finish(upload, Pointer(oid, int(size)))
    return Response.of_json({"success": True}, headers=_LFS_JSON)


@router.repository_route("POST", _LFS + r"/verify", write=True)
def verify_object(repository: Repository, request: Request) -> Response:
    """Confirms that a large file is stored."""
    pointer = _pointer(request.json())
    if repository.blobs.size(pointer.oid) != pointer.size:
        raise HubError(404, f"LFS object {pointer.oid} of {pointer.size} bytes is not stored: upload it again")
    return Response()


@router.route("GET", r"/api/(?:models|datasets|spaces)/(?P<name>[^/]+)(?:/revision/[^/]+)?")
@router.route("GET", r"(?:/(?:datasets|spaces))?/(?P<name>[^/]+)/resolve/[^/]+/.+")
def no_namespace(store: Store, request: Request, name: str) -> Response:
    """Repositories without a namespace: there are none."""
    raise HubError(404, f"Repository not found: {name} (expected namespace/name)", "RepoNotFound")
