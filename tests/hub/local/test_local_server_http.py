"""The local Hub against requests that no well-behaved client sends, and its command line."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from base64 import b64encode
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

REPO = "/api/models/org/name"
LFS = "/org/name.git/info/lfs"


def make_repository(hub: LocalHub) -> None:
    """Make `org/name`."""
    assert hub.call("POST", "/api/repos/create", json.dumps({"name": "name", "organization": "org"}))[0] == 200


def commit(hub: LocalHub, *changes: tuple[str, dict[str, Any]], branch: str = "main") -> tuple[int, dict[str, Any]]:
    """Commit `changes` to `org/name`; return status and answer."""
    lines = [("header", {"summary": "summary"}), *changes]
    body = "".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in lines)
    status, _, answer = hub.call("POST", f"{REPO}/commit/{branch}", body)
    return status, json.loads(answer)


def file(path: str, content: bytes = b"content") -> tuple[str, dict[str, Any]]:
    """The change that adds a regular file."""
    return "file", {"path": path, "content": b64encode(content).decode(), "encoding": "base64"}


def upload_link(hub: LocalHub, content: bytes) -> str | None:
    """The path to upload `content` to as a large file, `None` if it is stored."""
    item = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    request = {"operation": "upload", "transfers": ["basic"], "objects": [item]}
    status, _, answer = hub.call("POST", f"{LFS}/objects/batch", json.dumps(request))
    assert status == 200, answer
    actions = json.loads(answer)["objects"][0].get("actions")
    return actions and actions["upload"]["href"].removeprefix(hub.endpoint)


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BAD_PATHS = ["../x", "a/../../x", "/x", "a//x", "a/./x", ".git/config", "a/.GIT/x", "a\nb", "a\0b", "a\\b", "", "a/"]


def test_bad_file_names_are_refused(local_hub: LocalHub) -> None:
    make_repository(local_hub)
    for path in [*BAD_PATHS, "\ud800", "a" * 2000]:
        status, answer = commit(local_hub, file("good"), file(path))
        assert status == 400 and "name" in answer["error"], path
    status, _, body = local_hub.call("GET", f"{REPO}/tree/main")
    assert [entry["path"] for entry in json.loads(body)] == [".gitattributes"]


def test_no_request_leaves_the_folder(local_hub: LocalHub) -> None:
    make_repository(local_hub)
    before = files_of(local_hub.folder.parent)
    up = "..%2F..%2F"
    name = {"organization": "org", "type": "model"}
    attempts = [
        ("GET", f"/org/name/resolve/main/{up}repository.json", ""),
        ("GET", "/org/name/resolve/main/../../repository.json", ""),
        ("GET", f"/org/name/resolve/{up}HEAD/.gitattributes", ""),
        ("GET", "/org/name/resolve/HEAD/.gitattributes", ""),
        ("GET", f"{REPO}/tree/main/{up}", ""),
        ("GET", f"/api/models/{up}models/org%2Fname", ""),
        ("GET", "/api/models/org/..", ""),
        ("POST", f"{REPO}/branch/{up}config", "{}"),
        ("POST", f"{REPO}/branch/a%0Ab", "{}"),
        ("POST", f"{REPO}/branch/a.lock", "{}"),
        ("POST", f"{REPO}/branch/{'a' * 300}", "{}"),
        ("POST", f"{REPO}/branch/{'a' * 40}", "{}"),
        ("DELETE", f"{REPO}/branch/{up}config", ""),
        ("DELETE", f"{REPO}/tag/{up}heads%2Fmain", ""),
        ("POST", f"{REPO}/tag/main", json.dumps({"tag": "../heads/main"})),
        ("POST", f"{REPO}/tag/main", json.dumps({"tag": "refs/heads/x"})),
        ("POST", "/api/repos/create", json.dumps({**name, "name": "../../x"})),
        ("POST", "/api/repos/create", json.dumps({**name, "name": ".."})),
        ("POST", "/api/repos/create", json.dumps({**name, "name": "x.git"})),
        ("POST", "/api/repos/create", json.dumps({"name": "x", "organization": ".."})),
        ("POST", "/api/repos/create", json.dumps({"name": "x", "organization": "api"})),
        ("POST", "/api/repos/create", json.dumps({**name, "name": "x", "type": "../x"})),
        ("DELETE", "/api/repos/delete", json.dumps({**name, "name": ".."})),
        ("POST", f"{LFS}/objects/batch", json.dumps({"operation": "upload", "objects": [{"oid": up, "size": 1}]})),
        ("POST", f"{LFS}/verify", json.dumps({"oid": "../../repository.json", "size": 1})),
        ("PUT", f"{LFS}/objects/{'0' * 64}/1", "x"),
        ("PUT", f"{LFS}/objects/{'0' * 64}/1?signature={'0' * 64}", "x"),
    ]
    statuses = {f"{method} {path} {body}": local_hub.call(method, path, body)[0] for method, path, body in attempts}
    assert {key: status for key, status in statuses.items() if status not in (400, 403, 404)} == {}
    assert files_of(local_hub.folder.parent) == before


MALFORMED = [
    ("POST", "/api/repos/create", "no json"),
    ("POST", "/api/repos/create", "[]"),
    ("POST", "/api/repos/create", '{"name": 3}'),
    ("POST", "/api/repos/create", '{"name": "x", "visibility": "gone"}'),
    ("POST", f"{REPO}/preupload/main", '{"files": [3]}'),
    ("POST", f"{REPO}/preupload/main", '{"files": [{"path": "a", "size": true, "sample": ""}]}'),
    ("POST", f"{REPO}/preupload/main", '{"files": [{"path": "a", "size": 1, "sample": "?"}]}'),
    ("POST", f"{REPO}/commit/main", ""),
    ("POST", f"{REPO}/commit/main", '{"key": "file", "value": {}}'),
    ("POST", f"{REPO}/commit/main", '{"key": "header", "value": {"summary": "s"}}\n{"key": "what", "value": {}}'),
    ("POST", f"{REPO}/commit/main", '{"key": "header", "value": {"summary": "s"}}\nno json'),
    ("GET", f"{REPO}/commits/main?p=-1", ""),
    ("PUT", f"{REPO}/settings", '{"gated": "auto"}'),
]


def test_malformed_requests_are_explained(local_hub: LocalHub) -> None:
    make_repository(local_hub)
    for method, path, body in MALFORMED:
        status, headers, answer = local_hub.call(method, path, body)
        assert status == 400 and json.loads(answer)["error"] and headers["X-Error-Message"], (path, body)
    assert local_hub.call("GET", REPO)[0] == 200


def test_downloads_have_the_headers_clients_cache_by(local_hub: LocalHub) -> None:
    make_repository(local_hub)
    regular, large = b"regular content", b"".join(number.to_bytes(2, "big") for number in range(1000))
    sha256 = hashlib.sha256(large).hexdigest()
    link = upload_link(local_hub, large)
    assert link and local_hub.call("PUT", link, large)[0] == 200
    pointer = {"path": "large.bin", "algo": "sha256", "oid": sha256, "size": len(large)}
    status, answer = commit(local_hub, file("a/b é.txt", regular), ("lfsFile", pointer))
    assert status == 200
    git_id = hashlib.sha1(b"blob %d\0" % len(regular) + regular).hexdigest()
    for path, content, etag in (("a/b%20%C3%A9.txt", regular, git_id), ("large.bin", large, sha256)):
        for method, body in (("HEAD", b""), ("GET", content)):
            status, headers, got = local_hub.call(method, f"/org/name/resolve/main/{path}")
            assert (status, got, headers["ETag"]) == (200, body, f'"{etag}"')
            assert headers["X-Repo-Commit"] == answer["commitOid"] and headers["Content-Length"] == str(len(content))
        for asked, part in (("2-5", content[2:6]), ("10-", content[10:]), ("-3", content[-3:]), ("0-99999", content)):
            status, headers, got = local_hub.call(
                "GET", f"/org/name/resolve/main/{path}", headers={"Range": f"bytes={asked}"}
            )
            start = content.index(part)
            assert (status, got) == (206, part)
            assert headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        beyond = {"Range": f"bytes={len(content)}-"}
        assert local_hub.call("GET", f"/org/name/resolve/main/{path}", headers=beyond)[0] == 416
    status, headers, _ = local_hub.call("HEAD", "/org/name/resolve/main/large.bin")
    assert (headers["X-Linked-Etag"], headers["X-Linked-Size"]) == (f'"{sha256}"', str(len(large)))
    status, headers, _ = local_hub.call("HEAD", "/org/name/resolve/main/absent")
    assert (status, headers["X-Error-Code"]) == (404, "EntryNotFound")
    assert headers["X-Repo-Commit"] == answer["commitOid"]


def test_large_files_are_verified_on_arrival(local_hub: LocalHub) -> None:
    make_repository(local_hub)
    content = b"\0large" * 1000
    pointer = {"path": "f.bin", "algo": "sha256", "oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    assert commit(local_hub, ("lfsFile", pointer))[0] == 400, "committed before it was uploaded"
    for wrong in (content[:-1], content + b"x", content[:-1] + b"x"):
        link = upload_link(local_hub, content)
        assert link and local_hub.call("PUT", link, wrong)[0] == 400
        assert local_hub.call("POST", f"{LFS}/verify", json.dumps(pointer))[0] == 404
    link = upload_link(local_hub, content)
    assert link and local_hub.call("PUT", link.replace(f"/{len(content)}?", "/1?"), b"x")[0] == 403
    assert local_hub.call("PUT", link, content)[0] == 200 == local_hub.call("PUT", link, content)[0]
    assert upload_link(local_hub, content) is None
    assert commit(local_hub, ("lfsFile", {**pointer, "size": 3}))[0] == 400
    assert commit(local_hub, ("lfsFile", pointer))[0] == 200
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{pointer['oid']}\nsize {len(content)}\n"
    assert commit(local_hub, file("pointer.txt", text.encode()))[0] == 400, "a pointer passed as a regular file"
    assert commit(local_hub, file("huge.txt", b"x" * (11 << 20)))[0] == 400, "a large file passed as a regular file"


def test_web_pages_are_refused(local_hub: LocalHub) -> None:
    make_repository(local_hub)
    assert local_hub.call("GET", REPO, headers={"Origin": "http://example.org"})[0] == 403
    assert local_hub.call("GET", REPO, headers={"Host": "example.org"})[0] == 403
    assert local_hub.call("GET", REPO, headers={"Host": f"localhost:{local_hub.port}"})[0] == 200
    assert local_hub.call("GET", f"{REPO}/discussions?p=0")[0] == 404
    assert local_hub.call("POST", REPO, headers={"Transfer-Encoding": "chunked"})[0] == 411


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly_and_its_folder_is_its_own(local_hub: LocalHub, number: int) -> None:
    second = run_server(str(local_hub.folder))
    assert second.returncode == 1 and "served by another process" in second.stderr
    assert local_hub.stop(number) == 0
    local_hub.start()


def run_server(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the server with arguments that make it end at once."""
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "hub.local_server", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=20)


