"""Requests to the local Hub as they go over the wire, without a client's own care."""

import hashlib
import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

Change = tuple[str, dict[str, Any]]


def post(hub: "LocalHub", path: str, body: object) -> tuple[int, dict[str, Any]]:
    """Posts text as it is, anything else as JSON; returns status and answer."""
    status, _, answer = hub.call("POST", path, body if isinstance(body, str) else json.dumps(body))
    return status, json.loads(answer or "{}")


def create(hub: "LocalHub", repo: str) -> None:
    """Makes a repository unless it exists."""
    namespace, _, name = repo.partition("/")
    assert post(hub, "/api/repos/create", {"name": name, "organization": namespace})[0] in (200, 409)


def file(path: str, content: bytes = b"content") -> Change:
    """The change that adds a regular file."""
    return "file", {"path": path, "content": b64encode(content).decode(), "encoding": "base64"}


def large_file(path: str, content: bytes) -> Change:
    """The change that adds a large file, which was uploaded before."""
    oid = hashlib.sha256(content).hexdigest()
    return "lfsFile", {"path": path, "algo": "sha256", "oid": oid, "size": len(content)}


def upload_link(hub: "LocalHub", repo: str, content: bytes) -> str | None:
    """The path to upload `content` to by a single request, `None` if it is stored."""
    request = {"operation": "upload", "transfers": ["basic"], "objects": [large_file("", content)[1]]}
    status, answer = post(hub, f"/{repo}.git/info/lfs/objects/batch", request)
    assert status == 200, answer
    actions = answer["objects"][0].get("actions")
    return actions and actions["upload"]["href"].removeprefix(hub.endpoint)


def upload(hub: "LocalHub", repo: str, content: bytes) -> None:
    """Uploads `content` as a large file unless it is stored."""
    link = upload_link(hub, repo, content)
    assert link is None or hub.call("PUT", link, content)[0] == 200


def commit(hub: "LocalHub", repo: str, *changes: Change) -> tuple[int, dict[str, Any]]:
    """Commits `changes`; returns status and answer."""
    lines = [("header", {"summary": "publish"}), *changes]
    body = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines)
    return post(hub, f"/api/models/{repo}/commit/main", body)
