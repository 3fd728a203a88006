"""Publishing against a Hub in a folder, with the real client, each time in a process of its own."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hub.publishing.client_errors import one_line_errors
from hub.run.errors import PublishError
from tests.hub.fake_run import fake_results, write_run


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

REPO = "org/run"
TOKENS = {
    "hf_writer": {"name": "alice", "orgs": ["org"], "role": "write"},
    "hf_reader": {"name": "bob", "orgs": ["org"], "role": "read"},
    "hf_stranger": {"name": "carol", "orgs": [], "role": "write"},
}
PUBLISH = """
    import sys
    from hub.publish import main
    sys.exit(main({arguments!r}))
"""
INSPECT = """
    import json
    from pathlib import Path
    from huggingface_hub import HfApi, snapshot_download
    api = HfApi()
    refs = api.list_repo_refs({repo!r})
    commits = [commit.commit_id for commit in api.list_repo_commits({repo!r})]
    tags = {{tag.name: tag.target_commit for tag in refs.tags}}
    for name in [*tags, "main"]:
        snapshot_download({repo!r}, revision=name, local_dir=Path({folder!r}) / name)
    print(json.dumps({{"commits": commits, "tags": tags, "main": refs.branches[0].target_commit}}))
"""


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of three steps; tests change copies of it."""
    return write_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def publish(
    hub: "LocalHub", run: Path, *options: str, repo: str = REPO, **env: str
) -> subprocess.CompletedProcess[str]:
    """`python -m hub.publish`, to its end."""
    return hub.run_python(PUBLISH.format(arguments=[str(run), "--hub_model_id", repo, *options]), **env)


