"""The local Hub against requests that no well-behaved client sends, and its command line."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hub.local.accounts import Accounts
from tests.hub.local.raw_requests import commit, create, file, large_file, upload, upload_link


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

NAME = "org/name"
REPO = f"/api/models/{NAME}"
LFS = f"/{NAME}.git/info/lfs"


@pytest.fixture
def hub(shared_hub: LocalHub) -> LocalHub:
    """A Hub with the repository `org/name`."""
    create(shared_hub, NAME)
    return shared_hub


BAD_PATHS = ["../x", "a/../../x", "/x", "a//x", "a/./x", ".git/config", "a/.GIT/x", "a\nb", "a\0b", "a\\b", "", "a/"]


def test_bad_file_names_are_refused(hub: LocalHub) -> None:
    for path in [*BAD_PATHS, "\ud800", "a" * 2000]:
        status, answer = commit(hub, NAME, file("good"), file(path))
        assert status == 400 and "name" in answer["error"], path
    status, _, _ = hub.call("HEAD", "/org/name/resolve/main/good")
    assert status == 404, "a commit is made as a whole or not at all"


def test_no_request_leaves_the_folder(hub: LocalHub) -> None:
    def content() -> dict[str, bytes]:
        files = [path for path in hub.folder.parent.rglob("*") if path.is_file() and path != hub.log]
        return {str(path): path.read_bytes() for path in files}

    before = content()
    up = "..%2F..%2F"
    looks = [f"/{NAME}/resolve/{rest}" for rest in (f"main/{up}repository.json", "main/../../repository.json")]
    looks += [f"/{NAME}/resolve/{revision}/.gitattributes" for revision in (f"{up}HEAD", "HEAD")]
    looks += [f"{REPO}/tree/main/{up}", f"/api/models/{up}models/org%2Fname", "/api/models/org/.."]
    branches = [f"{up}config", "a%0Ab", "a.lock", "a" * 300, "a" * 40]
    names = [("../../x", "org"), ("..", "org"), ("x.git", "org"), ("x", ".."), ("x", "api")]
    repositories: list[dict[str, object]] = [{"name": name, "organization": namespace} for name, namespace in names]
    repositories.append({"name": "x", "organization": "org", "type": "../x"})
    attempts: list[tuple[str, str, object]] = [
        *(("GET", path, "") for path in looks),
        *(("POST", f"{REPO}/branch/{branch}", {}) for branch in branches),
        *(("DELETE", f"{REPO}/{ref}", "") for ref in (f"branch/{up}config", f"tag/{up}heads%2Fmain")),
        *(("POST", f"{REPO}/tag/main", {"tag": tag}) for tag in ("../heads/main", "refs/heads/x")),
        *(("POST", "/api/repos/create", repository) for repository in repositories),
        ("DELETE", "/api/repos/delete", repositories[1]),
        ("POST", f"{LFS}/objects/batch", {"operation": "upload", "objects": [{"oid": up, "size": 1}]}),
        ("POST", f"{LFS}/verify", {"oid": "../../repository.json", "size": 1}),
        *(("PUT", f"{LFS}/objects/{'0' * 64}/1{query}", "x") for query in ("", f"?signature={'0' * 64}")),
    ]
    for method, path, body in attempts:
        status = hub.call(method, path, body if isinstance(body, str) else json.dumps(body))[0]
        assert status in (400, 403, 404), (method, path, body)
    assert commit(hub, NAME, ("lfsFile", {"path": "f.bin", "oid": "../../repository.json"}))[0] == 400
    assert content() == before


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


def test_malformed_requests_are_explained(hub: LocalHub) -> None:
    for method, path, body in MALFORMED:
        status, headers, answer = hub.call(method, path, body)
        assert status == 400 and json.loads(answer)["error"] and headers["X-Error-Message"], (path, body)
    for path in ("/api/repos/create", f"{REPO}/commit/main"):
        assert hub.call("POST", path, b" " * (33 << 20))[0] == 413
    assert hub.call("POST", REPO, headers={"Transfer-Encoding": "chunked"})[0] == 411
    assert hub.call("GET", f"{REPO}/discussions?p=0")[0] == 404


def test_a_connection_survives_an_answer_that_did_not_need_the_body(hub: LocalHub) -> None:
    connection = HTTPConnection("127.0.0.1", hub.port, timeout=20)
    for path, expected in (("/absent", 404), (f"{REPO}/revision/main", 404), ("/api/validate-yaml", 200)):
        connection.request("POST", path, json.dumps({"content": "---\n---\n"}))
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (expected, True)
    connection.close()


def test_faults_hit_the_requests_they_are_asked_for(hub: LocalHub) -> None:
    hub.inject({"method": "GET", "path": "/refs$", "kind": "status", "status": 429, "skip": 1, "count": 2})
    assert [hub.call("GET", f"{REPO}/refs?include_prs=1")[0] for _ in range(4)] == [200, 429, 429, 200]
    assert (hub.call("GET", REPO)[0], hub.num_hits) == (200, 2)
    for kind, expected in (("drop_before", 404), ("drop_after", 200)):
        hub.inject({"method": "POST", "path": "/commit/", "kind": kind})
        with pytest.raises(ConnectionError):
            commit(hub, NAME, file(kind))
        assert (hub.call("GET", f"/{NAME}/resolve/main/{kind}")[0], hub.num_hits) == (expected, 1)
    hub.inject()
    assert hub.num_hits == 0


def test_downloads_have_the_headers_clients_cache_by(hub: LocalHub) -> None:
    regular, large = b"regular content", b"".join(number.to_bytes(2, "big") for number in range(1000))
    upload(hub, NAME, large)
    status, answer = commit(hub, NAME, file("a/b é.txt", regular), large_file("large.bin", large))
    assert status == 200
    git_id = hashlib.sha1(b"blob %d\0" % len(regular) + regular).hexdigest()
    sha256 = hashlib.sha256(large).hexdigest()
    for path, content, etag in (("a/b%20%C3%A9.txt", regular, git_id), ("large.bin", large, sha256)):
        url = f"/org/name/resolve/main/{path}"
        for method, body in (("HEAD", b""), ("GET", content)):
            status, headers, got = hub.call(method, url)
            assert (status, got, headers["ETag"]) == (200, body, f'"{etag}"')
            assert headers["X-Repo-Commit"] == answer["commitOid"] and headers["Content-Length"] == str(len(content))
            if content == large:
                assert (headers["X-Linked-Etag"], headers["X-Linked-Size"]) == (f'"{sha256}"', str(len(large)))
        for asked, part in (("2-5", content[2:6]), ("10-", content[10:]), ("-3", content[-3:]), ("0-99999", content)):
            status, headers, got = hub.call("GET", url, headers={"Range": f"bytes={asked}"})
            start = content.index(part)
            assert (status, got) == (206, part)
            assert headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        assert hub.call("GET", url, headers={"Range": f"bytes={len(content)}-"})[0] == 416
    status, headers, _ = hub.call("HEAD", "/org/name/resolve/main/absent")
    assert (status, headers["X-Error-Code"]) == (404, "EntryNotFound")
    assert headers["X-Repo-Commit"] == answer["commitOid"]


def test_large_files_are_verified_on_arrival(hub: LocalHub) -> None:
    content = b"\0verified" * 1000
    added = large_file("f.bin", content)
    pointer = added[1]
    assert commit(hub, NAME, added)[0] == 400, "committed before it was uploaded"
    link = upload_link(hub, NAME, content)
    assert link and hub.call("PUT", link.replace(f"/{len(content)}?", "/1?"), b"x")[0] == 403
    for wrong in (content[:-1], content + b"x", content[:-1] + b"x"):
        assert hub.call("PUT", link, wrong)[0] == 400
        assert hub.call("POST", f"{LFS}/verify", json.dumps(pointer))[0] == 404
    with socket.create_connection(("127.0.0.1", hub.port), timeout=20) as broken_off:
        head = f"PUT {link} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"
        broken_off.sendall(head.encode() + content[:5000])
        broken_off.shutdown(socket.SHUT_WR)
        assert broken_off.recv(1) == b"", "no answer to half a request"
    assert list(hub.folder.glob("models/org/name/incoming/*")) == []
    assert upload_link(hub, NAME, content) is not None
    assert hub.call("PUT", link, content)[0] == 200 == hub.call("PUT", link, content)[0]
    assert upload_link(hub, NAME, content) is None
    assert commit(hub, NAME, ("lfsFile", {**pointer, "size": 3}))[0] == 400
    assert commit(hub, NAME, added)[0] == 200
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{pointer['oid']}\nsize {len(content)}\n"
    assert commit(hub, NAME, file("pointer.txt", text.encode()))[0] == 400, "a pointer passed as a regular file"
    assert commit(hub, NAME, file("huge.txt", b"x" * (11 << 20)))[0] == 400, "a large file passed as a regular file"


def test_web_pages_are_refused(hub: LocalHub) -> None:
    assert hub.call("GET", REPO, headers={"Origin": "http://example.org"})[0] == 403
    assert hub.call("GET", REPO, headers={"Host": "example.org"})[0] == 403
    assert hub.call("GET", REPO, headers={"Host": f"localhost:{hub.port}"})[0] == 200


def start_server(*arguments: str) -> subprocess.Popen[str]:
    """Starts the command that users know."""
    command = [sys.executable, "-m", "hub.local_server", *arguments]
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_prints_its_endpoint_and_ends_with_a_signal(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"hf_abc": {"name": "alice"}}))
    for number in (signal.SIGTERM, signal.SIGINT):
        server = start_server(str(tmp_path / "hub"), "--tokens", str(tokens))
        try:
            assert server.stdout is not None
            host, _, port = server.stdout.readline().strip().removeprefix("http://").partition(":")
            connection = HTTPConnection(host, int(port), timeout=20)
            connection.request("GET", "/api/whoami-v2", headers={"Authorization": "Bearer hf_abc"})
            assert host == "127.0.0.1" and json.loads(connection.getresponse().read())["name"] == "alice"
            if number == signal.SIGTERM:
                second = start_server(str(tmp_path / "hub"))
                assert "served by another process" in second.communicate(timeout=20)[1] and second.returncode == 1
            server.send_signal(number)
            assert (server.communicate(timeout=20), server.returncode) == (("", ""), 0)
        finally:
            server.kill()


MALFORMED_TOKENS = [
    "no json",
    "[]",
    "{}",
    '{"hf_secret": "alice"}',
    '{"hf_secret": {"name": "a/b"}}',
    '{"hf_secret": {"name": "a", "role": "admin"}}',
    '{"hf_secret": {"name": "a", "rule": "read"}}',
    '{"hf_secret": {"name": "a", "orgs": "org"}}',
]


def test_malformed_token_files_are_explained(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    for content in MALFORMED_TOKENS:
        tokens.write_text(content)
        with pytest.raises(ValueError, match="token file") as error:
            Accounts.load(tokens)
        assert "hf_secret" not in str(error.value), content
    server = start_server(str(tmp_path / "hub"), "--tokens", str(tokens))
    output, errors = server.communicate(timeout=20)
    assert (server.returncode, output, errors) == (1, "", f"local_server: {error.value}\n")
