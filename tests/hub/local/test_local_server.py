"""The local Hub as the unmodified clients of the Hugging Face ecosystem see it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

XET_OFF, XET_ON = "1", "0"
TOKENS = {
    "hf_alice": {"name": "alice", "orgs": ["org"], "role": "write"},
    "hf_reader": {"name": "reader", "orgs": ["org"], "role": "read"},
    "hf_other": {"name": "other"},
}
UPLOAD = """
    from pathlib import Path
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    Path("folder").mkdir()
    Path("folder/large.bin").write_bytes(b"\\0large" * 1000)
    Path("folder/small.txt").write_text("small")
    api = HfApi()
    api.create_repo({repo!r}, exist_ok=True)
    try:
        api.upload_folder(repo_id={repo!r}, folder_path="folder", commit_message="upload")
    except (HfHubHTTPError, HTTPError) as error:
        print(type(error).__name__)
    else:
        print([commit.title for commit in api.list_repo_commits({repo!r})])
"""
PUT, COMMIT = {"method": "PUT", "path": "/objects/"}, {"method": "POST", "path": "/commit/"}
ONCE = "['upload', 'initial commit']"


def check(result: subprocess.CompletedProcess[str]) -> None:
    """The assertions of client code hold."""
    assert result.returncode == 0, result.stderr


def test_repositories_are_made_changed_and_deleted(local_hub: LocalHub) -> None:
    check(
        local_hub.run_python("""
            from huggingface_hub import HfApi
            from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

            api = HfApi()
            for kind in ("model", "dataset", "space"):
                extra = {"space_sdk": "gradio"} if kind == "space" else {}
                made = api.create_repo("org/name", repo_type=kind, private=True, **extra)
                assert (made.repo_id, made.repo_type) == ("org/name", kind)
                assert api.create_repo("org/name", repo_type=kind, exist_ok=True, **extra) == made
                try:
                    api.create_repo("org/name", repo_type=kind, **extra)
                except HfHubHTTPError as error:
                    assert error.response.status_code == 409
                else:
                    raise AssertionError("a repository was made twice")
                info = api.repo_info("org/name", repo_type=kind)
                assert info.private and info.author == "org" and info.created_at is not None
                assert [file.rfilename for file in info.siblings] == [".gitattributes"]
                api.update_repo_settings("org/name", repo_type=kind, visibility="public")
                assert not api.repo_info("org/name", repo_type=kind).private
            api.delete_repo("org/name")
            assert not api.repo_exists("org/name") and api.repo_exists("org/name", repo_type="dataset")
            api.delete_repo("org/name", missing_ok=True)
            for missing in ("org/name", "name"):
                try:
                    api.model_info(missing)
                except RepositoryNotFoundError:
                    continue
                raise AssertionError(f"{missing} was found")
            assert api.create_repo("mine").repo_id == api.whoami()["name"] + "/mine"
        """)
    )


@pytest.mark.parametrize("disable_xet", [XET_OFF, XET_ON])
def test_a_folder_comes_back_as_it_was_uploaded(local_hub: LocalHub, disable_xet: str) -> None:
    check(
        local_hub.run_python(
            """
            import os
            from pathlib import Path
            import numpy
            from huggingface_hub import HfApi, hf_hub_download, snapshot_download
            from safetensors.numpy import save_file

            api = HfApi()
            api.create_repo("org/name")
            source = Path("source")
            (source / "sub é").mkdir(parents=True)
            save_file({"weight": numpy.arange(300000)}, source / "model.safetensors")
            (source / "sub é" / "a b.txt").write_text("text é")
            (source / "figure.png").write_bytes(b"\\x89PNG" + os.urandom(3000))
            (source / "empty.json").touch()
            (source / "copy.bin").write_bytes((source / "model.safetensors").read_bytes())
            (source / "long.txt").write_text("x" * 11_000_000)

            first = api.upload_folder(repo_id="org/name", folder_path=source)
            assert api.upload_folder(repo_id="org/name", folder_path=source).oid == first.oid
            titles = [commit.title for commit in api.list_repo_commits("org/name")]
            assert titles == ["Upload folder using huggingface_hub", "initial commit"]

            files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
            got = Path(snapshot_download("org/name", revision=first.oid))
            assert {name: path.read_bytes() for name, path in files.items()} == {
                name: (got / name).read_bytes() for name in files
            }
            info = api.model_info("org/name", files_metadata=True)
            assert info.sha == first.oid
            sizes = {file.rfilename: file.size for file in info.siblings if file.rfilename != ".gitattributes"}
            assert sizes == {name: path.stat().st_size for name, path in files.items()}
            large = {file.rfilename for file in info.siblings if file.lfs}
            assert large == {"model.safetensors", "figure.png", "copy.bin", "long.txt"}

            only = Path(snapshot_download("org/name", allow_patterns="sub*/*", local_dir="only"))
            assert [path.name for path in only.rglob("*.*") if ".cache" not in path.parts] == ["a b.txt"]
            old = Path(snapshot_download("org/name", revision=first.oid, allow_patterns=["*.bin"], local_dir="old"))
            assert [path.name for path in old.glob("*.*") if path.is_file()] == ["copy.bin"]
            one = Path(hf_hub_download("org/name", "sub é/a b.txt", revision=first.oid, local_dir="one"))
            assert one == Path("one/sub é/a b.txt").resolve() and one.read_text() == "text é"
            again = hf_hub_download("org/name", "a b.txt", subfolder="sub é", force_download=True)
            assert Path(again).read_text() == "text é"
            metadata = api.get_safetensors_metadata("org/name")
            assert metadata.parameter_count == {"I64": 300000}

            (source / "copy.bin").write_bytes(os.urandom(5000))
            (source / "sub é" / "a b.txt").unlink()
            second = api.upload_folder(repo_id="org/name", folder_path=source, delete_patterns="sub*/*")
            assert second.oid != first.oid and not api.file_exists("org/name", "sub é/a b.txt")
            assert api.file_exists("org/name", "sub é/a b.txt", revision=first.oid)
            newest = hf_hub_download("org/name", "copy.bin")
            assert Path(newest).read_bytes() == (source / "copy.bin").read_bytes()
            """,
            HF_HUB_DISABLE_XET=disable_xet,
        )
    )


def upload(hub: LocalHub, repo: str, disable_xet: str = XET_OFF) -> str:
    """Upload a folder to `repo`; the titles of its commits, or what kind of error it was."""
    result = hub.run_python(UPLOAD.format(repo=repo), HF_HUB_DISABLE_XET=disable_xet)
    check(result)
    return result.stdout.strip()


@pytest.mark.parametrize(
    "faults",
    [
        [{**PUT, "kind": "status", "count": 2}],
        [{**PUT, "kind": "drop_before"}, {**PUT, "kind": "drop_after"}],
        [{"method": "POST", "path": "/preupload/", "kind": "status", "status": 429}],
        [{"method": "POST", "path": "/objects/batch$", "kind": "drop_after"}],
        [{"method": "POST", "path": "/verify$", "kind": "status", "status": 500}],
    ],
    ids=["put-503-twice", "put-dropped-twice", "preupload-429", "batch-dropped", "verify-500"],
)
def test_the_client_gets_over_a_failed_upload(local_hub: LocalHub, faults: list[dict[str, object]]) -> None:
    local_hub.inject(*faults)
    assert upload(local_hub, "org/name") == ONCE
    assert local_hub.num_hits == sum(int(str(fault.get("count", 1))) for fault in faults)


@pytest.mark.parametrize("disable_xet", [XET_OFF, XET_ON])
@pytest.mark.parametrize("kind", ["status", "drop_before", "drop_after"])
def test_a_failed_commit_is_made_once(local_hub: LocalHub, disable_xet: str, kind: str) -> None:
    local_hub.inject({**COMMIT, "kind": kind})
    first = upload(local_hub, "org/name", disable_xet)
    assert local_hub.num_hits == 1
    # The pipeline for xet sends a commit again by itself.
    assert (first == ONCE) == (disable_xet == XET_ON), first
    local_hub.inject({**PUT, "kind": "status"})
    assert upload(local_hub, "org/name", disable_xet) == ONCE
    assert local_hub.num_hits == 0, "the large file was there already"


def test_commits(local_hub: LocalHub) -> None:
    check(
        local_hub.run_python("""
            from pathlib import Path
            from huggingface_hub import (
                CommitOperationAdd as Add, CommitOperationCopy as Copy, CommitOperationDelete as Delete, HfApi,
                hf_hub_download,
            )
            from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError, RevisionNotFoundError

            api = HfApi()
            api.create_repo("org/name")

            def commit(*operations, **options):
                return api.create_commit("org/name", operations, commit_message="message", **options)

            def read(name, revision="main"):
                return Path(hf_hub_download("org/name", name, revision=revision)).read_bytes()

            def fails(kind, function, *arguments, **options):
                try:
                    function(*arguments, **options)
                except kind as error:
                    return error
                raise AssertionError(f"no {kind.__name__}")

            first = commit(
                Add("a.txt", b"a"), Add("dir/b.txt", b"b"), Add("dir/c.bin", b"\\0c"), Add("model.safetensors", b"m"),
                commit_description="in two\\nlines",
            )
            second = commit(
                Copy("a.txt", "copy.txt"), Copy("model.safetensors", "copy.safetensors"), Delete("a.txt"),
                Delete("dir/"), Add("new.txt", b"n"), parent_commit=first.oid,
            )
            assert sorted(api.list_repo_files("org/name")) == [
                ".gitattributes", "copy.safetensors", "copy.txt", "model.safetensors", "new.txt",
            ]
            assert (read("copy.txt"), read("copy.safetensors"), read("dir/c.bin", first.oid)) == (b"a", b"m", b"\\0c")

            stale = fails(HfHubHTTPError, commit, Add("late.txt", b"l"), parent_commit=first.oid)
            assert stale.response.status_code == 412
            fails(RemoteEntryNotFoundError, commit, Delete("absent.txt"))
            fails(RemoteEntryNotFoundError, commit, Delete("absent/"))
            fails(RevisionNotFoundError, commit, Add("x.txt", b"x"), revision="absent")
            assert fails(HfHubHTTPError, commit, Add("new.txt/x", b"x")).response.status_code == 400
            assert fails(HfHubHTTPError, commit, Add("x.txt", b"x"), create_pr=True).response.status_code == 400
            assert commit(Delete("new.txt"), Add("new.txt", b"n")).oid == second.oid, "a commit that changes nothing"
            assert api.model_info("org/name").sha == second.oid

            fails(RemoteEntryNotFoundError, hf_hub_download, "org/name", "absent.txt")
            fails(RevisionNotFoundError, hf_hub_download, "org/name", "new.txt", revision="absent")
            fails(RevisionNotFoundError, api.model_info, "org/name", revision="0" * 40)

            commit(Add(".gitignore", b"*.log\\n"))
            commit(Add("kept.txt", b"k"), Add("ignored.log", b"i"))
            assert api.file_exists("org/name", "kept.txt") and not api.file_exists("org/name", "ignored.log")

            log = api.list_repo_commits("org/name")
            assert [entry.commit_id for entry in log[-3:-1]] == [second.oid, first.oid]
            assert (log[-2].title, log[-2].message, log[-2].authors) == ("message", "in two\\nlines", ["local"])

            entries = {entry.path: entry for entry in api.list_repo_tree("org/name", recursive=True, expand=True)}
            assert entries["copy.txt"].last_commit.oid == second.oid
            assert entries["model.safetensors"].last_commit.oid == first.oid
            assert entries["model.safetensors"].lfs.size == entries["model.safetensors"].size == 1
            root = api.list_repo_tree("org/name", revision=first.oid)
            at_first = {entry.path: type(entry).__name__ for entry in root}
            assert at_first["dir"] == "RepoFolder" and "dir/b.txt" not in at_first
            inside = [entry.path for entry in api.list_repo_tree("org/name", "dir", revision=first.oid)]
            assert inside == ["dir/b.txt", "dir/c.bin"]
            fails(RemoteEntryNotFoundError, lambda: list(api.list_repo_tree("org/name", "absent")))
            assert [entry.path for entry in api.get_paths_info("org/name", ["copy.txt", "absent"])] == ["copy.txt"]
        """)
    )


def test_long_lists_come_in_pages(local_hub: LocalHub) -> None:
    check(
        local_hub.run_python("""
            from huggingface_hub import CommitOperationAdd, HfApi

            api = HfApi()
            api.create_repo("org/name")
            for number in range(57):
                content = {"path_or_fileobj": b"%d" % number, "path_in_repo": "n"}
                api.upload_file(repo_id="org/name", commit_message=f"c{number}", **content)
            titles = [commit.title for commit in api.list_repo_commits("org/name")]
            assert titles == [*(f"c{number}" for number in reversed(range(57))), "initial commit"]
            names = [f"many/{number:04}.txt" for number in range(1100)]
            api.create_commit("org/name", [CommitOperationAdd(name, b"same") for name in names], commit_message="many")
            listed = [entry.path for entry in api.list_repo_tree("org/name", "many", recursive=True)]
            assert listed == names
        """)
    )


def test_branches_and_tags(local_hub: LocalHub) -> None:
    check(
        local_hub.run_python("""
            from pathlib import Path
            from huggingface_hub import HfApi, hf_hub_download, snapshot_download
            from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

            api = HfApi()
            api.create_repo("org/name")

            def upload(text, revision=None):
                options = {"path_or_fileobj": text.encode(), "path_in_repo": "f.txt", "revision": revision}
                return api.upload_file(repo_id="org/name", **options).oid

            def read(revision):
                return Path(hf_hub_download("org/name", "f.txt", revision=revision)).read_text()

            def status(function, *arguments, **options):
                try:
                    function("org/name", *arguments, **options)
                except HfHubHTTPError as error:
                    return error.response.status_code
                raise AssertionError("no error")

            one = upload("one")
            api.create_tag("org/name", tag="step1")
            api.create_branch("org/name", branch="feat/x")
            two = upload("two")
            api.create_tag("org/name", tag="step2", tag_message="annotated")
            api.create_tag("org/name", tag="at-sha", revision=one)
            side = upload("side", "feat/x")
            api.create_branch("org/name", branch="old", revision="step1")

            refs = api.list_repo_refs("org/name", include_pull_requests=True)
            assert {ref.name: ref.target_commit for ref in refs.branches} == {"feat/x": side, "main": two, "old": one}
            assert {ref.name: ref.target_commit for ref in refs.tags} == {"at-sha": one, "step1": one, "step2": two}
            assert refs.pull_requests == [] and refs.tags[0].ref == "refs/tags/at-sha"
            revisions = ["step1", "step2", "at-sha", "main", "feat/x", "refs/heads/old", one, side]
            assert [read(name) for name in revisions] == ["one", "two", "one", "two", "side", "one", "one", "side"]
            log = api.list_repo_commits("org/name", revision="feat/x")
            assert [commit.commit_id for commit in log[:2]] == [side, one]

            Path("folder").mkdir()
            Path("folder/large.bin").write_bytes(b"\\0large")
            api.upload_folder(repo_id="org/name", folder_path="folder", revision="feat/x", path_in_repo="sub")
            snapshot = Path(snapshot_download("org/name", revision="feat/x"))
            assert (snapshot / "sub" / "large.bin").read_bytes() == b"\\0large"
            assert api.model_info("org/name", revision="feat/x").sha != side
            assert api.file_exists("org/name", "sub/large.bin", revision="feat/x")
            assert not api.file_exists("org/name", "sub/large.bin")

            api.create_tag("org/name", tag="step1", exist_ok=True)
            api.create_branch("org/name", branch="feat/x", exist_ok=True)
            assert status(api.create_tag, tag="step1") == status(api.create_branch, branch="feat/x") == 409
            assert status(api.create_branch, branch="feat") == status(api.create_branch, branch="old/er") == 409
            assert status(api.create_tag, tag="x", revision="absent") == 404
            assert status(api.delete_branch, branch="main") == 403
            assert status(api.delete_branch, branch="absent") == status(api.delete_tag, tag="absent") == 404
            new = {"path_or_fileobj": b"x", "path_in_repo": "x"}
            assert status(lambda repo_id: api.upload_file(repo_id=repo_id, revision="step1", **new)) == 400
            api.delete_tag("org/name", tag="step2")
            api.delete_branch("org/name", branch="feat/x")
            api.create_branch("org/name", branch="feat")
            assert not api.revision_exists("org/name", "step2") and api.revision_exists("org/name", "feat")
            assert read(side) == "side", "a commit outlives its branch"
        """)
    )


def test_accounts_see_and_change_what_they_may(start_local_hub: Callable[..., LocalHub]) -> None:
    hub = start_local_hub(TOKENS)
    check(
        hub.run_python("""
            from huggingface_hub import HfApi, hf_hub_download
            from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

            alice, reader, other, wrong = (HfApi(token=f"hf_{name}") for name in ("alice", "reader", "other", "wrong"))
            nobody = HfApi(token=False)

            def status(function, *arguments, **options):
                try:
                    function(*arguments, **options)
                except HfHubHTTPError as error:
                    return error.response.status_code, type(error) is RepositoryNotFoundError
                return 200, False

            who = alice.whoami()
            assert (who["name"], [org["name"] for org in who["orgs"]]) == ("alice", ["org"])
            roles = [api.whoami()["auth"]["accessToken"]["role"] for api in (alice, reader)]
            assert roles == ["write", "read"]
            assert status(wrong.model_info, "org/open") == (401, False)

            alice.create_repo("org/open")
            alice.create_repo("org/hidden", private=True)
            assert alice.create_repo("own").repo_id == "alice/own"
            content = {"path_or_fileobj": b"\\0binary", "path_in_repo": "f.bin"}
            for name in ("open", "hidden"):
                alice.upload_file(repo_id=f"org/{name}", **content)
                for member in (alice, reader):
                    assert member.model_info(f"org/{name}").id == f"org/{name}"
                    assert hf_hub_download(f"org/{name}", "f.bin", token=member.token, force_download=True)
            for stranger in (other, nobody):
                assert stranger.model_info("org/open").id == "org/open"
            assert status(other.model_info, "org/hidden") == (404, True)
            assert status(nobody.model_info, "org/hidden") == (401, True)
            assert status(nobody.list_repo_refs, "org/hidden") == (401, True)
            assert status(hf_hub_download, "org/hidden", "f.bin", token=other.token, cache_dir="new") == (404, True)
            assert status(other.upload_file, repo_id="org/hidden", **content) == (404, True)

            for api, expected in ((reader, 403), (other, 403), (nobody, 401)):
                changes = [
                    (api.upload_file, {"repo_id": "org/open", **content}),
                    (api.create_branch, {"repo_id": "org/open", "branch": "b"}),
                    (api.create_tag, {"repo_id": "org/open", "tag": "t"}),
                    (api.update_repo_settings, {"repo_id": "org/open", "visibility": "private"}),
                    (api.delete_repo, {"repo_id": "org/open"}),
                    (api.create_repo, {"repo_id": "org/new"}),
                ]
                statuses = [status(change, **options)[0] for change, options in changes]
                assert statuses == [expected] * len(changes), (api.token, statuses)
            refs = alice.list_repo_refs("org/open")
            assert ([ref.name for ref in refs.branches], refs.tags) == (["main"], [])
            assert other.create_repo("mine").repo_id == "other/mine"
        """)
    )


def test_cards_are_validated_and_read(local_hub: LocalHub) -> None:
    check(
        local_hub.run_python("""
            from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, metadata_update

            api = HfApi()
            api.create_repo("org/name")
            result = EvalResult("image-classification", "digits", "Digits", "accuracy", 0.5)
            data = ModelCardData(model_name="name", license="mit", tags=["one"], eval_results=[result])
            ModelCard("---\\n" + data.to_yaml() + "\\n---\\n# Title").push_to_hub("org/name")
            info = api.model_info("org/name")
            assert info.tags == ["one"] and info.card_data.eval_results == [result]
            metadata_update("org/name", {"tags": ["one", "two"]}, overwrite=True)
            assert ModelCard.load("org/name").data.tags == ["one", "two"]
            api.create_branch("org/name", branch="step1")
            ModelCard("---\\ntags: [three]\\n---\\n").push_to_hub("org/name", revision="step1")
            assert api.model_info("org/name", revision="step1").tags == ["three"]

            bad = ["---\\ntags: [unclosed\\n---\\n", "---\\ntags: 3\\n---\\n", "---\\n- a list\\n---\\n",
                   "---\\nmodel-index: [{name: a, results: [{task: {type: t}}]}]\\n---\\n"]
            for text in bad:
                try:
                    api.upload_file(repo_id="org/name", path_or_fileobj=text.encode(), path_in_repo="README.md")
                except ValueError as error:
                    assert "Invalid metadata" in str(error), error
                    continue
                raise AssertionError(f"accepted {text!r}")
            assert ModelCard.load("org/name").data.tags == ["one", "two"]
        """)
    )


def test_transformers_loads_each_revision(local_hub: LocalHub) -> None:
    check(
        local_hub.run_python("""
            from huggingface_hub import HfApi
            from transformers import AutoConfig, ViTConfig

            api = HfApi()
            api.create_repo("org/name")
            for step in (1, 2):
                ViTConfig(hidden_size=12 * step).save_pretrained("folder")
                api.upload_folder(repo_id="org/name", folder_path="folder")
                api.create_tag("org/name", tag=f"step{step}")
            configs = [AutoConfig.from_pretrained("org/name", revision=name) for name in ("step1", "step2", "main")]
            assert [config.hidden_size for config in configs] == [12, 24, 24]
            try:
                AutoConfig.from_pretrained("org/name", revision="step3")
            except OSError as error:
                assert "not a valid git identifier" in str(error)
            else:
                raise AssertionError("a missing revision was loaded")
            ViTConfig(hidden_size=36).push_to_hub("org/name", revision="feat/x")
            assert AutoConfig.from_pretrained("org/name", revision="feat/x").hidden_size == 36
            assert AutoConfig.from_pretrained("org/name").hidden_size == 24
        """)
    )


def test_datasets_publishes_and_loads(local_hub: LocalHub) -> None:
    check(
        local_hub.run_python("""
            from datasets import Dataset, load_dataset

            first = Dataset.from_dict({"image": [[1, 2], [3, 4]], "label": [0, 1]})
            first.push_to_hub("org/data", split="train")
            Dataset.from_dict({"image": [[5, 6]], "label": [1]}).push_to_hub("org/data", split="test")
            loaded = load_dataset("org/data")
            assert loaded["train"].to_dict() == first.to_dict() and loaded["test"]["label"][:] == [1]
        """)
    )