def published(hub: "LocalHub", run: Path, *options: str, **env: str) -> str:
    """The output of a publication that must succeed."""
    done = publish(hub, run, *options, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that must fail with nothing but one line."""
    assert done.returncode == 1, (done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def inspect(hub: "LocalHub", downloads: Path, **env: str) -> dict[str, Any]:
    """Commits, tags and main of the repository; each revision is downloaded below `downloads`."""
    shutil.rmtree(downloads, ignore_errors=True)
    done = hub.run_python(INSPECT.format(repo=REPO, folder=str(downloads)), **env)
    assert done.returncode == 0, done.stderr
    state: dict[str, Any] = json.loads(done.stdout)
    return state


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by relative path, without what the Hub and its client add."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    found.pop(".gitattributes", None)
    return found


def test_each_revision_equals_its_folder_and_is_made_once(local_hub: "LocalHub", run: Path, tmp_path: Path) -> None:
    expected = [f"{local_hub.endpoint}/{REPO}/tree/step{t}  published" for t in (1, 2, 3)]
    assert published(local_hub, run).splitlines() == expected

    first = inspect(local_hub, tmp_path / "remote")
    assert sorted(first["tags"]) == ["step1", "step2", "step3"]
    for tag in first["tags"]:
        assert contents(tmp_path / "remote" / tag) == contents(run / tag)
        assert REPO in (run / tag / "README.md").read_text(), "the card names the repository"
    history = [first["tags"][tag] for tag in ("step3", "step2", "step1")]
    assert first["commits"][:3] == history and first["main"] == history[0], "one commit a step, in order"

    assert "published" not in published(local_hub, run)
    assert inspect(local_hub, tmp_path / "remote") == first


@pytest.mark.parametrize(
    "moment", ["before the tag", "after the commit, its answer lost", "tag made, its answer lost"]
)
def test_a_broken_publication_is_finished_by_running_it_again(
    local_hub: "LocalHub", run: Path, tmp_path: Path, moment: str
) -> None:
    breakage = {
        "before the tag": "HfApi.create_tag = lambda *a, **k: os._exit(9) if k['tag'] == 'step2' else tag(*a, **k)",
        "after the commit, its answer lost": "HfApi.create_commit = lose(HfApi.create_commit)",
        "tag made, its answer lost": "HfApi.create_tag = lose(HfApi.create_tag)",
    }[moment]
    broken = local_hub.run_python(
        f"""
        import os
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError
        from hub.publish import publish_run
        tag = HfApi.create_tag
        def lose(method):
            def answer_lost(*args, **kwargs):
                method(*args, **kwargs)
                raise HTTPError("Server disconnected without sending a response.")
            return answer_lost
        {breakage}
        publish_run({str(run)!r}, {REPO!r})
        """
    )
    killed = moment == "before the tag"
    assert broken.returncode == (9 if killed else 0), broken.stderr
    assert ("  published" in published(local_hub, run)) == killed, "a lost answer is no failure"
    state = inspect(local_hub, tmp_path / "remote")
    assert len(state["commits"]) == 4, "the initial commit and one a step, none twice"
    for tag in ("step1", "step2", "step3"):
        assert contents(tmp_path / "remote" / tag) == contents(run / tag)


def test_other_content_is_refused_then_replaced_on_request(local_hub: "LocalHub", run: Path, tmp_path: Path) -> None:
    published(local_hub, run)
    before = inspect(local_hub, tmp_path / "remote")
    for name in ("model.safetensors", "training_config.yaml"):
        content = (run / "step2" / name).read_bytes()
        (run / "step2" / name).write_bytes(content[:-2] + b"7" + content[-1:])
    (run / "step2" / "figures" / "extra.png").write_bytes(b"\x89PNG")

    message = one_line_error(publish(local_hub, run))
    assert "(model.safetensors, training_config.yaml, figures/extra.png)" in message, "same size, other bytes"
    assert "step2" in message and "--overwrite_revisions" in message
    assert inspect(local_hub, tmp_path / "remote") == before

    published(local_hub, run, "--overwrite_revisions")
    after = inspect(local_hub, tmp_path / "remote")
    assert after["tags"]["step1"] == before["tags"]["step1"], "equal content is left alone"
    assert after["main"] == after["tags"]["step3"], "main is the last step"
    assert set(before["commits"]) < set(after["commits"]), "what was replaced stays in the history"
    for tag in ("step1", "step2", "step3"):
        assert contents(tmp_path / "remote" / tag) == contents(run / tag)
    assert "figures/extra.png" not in contents(tmp_path / "remote" / "main"), "files of another step do not linger"


def test_a_shorter_run_replaces_a_longer_one_whole(local_hub: "LocalHub", run: Path, tmp_path: Path) -> None:
    published(local_hub, run)
    other = write_run(tmp_path / "other", fake_results(2, seed=7))
    published(local_hub, other, "--overwrite_revisions")
    state = inspect(local_hub, tmp_path / "remote")
    assert sorted(state["tags"]) == ["step1", "step2"]
    assert contents(tmp_path / "remote" / "main") == contents(other / "step2")


def test_only_listed_files_go_up_and_secrets_never(local_hub: "LocalHub", run: Path, tmp_path: Path) -> None:
    step = run / "step1"
    for stray in (
        ".env",
        "optimizer.pt",
        "pytorch_model.bin",
        "figures/notes.txt",
        "figures/deep/x.png",
        "state/a.json",
    ):
        (step / stray).parent.mkdir(exist_ok=True, parents=True)
        (step / stray).write_text("hf_" + "s" * 34)
    published(local_hub, run)
    inspect(local_hub, tmp_path / "remote")
    assert sorted(contents(tmp_path / "remote" / "step1")) == sorted(contents(run / "step2"))

    secret = "hf_" + "A1b2" * 9
    (run / "step3" / "training_config.yaml").write_text(f"hub_token: {secret}\n")
    message = one_line_error(publish(local_hub, run, repo="org/second"))
    assert "step3/training_config.yaml" in message and secret not in message


def test_steps_are_published_in_order(local_hub: "LocalHub", run: Path, tmp_path: Path) -> None:
    shutil.move(run / "step1", tmp_path / "step1")
    assert "no step1 yet, publish it before step2" in one_line_error(publish(local_hub, run))

    shutil.move(tmp_path / "step1", run / "step1")
    published(local_hub, run)
    local_hub.run_python(f"from huggingface_hub import HfApi; HfApi().delete_tag({REPO!r}, tag='step2')")
    assert "has step3 but not step2" in one_line_error(publish(local_hub, run))


def test_commits_of_others_on_main_are_not_buried(local_hub: "LocalHub", run: Path, tmp_path: Path) -> None:
    shutil.move(run / "step3", tmp_path / "step3")
    published(local_hub, run)
    add_note = f"""
        from huggingface_hub import HfApi
        HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="note.txt", repo_id={REPO!r})
    """
    assert local_hub.run_python(add_note).returncode == 0
    shutil.move(tmp_path / "step3", run / "step3")
    assert "main of org/run has commits after step2" in one_line_error(publish(local_hub, run))
    published(local_hub, run, "--overwrite_revisions")
    inspect(local_hub, tmp_path / "remote")
    assert contents(tmp_path / "remote" / "main") == contents(run / "step3")


def test_a_commit_that_slips_in_between_is_a_conflict(local_hub: "LocalHub", run: Path) -> None:
    done = local_hub.run_python(
        f"""
        import sys
        from huggingface_hub import CommitOperationAdd, HfApi
        from hub.publish import main
        commit = HfApi.create_commit
        def late(self, repo_id, operations, **kwargs):
            commit(self, repo_id, [CommitOperationAdd("note.txt", b"x")], commit_message="first")
            return commit(self, repo_id, operations, **kwargs)
        HfApi.create_commit = late
        sys.exit(main([{str(run)!r}, "--hub_model_id", {REPO!r}]))
        """
    )
    assert "someone else has changed main of org/run meanwhile (412)" in one_line_error(done)


def test_a_repository_with_another_model_is_left_alone(local_hub: "LocalHub", run: Path) -> None:
    local_hub.run_python(
        f"""
        from huggingface_hub import HfApi
        HfApi().create_repo({REPO!r})
        HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="tokenizer.json", repo_id={REPO!r})
        """
    )
    message = one_line_error(publish(local_hub, run))
    assert "already holds other files (tokenizer.json)" in message


def test_dry_run_tells_and_writes_nothing(local_hub: "LocalHub", run: Path, tmp_path: Path) -> None:
    folder_before = contents(run)
    tree = f"{local_hub.endpoint}/{REPO}/tree"
    plan = [f"{tree}/step{t}  would be published" for t in (1, 2, 3)]
    assert published(local_hub, run, "--dry_run").splitlines() == plan
    assert contents(run) == folder_before
    assert (
        "missing"
        in local_hub.run_python(
            f"from huggingface_hub import HfApi; print('there' if HfApi().repo_exists({REPO!r}) else 'missing')"
        ).stdout
    )

    published(local_hub, run)
    before = inspect(local_hub, tmp_path / "remote")
    (run / "step3" / "training_config.yaml").write_text("num_epochs: 99\n")
    assert published(local_hub, run, "--dry_run", "--overwrite_revisions").splitlines() == [
        f"{tree}/step1  already there",
        f"{tree}/step2  already there",
        f"{tree}/step3  would be published",
    ]
    assert inspect(local_hub, tmp_path / "remote") == before


def test_a_token_without_the_right_is_one_line(start_local_hub: Callable[..., "LocalHub"], run: Path) -> None:
    hub = start_local_hub(TOKENS)
    expected = {
        "hf_reader": "the token may not write to org/run (403)",
        "hf_stranger": "the token may not write to org/run (403)",
        "hf_unknown": "the Hub does not accept the token",
        "": "(401)",
    }
    for token, reason in expected.items():
        message = one_line_error(publish(hub, run, HF_TOKEN=token))
        assert reason in message and (not token or token not in message)


def test_a_token_that_an_error_repeats_is_masked() -> None:
    token, other = "secret-of-mine", "hf_" + "x" * 34
    with pytest.raises(PublishError) as caught, one_line_errors("publish", "org/run", token):
        raise OSError(f"bad header\nAuthorization: Bearer {token} {other}")
    message = str(caught.value)
    assert token not in message and other not in message and "\n" not in message
    assert caught.value.__cause__ is None and caught.value.__suppress_context__, "the traceback does not repeat it"


def test_no_server_and_offline_are_one_line(local_hub: "LocalHub", run: Path) -> None:
    assert "offline mode is on" in one_line_error(publish(local_hub, run, HF_HUB_OFFLINE="1"))
    local_hub.stop()
    assert "no connection to the Hub" in one_line_error(publish(local_hub, run))


def test_publishing_to_a_second_repository_renames_the_card(local_hub: "LocalHub", run: Path) -> None:
    card = run / "step1" / "README.md"
    card.write_text(card.read_text() + "\nA note of the author.\n")
    published(local_hub, run)
    assert publish(local_hub, run, "--private", repo="org/second").returncode == 0
    check = "from huggingface_hub import HfApi; print(HfApi().model_info('org/second').private)"
    assert local_hub.run_python(check).stdout.strip() == "True"
    text = card.read_text()
    assert "org/second" in text and "org/run" not in text and text.endswith("A note of the author.\n")
    assert "published" not in published(local_hub, run), "and back again equals what is there"