def test_help_explains_each_option() -> None:
    shown = run_server("--help").stdout
    assert all(
        option in shown for option in ("folder", "--port", "--host", "--tokens", "--faults", "127.0.0.1", "alice")
    )


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        "{}",
        '{"hf_secret": "alice"}',
        '{"hf_secret": {"name": "a/b"}}',
        '{"hf_secret": {"name": "a", "role": "admin"}}',
        '{"hf_secret": {"name": "a", "rule": "read"}}',
        '{"hf_secret": {"name": "a", "orgs": "org"}}',
    ],
)
def test_malformed_token_files_are_explained(tmp_path: Path, content: str) -> None:
    tokens = tmp_path / "tokens.json"
    tokens.write_text(content)
    result = run_server(str(tmp_path / "hub"), "--tokens", str(tokens))
    assert result.returncode == 1 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert "token file" in result.stderr and "hf_secret" not in result.stderr


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("no json", "not JSON"),
        ("{}", "expected a JSON list"),
        ("[3]", "expected an object with method, path, kind"),
        ([{"method": "GET", "path": "/"}], "expected an object with method, path, kind"),
        ([{"method": "GET", "path": "/", "kind": "slow", "second": 3}], "expected an object with method, path, kind"),
        ([{"method": 3, "path": "/", "kind": "slow"}], "method is 3, expected a string"),
        ([{"method": "GET", "path": "/(", "kind": "slow"}], "expected a regular expression"),
        ([{"method": "GET", "path": "/", "kind": "burn"}], "kind is 'burn', expected one of status, drop_before"),
        ([{"method": "GET", "path": "/", "kind": "slow", "count": 0}], "count is 0, expected a whole number >= 1"),
        ([{"method": "GET", "path": "/", "kind": "slow", "skip": True}], "skip is True, expected a whole number >= 0"),
        (
            [{"method": "GET", "path": "/", "kind": "status", "status": 200}],
            "status is 200, expected a whole number f",
        ),
        ([{"method": "GET", "path": "/", "kind": "slow", "seconds": "1"}], "seconds is '1', expected a number from 0"),
    ],
)
def test_malformed_fault_files_are_explained(tmp_path: Path, content: object, expected: str) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text(content if isinstance(content, str) else json.dumps(content))
    result = run_server(str(tmp_path / "hub"), "--faults", str(faults))
    assert result.returncode == 1 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert str(faults) in result.stderr and expected in result.stderr


