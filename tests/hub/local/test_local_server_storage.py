"""What the local Hub keeps when its process, or a client's, is killed; and when many clients write at once."""

from __future__ import annotations

import hashlib
import shutil
import signal
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dulwich.porcelain import fsck

from tests.hub.local.raw_requests import commit, create, file, large_file, post, upload


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

# Two whole parts of an upload and a short one.
LARGE_BYTES = 150_000_007

# A server that is killed just before it renames something, after as many renames as the file at {countdown} says.
DYING_SERVER = """
import os, signal, sys
from pathlib import Path
from hub import local_server

countdown = Path({countdown!r})

def dying(function):
    def call(*arguments, **options):
        if countdown.exists():
            left = int(countdown.read_text())
            if left == 0:
                countdown.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            countdown.write_text(str(left - 1))
        return function(*arguments, **options)
    return call

os.rename, os.replace = dying(os.rename), dying(os.replace)
sys.exit(local_server.main())
"""


def publish(hub: LocalHub, name: str, confirmed: list[str]) -> None:
    """
    Makes `org/{name}` with a regular and a large file and a tag, as far as that is not done yet, and adds each path
    that exists from then on to `confirmed`.
    """
    repo, large = f"org/{name}", b"\0" + name.encode() * 1000
    create(hub, repo)
    confirmed.append(f"/api/models/{repo}")
    upload(hub, repo, large)
    assert commit(hub, repo, file("sub/name.txt", name.encode()), large_file("large.bin", large))[0] == 200
    confirmed.append(f"/{repo}/resolve/main/large.bin")
    assert post(hub, f"/api/models/{repo}/tag/main", {"tag": "step1"})[0] in (201, 409)
    confirmed.append(f"/{repo}/resolve/step1/sub/name.txt")


def assert_sound(folder: Path) -> None:
    """Every git repository is free of broken objects, every large file is what its name says, nothing is left over."""
    for repository in folder.glob("models/*/*"):
        assert list(fsck(str(repository / "git"))) == []
        for blob in repository.glob("lfs/*/*"):
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        assert list((repository / "incoming").iterdir()) == []
    assert list((folder / "incoming").iterdir()) == []


def test_a_server_killed_at_any_rename_keeps_what_it_confirmed(local_hub: LocalHub, tmp_path: Path) -> None:
    countdown = tmp_path / "countdown"
    launcher = ["-c", DYING_SERVER.format(countdown=str(countdown))]
    confirmed: list[str] = []
    local_hub.stop()
    local_hub.start(launcher=launcher)
    for renames in count():
        countdown.write_text(str(renames))
        try:
            publish(local_hub, f"name{renames}", confirmed)
        except (ConnectionError, TimeoutError):
            local_hub.stop(signal.SIGKILL)
            local_hub.start(launcher=launcher)
        if countdown.exists():
            break
        assert_sound(local_hub.folder)
        assert [path for path in confirmed if local_hub.call("HEAD", path)[0] != 200] == []
        publish(local_hub, f"name{renames}", confirmed)
    assert renames > 10, "the server was never killed while it wrote"
    result = local_hub.run_python(f"""
        from pathlib import Path
        from huggingface_hub import HfApi, snapshot_download

        for name in (f"name{{number}}" for number in range({renames + 1})):
            commits = HfApi().list_repo_commits(f"org/{{name}}", revision="step1")
            assert [commit.title for commit in commits] == ["publish", "initial commit"], name
            folder = Path(snapshot_download(f"org/{{name}}", revision="step1"))
            assert (folder / "sub" / "name.txt").read_text() == name
            assert (folder / "large.bin").read_bytes() == b"\\0" + name.encode() * 1000
    """)
    assert result.returncode == 0, result.stderr


def test_what_a_killed_xet_client_leaves_harms_no_other(local_hub: LocalHub) -> None:
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
    for number in range(4):
        copy = shutil.copytree(left, left.with_name(f"xet-{number}"))
        (damaged,) = copy.glob(f"xet/xorbs/{'shards/*.mdb' if number % 2 else 'xorbs/default.*[0-9a-f]'}")
        damaged.write_bytes(damaged.read_bytes()[:100] if number < 2 else bytes(len(damaged.read_bytes())))
    shutil.rmtree(left)
    content = b"\0" + bytes(range(256)) * 1000
    assert "was not uploaded" in commit(local_hub, "org/name", large_file("f.bin", content))[1]["error"]
    result = local_hub.run_python(script.format(deadly=False), HF_HUB_DISABLE_XET="0")
    assert result.returncode == 0, result.stderr
    assert local_hub.call("GET", "/org/name/resolve/main/f.bin")[2] == content
    local_hub.stop()
    local_hub.start()
    assert_sound(local_hub.folder)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux reports the peak of another process")
def test_large_files_pass_through_without_filling_the_memory(local_hub: LocalHub) -> None:
    script = """
        from pathlib import Path
        from huggingface_hub import HfApi, hf_hub_download

        Path("folder").mkdir()
        with open("folder/large.bin", "wb") as file:
            file.truncate({size} - 4)
            file.seek(0, 2)
            file.write(b"tail")
        Path("folder/small.bin").write_bytes(b"\\0small")
        api = HfApi()
        api.create_repo("org/{name}")
        api.upload_folder(repo_id="org/{name}", folder_path="folder")
        for path in Path("folder").iterdir():
            assert Path(hf_hub_download("org/{name}", path.name)).read_bytes() == path.read_bytes()
    """
    # What a server needs for any upload does not matter here.
    assert local_hub.run_python(script.format(name="warmup", size=1000)).returncode == 0
    before = peak_memory(local_hub)
    # In parts, as every upload of more than 64 MiB.
    result = local_hub.run_python(script.format(name="parts", size=LARGE_BYTES))
    assert result.returncode == 0, result.stderr
    # By a single request, as of clients that know no parts.
    upload(local_hub, "org/warmup", bytes(LARGE_BYTES))
    assert commit(local_hub, "org/warmup", large_file("whole.bin", bytes(LARGE_BYTES)))[0] == 200
    assert local_hub.call("GET", "/org/warmup/resolve/main/whole.bin")[2] == bytes(LARGE_BYTES)
    assert peak_memory(local_hub) - before < 60 << 20
    assert_sound(local_hub.folder)


def peak_memory(hub: LocalHub) -> int:
    """The most bytes of memory that the server has had so far."""
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024


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
