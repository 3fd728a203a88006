"""The local Hub as the unmodified clients of the Hugging Face ecosystem see it."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

TOKENS = {
    "hf_alice": {"name": "alice", "orgs": ["org"], "role": "write"},
    "hf_reader": {"name": "reader", "orgs": ["org"], "role": "read"},
    "hf_other": {"name": "other"},
}
PRELUDE = """
import os
from pathlib import Path
from huggingface_hub import (
    CommitOperationAdd as Add, CommitOperationCopy as Copy, CommitOperationDelete as Delete,
    HfApi, hf_hub_download, snapshot_download,
)
from huggingface_hub.errors import HfHubHTTPError

api = HfApi()

def failure(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except HfHubHTTPError as error:
        return type(error).__name__, error.response.status_code

def status(function, *arguments, **options):
    return (failure(function, *arguments, **options) or ("", 200))[1]

def read(repo, name, revision="main"):
    return Path(hf_hub_download(repo, name, revision=revision)).read_bytes()
"""


def check(hub: LocalHub, code: str, **env: str) -> None:
    """The assertions of client code hold."""
    result = hub.run_python(PRELUDE + dedent(code), **env)
    assert result.returncode == 0, result.stderr


def test_repositories_are_made_changed_and_deleted(shared_hub: LocalHub) -> None:
    check(
        shared_hub,
        """
        for kind in ("model", "dataset", "space"):
            extra = {"space_sdk": "gradio"} if kind == "space" else {}
            made = api.create_repo("org/made", repo_type=kind, private=True, **extra)
            assert (made.repo_id, made.repo_type) == ("org/made", kind)
            assert api.create_repo("org/made", repo_type=kind, exist_ok=True, **extra) == made
            assert status(api.create_repo, "org/made", repo_type=kind, **extra) == 409
            info = api.repo_info("org/made", repo_type=kind)
            assert info.private and info.author == "org" and info.created_at is not None
            assert [file.rfilename for file in info.siblings] == [".gitattributes"]
            api.update_repo_settings("org/made", repo_type=kind, visibility="public")
            assert not api.repo_info("org/made", repo_type=kind).private
        api.delete_repo("org/made")
        assert not api.repo_exists("org/made") and api.repo_exists("org/made", repo_type="dataset")
        api.delete_repo("org/made", missing_ok=True)
        for missing in ("org/made", "made"):
            assert failure(api.model_info, missing) == ("RepositoryNotFoundError", 404)
        assert failure(hf_hub_download, "made", "f.bin") == ("RepositoryNotFoundError", 404)
        assert api.create_repo("mine").repo_id == api.whoami()["name"] + "/mine"
        """,
    )


@pytest.mark.parametrize("disable_xet", ["1", "0"], ids=["lfs", "xet"])
def test_a_folder_comes_back_as_it_was_uploaded(shared_hub: LocalHub, disable_xet: str) -> None:
    check(
        shared_hub,
        f"""
        import numpy
        from safetensors.numpy import save_file

        repo = "org/folder{disable_xet}"
        api.create_repo(repo)
        source = Path("source")
        (source / "sub é").mkdir(parents=True)
        save_file({{"weight": numpy.arange(300000)}}, source / "model.safetensors")
        (source / "sub é" / "a b.txt").write_text("text é")
        (source / "figure.png").write_bytes(b"\\x89PNG" + os.urandom(3000))
        (source / "empty.json").touch()
        (source / "empty.bin").touch()
        (source / "copy.bin").write_bytes((source / "model.safetensors").read_bytes())
        (source / "long.txt").write_text("x" * 11_000_000)

        first = api.upload_folder(repo_id=repo, folder_path=source)
        assert api.upload_folder(repo_id=repo, folder_path=source).oid == first.oid
        titles = [commit.title for commit in api.list_repo_commits(repo)]
        assert titles == ["Upload folder using huggingface_hub", "initial commit"]

        files = {{path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}}
        got = Path(snapshot_download(repo, revision=first.oid))
        for name, path in files.items():
            assert (got / name).read_bytes() == path.read_bytes(), name
        info = api.model_info(repo, files_metadata=True)
        assert info.sha == first.oid
        siblings = {{file.rfilename: file for file in info.siblings if file.rfilename != ".gitattributes"}}
        assert {{name: file.size for name, file in siblings.items()}} == {{
            name: path.stat().st_size for name, path in files.items()
        }}
        large = {{name for name, file in siblings.items() if file.lfs and file.lfs.size == file.size}}
        assert large == {{"model.safetensors", "figure.png", "copy.bin", "long.txt"}}

        assert Path(hf_hub_download(repo, "a b.txt", subfolder="sub é", local_dir="one")).read_text() == "text é"
        assert api.get_safetensors_metadata(repo).parameter_count == {{"I64": 300000}}

        (source / "copy.bin").write_bytes(os.urandom(5000))
        (source / "sub é" / "a b.txt").unlink()
        second = api.upload_folder(repo_id=repo, folder_path=source, delete_patterns="sub*/*")
        assert second.oid != first.oid and not api.file_exists(repo, "sub é/a b.txt")
        assert api.file_exists(repo, "sub é/a b.txt", revision=first.oid)
        assert read(repo, "copy.bin") == (source / "copy.bin").read_bytes()
        """,
        HF_HUB_DISABLE_XET=disable_xet,
    )


def test_commits(shared_hub: LocalHub) -> None:
    check(
        shared_hub,
        """
        api.create_repo("org/commits")

        def commit(*operations, **options):
            return api.create_commit("org/commits", operations, commit_message="message", **options)

        adds = [Add("a.txt", b"a"), Add("dir/b.txt", b"b"), Add("dir/c.bin", b"\\0c"), Add("model.safetensors", b"m")]
        first = commit(*adds, commit_description="in two\\nlines")
        second = commit(
            Copy("a.txt", "copy.txt"), Copy("model.safetensors", "copy.safetensors"), Delete("a.txt"),
            Delete("dir/"), Add("new.txt", b"n"), parent_commit=first.oid,
        )
        assert sorted(api.list_repo_files("org/commits")) == [
            ".gitattributes", "copy.safetensors", "copy.txt", "model.safetensors", "new.txt",
        ]
        contents = [read("org/commits", name) for name in ("copy.txt", "copy.safetensors")]
        assert (contents, read("org/commits", "dir/c.bin", first.oid)) == ([b"a", b"m"], b"\\0c")

        missing, unknown = ("RemoteEntryNotFoundError", 404), ("RevisionNotFoundError", 404)
        assert status(commit, Add("late.txt", b"l"), parent_commit=first.oid) == 412
        assert failure(commit, Delete("absent.txt")) == failure(commit, Delete("absent/")) == missing
        assert failure(commit, Add("x.txt", b"x"), revision="absent") == unknown
        assert status(commit, Add("new.txt/x", b"x")) == 400
        assert status(commit, Add("x.txt", b"x"), create_pr=True) == 400
        assert commit(Delete("new.txt"), Add("new.txt", b"n")).oid == second.oid, "a commit that changes nothing"
        assert api.model_info("org/commits").sha == second.oid
        assert failure(hf_hub_download, "org/commits", "absent.txt") == missing
        assert failure(hf_hub_download, "org/commits", "new.txt", revision="absent") == unknown
        assert failure(api.model_info, "org/commits", revision="0" * 40) == unknown

        commit(Add(".gitignore", b"*.log\\n"))
        commit(Add("kept.txt", b"k"), Add("ignored.log", b"i"))
        assert api.file_exists("org/commits", "kept.txt") and not api.file_exists("org/commits", "ignored.log")

        log = api.list_repo_commits("org/commits")
        assert [entry.commit_id for entry in log[-3:-1]] == [second.oid, first.oid]
        assert (log[-2].title, log[-2].message, log[-2].authors) == ("message", "in two\\nlines", ["local"])

        entries = {entry.path: entry for entry in api.list_repo_tree("org/commits", recursive=True, expand=True)}
        assert entries["copy.txt"].last_commit.oid == second.oid
        assert entries["model.safetensors"].last_commit.oid == first.oid
        assert entries["model.safetensors"].lfs.size == entries["model.safetensors"].size == 1
        root = api.list_repo_tree("org/commits", revision=first.oid)
        at_first = {entry.path: type(entry).__name__ for entry in root}
        assert at_first["dir"] == "RepoFolder" and "dir/b.txt" not in at_first
        inside = [entry.path for entry in api.list_repo_tree("org/commits", "dir", revision=first.oid)]
        assert inside == ["dir/b.txt", "dir/c.bin"]
        assert failure(lambda: list(api.list_repo_tree("org/commits", "absent"))) == missing
        assert [entry.path for entry in api.get_paths_info("org/commits", ["copy.txt", "absent"])] == ["copy.txt"]

        # Long lists come in pages: of 50 commits, of 1000 files.
        names = [f"many/{number:04}.txt" for number in range(1100)]
        commit(*(Add(name, b"same") for name in names))
        assert [entry.path for entry in api.list_repo_tree("org/commits", "many", recursive=True)] == names
        made = [commit(Add("n", b"%d" % number)).oid for number in range(57)]
        assert [entry.commit_id for entry in api.list_repo_commits("org/commits")][:57] == made[::-1]
        assert len(api.list_repo_commits("org/commits")) == len(log) + 58
        """,
    )


def test_branches_and_tags(shared_hub: LocalHub) -> None:
    check(
        shared_hub,
        """
        api.create_repo("org/refs")

        def upload(text, revision=None):
            options = {"path_or_fileobj": text.encode(), "path_in_repo": "f.txt", "revision": revision}
            return api.upload_file(repo_id="org/refs", **options).oid

        one = upload("one")
        api.create_tag("org/refs", tag="step1")
        api.create_branch("org/refs", branch="feat/x")
        two = upload("two")
        api.create_tag("org/refs", tag="step2", tag_message="annotated")
        api.create_tag("org/refs", tag="at-sha", revision=one)
        side = upload("side", "feat/x")
        api.create_branch("org/refs", branch="old", revision="step1")

        refs = api.list_repo_refs("org/refs", include_pull_requests=True)
        assert {ref.name: ref.target_commit for ref in refs.branches} == {"feat/x": side, "main": two, "old": one}
        assert {ref.name: ref.target_commit for ref in refs.tags} == {"at-sha": one, "step1": one, "step2": two}
        assert refs.pull_requests == [] and refs.tags[0].ref == "refs/tags/at-sha"
        revisions = ["step1", "step2", "at-sha", "main", "feat/x", "refs/heads/old", one, side]
        contents = [read("org/refs", "f.txt", name).decode() for name in revisions]
        assert contents == ["one", "two", "one", "two", "side", "one", "one", "side"]
        log = api.list_repo_commits("org/refs", revision="feat/x")
        assert [commit.commit_id for commit in log[:2]] == [side, one]

        api.create_tag("org/refs", tag="step1", exist_ok=True)
        api.create_branch("org/refs", branch="feat/x", exist_ok=True)
        for name in ("feat/x", "feat", "old/er"):
            assert status(api.create_branch, "org/refs", branch=name) == 409, name
        assert status(api.create_tag, "org/refs", tag="step1") == 409
        assert status(api.create_tag, "org/refs", tag="x", revision="absent") == 404
        assert status(api.delete_branch, "org/refs", branch="main") == 403
        assert status(api.delete_branch, "org/refs", branch="absent") == 404
        assert status(api.delete_tag, "org/refs", tag="absent") == 404
        assert status(upload, "to a tag", "step1") == 400
        api.delete_tag("org/refs", tag="step2")
        api.delete_branch("org/refs", branch="feat/x")
        api.create_branch("org/refs", branch="feat")
        assert not api.revision_exists("org/refs", "step2") and api.revision_exists("org/refs", "feat")
        assert read("org/refs", "f.txt", side) == b"side", "a commit outlives its branch"
        """,
    )


def test_accounts_see_and_change_what_they_may(start_local_hub: Callable[..., LocalHub]) -> None:
    check(
        start_local_hub(TOKENS),
        """
        alice, reader, other, wrong = (HfApi(token=f"hf_{name}") for name in ("alice", "reader", "other", "wrong"))
        nobody = HfApi(token=False)

        who = alice.whoami()
        assert (who["name"], [org["name"] for org in who["orgs"]]) == ("alice", ["org"])
        roles = [api.whoami()["auth"]["accessToken"]["role"] for api in (alice, reader)]
        assert roles == ["write", "read"]
        assert failure(wrong.model_info, "org/open") == ("HfHubHTTPError", 401)

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
        for api, expected in ((other, 404), (nobody, 401)):
            for look in (api.model_info, api.list_repo_refs):
                assert failure(look, "org/hidden") == ("RepositoryNotFoundError", expected)
        assert failure(other.hf_hub_download, "org/hidden", "f.bin", cache_dir="new")[0] == "RepositoryNotFoundError"
        assert failure(other.upload_file, repo_id="org/hidden", **content)[0] == "RepositoryNotFoundError"

        for api, expected in ((reader, 403), (other, 403), (nobody, 401)):
            changes = [
                (api.upload_file, {"repo_id": "org/open", **content}),
                (api.create_branch, {"repo_id": "org/open", "branch": "b"}),
                (api.create_tag, {"repo_id": "org/open", "tag": "t"}),
                (api.update_repo_settings, {"repo_id": "org/open", "visibility": "private"}),
                (api.delete_repo, {"repo_id": "org/open"}),
                (api.create_repo, {"repo_id": "org/new"}),
            ]
            statuses = [status(change, **options) for change, options in changes]
            assert statuses == [expected] * len(changes), (api.token, statuses)
        refs = alice.list_repo_refs("org/open")
        assert ([ref.name for ref in refs.branches], refs.tags) == (["main"], [])
        assert other.create_repo("mine").repo_id == "other/mine"
        """,
    )


def test_cards_models_and_data_sets(shared_hub: LocalHub) -> None:
    check(
        shared_hub,
        """
        from datasets import Dataset, load_dataset
        from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_update
        from transformers import AutoConfig, ViTConfig

        api.create_repo("org/vit")
        result = EvalResult("image-classification", "digits", "Digits", "accuracy", 0.5)
        data = ModelCardData(model_name="name", license="mit", tags=["one"], eval_results=[result])
        ModelCard("---\\n" + data.to_yaml() + "\\n---\\n# Title").push_to_hub("org/vit")
        info = api.model_info("org/vit")
        assert info.tags == ["one"] and info.card_data.eval_results == [result]
        metadata_update("org/vit", {"tags": ["one", "two"]}, overwrite=True)
        index = "model-index: [{name: a, results: [{task: {type: t}}]}]"
        for metadata in ("tags: [unclosed", "tags: 3", "- a list", index):
            card = f"---\\n{metadata}\\n---\\n".encode()
            try:
                api.upload_file(repo_id="org/vit", path_or_fileobj=card, path_in_repo="README.md")
            except ValueError as error:
                assert "Invalid metadata" in str(error), error
            else:
                raise AssertionError(f"accepted {metadata}")
        assert ModelCard.load("org/vit").data.tags == ["one", "two"]

        for step in (1, 2):
            ViTConfig(hidden_size=12 * step).save_pretrained("folder")
            api.upload_folder(repo_id="org/vit", folder_path="folder")
            api.create_tag("org/vit", tag=f"step{step}")
        ViTConfig(hidden_size=36).push_to_hub("org/vit", revision="feat/x")
        ModelCard("---\\ntags: [three]\\n---\\n").push_to_hub("org/vit", revision="feat/x")
        assert api.model_info("org/vit", revision="feat/x").tags == ["three"]
        names = ("step1", "step2", "main", "feat/x")
        assert [AutoConfig.from_pretrained("org/vit", revision=name).hidden_size for name in names] == [12, 24, 24, 36]

        first = Dataset.from_dict({"image": [[1, 2], [3, 4]], "label": [0, 1]})
        first.push_to_hub("org/data", split="train")
        Dataset.from_dict({"image": [[5, 6]], "label": [1]}).push_to_hub("org/data", split="test")
        loaded = load_dataset("org/data")
        assert loaded["train"].to_dict() == first.to_dict() and loaded["test"]["label"][:] == [1]
        """,
    )