def test_faults_hit_the_requests_they_are_asked_for(local_hub: LocalHub) -> None:
    make_repository(local_hub)
    local_hub.inject({"method": "GET", "path": "/refs$", "kind": "status", "status": 429, "skip": 1, "count": 2})
    statuses = [local_hub.call("GET", f"{REPO}/refs?include_prs=1")[0] for _ in range(4)]
    assert (statuses, local_hub.num_hits) == ([200, 429, 429, 200], 2)
    assert local_hub.call("GET", REPO)[0] == 200

    local_hub.inject({"method": "POST", "path": "/commit/", "kind": "drop_before", "skip": 1})
    assert commit(local_hub, file("first"))[0] == 200
    with pytest.raises((ConnectionError, HTTPException)):
        commit(local_hub, file("second"))
    local_hub.inject({"method": "POST", "path": "/commit/", "kind": "drop_after"})
    with pytest.raises((ConnectionError, HTTPException)):
        commit(local_hub, file("third"))
    assert local_hub.num_hits == 1
    listed = [entry["path"] for entry in json.loads(local_hub.call("GET", f"{REPO}/tree/main")[2])]
    assert listed == [".gitattributes", "first", "third"]

    local_hub.inject({"method": "GET", "path": "/refs$", "kind": "slow", "seconds": 0.5})
    begin = time.monotonic()
    assert local_hub.call("GET", f"{REPO}/refs")[0] == 200
    assert time.monotonic() - begin >= 0.5
    local_hub.inject()
    assert local_hub.call("GET", f"{REPO}/refs")[0] == 200 and local_hub.num_hits == 0
