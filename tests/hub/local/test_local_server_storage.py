"""What the local Hub keeps when its process, or a client's, is killed; and when many clients write at once."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import time
from base64 import b64encode
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import pytest
from dulwich.porcelain import fsck


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

LARGE_BYTES = 300_000_000

# A server that is killed just before it renames something for the N-th time.
DYING_SERVER = """
import os, signal, sys
from hub import local_server

left = {renames}

def dying(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

os.rename, os.replace = dying(os.rename), dying(os.replace)
sys.exit(local_server.main())
"""


def publish(hub: LocalHub, name: str) -> None:
    """Make `org/{name}` with a regular and a large file and a tag, as far as that is not done yet."""

    def post(path: str, body: object) -> tuple[int, bytes]:
        text = body if isinstance(body, str) else json.dumps(body)
        status, _, answer = hub.call("POST", path, text)
        assert status in (200, 201, 409), (status, answer)
        return status, answer

    post("/api/repos/create", {"name": name, "organization": "org"})
    large = b"\0" + name.encode() * 1000
    pointer = {"oid": hashlib.sha256(large).hexdigest(), "size": len(large)}
    _, answer = post(f"/org/{name}.git/info/lfs/objects/batch", {"operation": "upload", "objects": [pointer]})
    actions = json.loads(answer)["objects"][0].get("actions")
    if actions:
        assert hub.call("PUT", actions["upload"]["href"].removeprefix(hub.endpoint), large)[0] == 200
    changes = [
        {"key": "header", "value": {"summary": "publish"}},
        {"key": "file", "value": {"path": "sub/name.txt", "content": b64encode(name.encode()).decode()}},
        {"key": "lfsFile", "value": {"path": "large.bin", "algo": "sha256", **pointer}},
    ]
    post(f"/api/models/org/{name}/commit/main", "\n".join(map(json.dumps, changes)))
    post(f"/api/models/org/{name}/tag/main", {"tag": "step1"})


def assert_sound(folder: Path) -> None:
    """Every git repository is free of broken objects, every large file is what its name says."""
    for repository in folder.glob("models/*/*"):
        assert list(fsck(str(repository / "git"))) == []
        for blob in repository.glob("lfs/*/*"):
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        assert list((repository / "incoming").iterdir()) == []
    assert list((folder / "incoming").iterdir()) == []


def test_a_server_killed_at_any_rename_loses_nothing_finished(local_hub: LocalHub) -> None:
    local_hub.stop()
    names: list[str] = []
    killed = True
    while killed:
        names.append(f"name{len(names) + 1}")
        local_hub.start(launcher=["-c", DYING_SERVER.format(renames=len(names))])
        try:
            publish(local_hub, names[-1])
        except (ConnectionError, TimeoutError):
            local_hub.process.wait(timeout=10)
        killed = local_hub.process.poll() is not None
        local_hub.stop(signal.SIGKILL)

        local_hub.start()
        assert_sound(local_hub.folder)
        publish(local_hub, names[-1])
        local_hub.stop()
    assert len(names) > 10, "the server was never killed while it wrote"

    local_hub.start()
    result = local_hub.run_python(f"""
        from pathlib import Path
        from huggingface_hub import HfApi, snapshot_download

        for name in {names}:
            commits = HfApi().list_repo_commits(f"org/{{name}}", revision="step1")
            assert [commit.title for commit in commits] == ["publish", "initial commit"], name
            folder = Path(snapshot_download(f"org/{{name}}", revision="step1"))
            assert (folder / "sub" / "name.txt").read_text() == name
            assert (folder / "large.bin").read_bytes() == b"\\0" + name.encode() * 1000
    """)
    assert result.returncode == 0, result.stderr


def test_a_server_killed_under_load_keeps_every_confirmed_commit(local_hub: LocalHub) -> None:
    confirmed: list[str] = []
    for round in range(3):
        client = local_hub.start_python(f"""
            from huggingface_hub import HfApi

            api = HfApi()
            api.create_repo("org/name", exist_ok=True)
            for number in range(1000):
                content = b"\\0" * (number % 2) + b"{round} %d" % number
                made = api.upload_file(repo_id="org/name", path_or_fileobj=content, path_in_repo=f"{round}/{{number}}")
                print(made.oid, flush=True)
        """)
        assert client.stdout is not None
        confirmed += [client.stdout.readline().strip() for _ in range(10)]
        time.sleep(0.007 * round)
        local_hub.stop(signal.SIGKILL)
        client.kill()
        confirmed += client.communicate()[0].split()
        local_hub.start()
        assert_sound(local_hub.folder)
    result = local_hub.run_python("""
        from pathlib import Path
        from huggingface_hub import HfApi, snapshot_download

        for commit in reversed(HfApi().list_repo_commits("org/name")):
            print(commit.commit_id)
        for path in Path(snapshot_download("org/name")).glob("[0-9]/*"):
            number = int(path.name)
            assert path.read_bytes() == b"\\0" * (number % 2) + f"{path.parent.name} {number}".encode()
    """)
    assert result.returncode == 0, result.stderr
    history = result.stdout.split()
    assert len(confirmed) >= 30 and [oid for oid in history if oid in confirmed] == confirmed


def test_a_client_killed_while_it_uploads_finishes_when_run_again(local_hub: LocalHub) -> None:
    script = """
        import io, os, signal, sys
        from huggingface_hub import CommitOperationAdd, HfApi

        class Source(io.BytesIO):
            taken = 0

            def read(self, size=-1):
                data = super().read(size)
                self.taken += len(data)
                # It is read once for its hash, then sent.
                if {deadly} and self.taken > 1.5 * len(self.getvalue()):
                    os.kill(os.getpid(), signal.SIGKILL)
                return data

        api = HfApi()
        api.create_repo("org/name", exist_ok=True)
        files = [CommitOperationAdd(f"{{number}}.bin", Source(bytes([0, number]) * 10_000_000)) for number in range(3)]
        api.create_commit("org/name", files, commit_message="three files")
    """
    assert local_hub.run_python(script.format(deadly=True)).returncode == -signal.SIGKILL
    result = local_hub.run_python(script.format(deadly=False))
    assert result.returncode == 0, result.stderr
    titles = [entry["title"] for entry in json.loads(local_hub.call("GET", "/api/models/org/name/commits/main")[2])]
    assert titles == ["three files", "initial commit"]
    for number in range(3):
        got = local_hub.call("GET", f"/org/name/resolve/main/{number}.bin")[2]
        assert got == bytes([0, number]) * 10_000_000
    assert_sound(local_hub.folder)


@pytest.mark.parametrize("damaged", ["shards/*.mdb", "xorbs/default.*[0-9a-f]"])
def test_what_a_killed_xet_client_leaves_harms_no_other(local_hub: LocalHub, damaged: str) -> None:
    script = """
        import os
        import huggingface_hub._commit_api
        from huggingface_hub import HfApi

        if {deadly}:
            huggingface_hub._commit_api._send_commit = lambda *arguments, **options: os._exit(9)
        api = HfApi()
        api.create_repo("org/name", exist_ok=True)
        with open("f.bin", "wb") as file:
            file.write(b"\\0" + bytes(range(256)) * 1000)
        api.upload_file(repo_id="org/name", path_or_fileobj="f.bin", path_in_repo="f.bin")
    """
    assert local_hub.run_python(script.format(deadly=True), HF_HUB_DISABLE_XET="0").returncode == 9
    (left,) = local_hub.folder.glob("models/org/name/incoming/xet-*")
    (file,) = left.glob(f"xet/xorbs/{damaged}")
    file.write_bytes(file.read_bytes()[:100])
    for number in range(4):
        shutil.copytree(left, left.with_name(f"xet-{number}"))
    result = local_hub.run_python(script.format(deadly=False), HF_HUB_DISABLE_XET="0")
    assert result.returncode == 0, result.stderr
    assert local_hub.call("GET", "/org/name/resolve/main/f.bin")[2] == b"\0" + bytes(range(256)) * 1000
    local_hub.stop()
    local_hub.start()
    assert_sound(local_hub.folder)


def test_files_over_one_part_are_uploaded_in_parts(local_hub: LocalHub) -> None:
    result = local_hub.run_python("""
        import os
        from pathlib import Path
        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi()
        api.create_repo("org/name")
        Path("folder").mkdir()
        Path("folder/large.bin").write_bytes(os.urandom((130 << 20) + 7))
        Path("folder/small.bin").write_bytes(os.urandom(1000))
        api.upload_folder(repo_id="org/name", folder_path="folder")
        for path in Path("folder").iterdir():
            assert Path(hf_hub_download("org/name", path.name)).read_bytes() == path.read_bytes()
    """)
    assert result.returncode == 0, result.stderr
    assert_sound(local_hub.folder)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of another process")
def test_large_files_pass_through_without_filling_the_memory(local_hub: LocalHub) -> None:
    script = """
        from huggingface_hub import HfApi, hf_hub_download

        with open("large.bin", "wb") as file:
            file.truncate({size})
            file.write(b"{name}")
        api = HfApi()
        api.create_repo("org/{name}")
        api.upload_file(repo_id="org/{name}", path_or_fileobj="large.bin", path_in_repo="large.bin")
        got = hf_hub_download("org/{name}", "large.bin")
        with open(got, "rb") as file:
            assert file.read(10).startswith(b"{name}") and file.seek(0, 2) == {size}
    """
    # What a server needs for any upload is no matter here.
    assert local_hub.run_python(script.format(name="warmup", size=1000)).returncode == 0
    before = peak_memory(local_hub)
    # In parts, as everything over 64 MiB.
    result = local_hub.run_python(script.format(name="parts", size=LARGE_BYTES))
    assert result.returncode == 0, result.stderr
    upload_whole(local_hub, LARGE_BYTES)
    assert peak_memory(local_hub) - before < 60 << 20


def peak_memory(hub: LocalHub) -> int:
    """The most bytes of memory that the server has had so far."""
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024


def upload_whole(hub: LocalHub, size: int) -> None:
    """Upload and download `size` zeros by one request each, as clients do that know no parts."""
    pointer = {"oid": sha256_of_zeros(size), "size": size}
    request = {"operation": "upload", "transfers": ["basic"], "objects": [pointer]}
    _, _, answer = hub.call("POST", "/org/warmup.git/info/lfs/objects/batch", json.dumps(request))
    href = json.loads(answer)["objects"][0]["actions"]["upload"]["href"]
    connection = HTTPConnection("127.0.0.1", hub.port, timeout=60)
    with TemporaryFile() as file:
        file.truncate(size)
        connection.request("PUT", href.removeprefix(hub.endpoint), file, {"Content-Length": str(size)})
        assert connection.getresponse().read() == b""
    changes = [
        {"key": "header", "value": {"summary": "large"}},
        {"key": "lfsFile", "value": {"path": "whole.bin", "algo": "sha256", **pointer}},
    ]
    body = "\n".join(map(json.dumps, changes))
    assert hub.call("POST", "/api/models/org/warmup/commit/main", body)[0] == 200
    connection.request("GET", "/org/warmup/resolve/main/whole.bin")
    response = connection.getresponse()
    assert sum(chunk.count(0) for chunk in iter(lambda: response.read(1 << 20), b"")) == size
    connection.close()


def sha256_of_zeros(size: int) -> str:
    """SHA-256 in hex of `size` zero bytes."""
    digest = hashlib.sha256()
    for start in range(0, size, 1 << 20):
        digest.update(bytes(min(1 << 20, size - start)))
    return digest.hexdigest()


def test_many_writers_take_turns(local_hub: LocalHub) -> None:
    result = local_hub.run_python("""
        from concurrent.futures import ThreadPoolExecutor
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        api.create_repo("org/name")

        def upload(number):
            contents = {f"{number}.txt": b"same", f"{number % 5}/same.bin": b"\\0"}
            files = [CommitOperationAdd(path, content) for path, content in contents.items()]
            api.create_commit("org/name", files, commit_message=f"c{number}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(upload, range(40)))
        titles = [commit.title for commit in api.list_repo_commits("org/name")]
        assert sorted(titles) == sorted([*(f"c{number}" for number in range(40)), "initial commit"])
        expected = {".gitattributes", *(f"{number}.txt" for number in range(40)), *(f"{n}/same.bin" for n in range(5))}
        assert set(api.list_repo_files("org/name")) == expected
    """)
    assert result.returncode == 0, result.stderr
    assert_sound(local_hub.folder)
