"""What is found out about the Hub before the first epoch."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import HfApi

from hub.publishing.destination import Destination
from hub.publishing.preflight import preflight
from hub.run.errors import UserError
from tests.hub.fake_run import fake_results, write_run
from tests.hub.publication import PublicationHere


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

TOKENS = {
    "hf_writer": {"name": "alice", "orgs": ["org"], "role": "write"},
    "hf_reader": {"name": "bob", "orgs": ["org"], "role": "read"},
    "hf_stranger": {"name": "carol", "orgs": [], "role": "write"},
}
EARLIER_STEPS = fake_results(3)["steps"]


def answer(destination: Destination, *run: Path, **options: Any) -> str:
    """What `preflight` says."""
    try:
        preflight(destination, *run, **options)
    except UserError as error:
        return str(error)
    return "ready"


def test_a_token_without_the_right_is_known_before_and_while_publishing(
    start_local_hub: Callable[..., "LocalHub"],
    connect: Callable[["LocalHub"], "LocalHub"],
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = connect(start_local_hub(TOKENS))
    cases = (
        ("hf_writer", "org/run", "ready", None),
        ("hf_writer", "org/run", "ready", None),
        ("hf_reader", "org/run", "the token can only read", "the token may not write to org/run (403)"),
        ("hf_stranger", "org/run", "may not write to org/run (403)", "the token may not write to org/run (403)"),
        ("hf_stranger", "org/new", "may not write to org/new (403)", "the token may not write to org/new (403)"),
        ("hf_unknown", "org/run", "the Hub does not accept the token", "the Hub does not accept the token"),
        ("", "org/run", "needs one (401)", "needs one (401)"),
    )
    for token, repo, before, meanwhile in cases:
        monkeypatch.setenv("HF_TOKEN", token)
        reason = answer(Destination(repo, private=True, push_memory=True))
        assert before in reason and "hf_" not in reason
        if meanwhile is not None:
            error = PublicationHere(hub, run, repo).refused()
            assert meanwhile in error and "hf_" not in error
    api = HfApi(token="hf_writer")
    assert api.model_info("org/run").private and api.dataset_info("org/run-memory").private


def test_revisions_in_the_way_are_found_before_the_training(publication: PublicationHere, tmp_path: Path) -> None:
    publication.published()
    before = publication.state()
    part = Path(shutil.copytree(publication.run, tmp_path / "part"))
    shutil.rmtree(part / "step3")
    (publication.run / "step1" / "README.md").unlink()
    other = write_run(tmp_path / "other", fake_results(3, seed=7))
    here, repo = Destination(publication.repo), publication.repo
    assert answer(here, publication.run) == "ready", "a finished run is published already, but for a card to add"
    assert f"{repo} has step1 already, which this run did not write" in answer(here)
    assert answer(Destination(repo, overwrite_revisions=True)) == "ready"
    assert f"{repo} has step3 already" in answer(here, part), "this run did not write what came from elsewhere"
    assert f"step1 of {repo} has other content than the folder" in answer(here, other)
    assert f"{repo} has no step4 yet" in answer(here, first_own_step=5)
    # What later versions record of a step does not make it another.
    same = [{"calibration": None, "old_new_bias": None} | step for step in EARLIER_STEPS]
    others = fake_results(3, seed=9)["steps"]
    assert answer(here, first_own_step=4, earlier_steps=same) == "ready", "a continued run follows its ancestor"
    assert f"step3 of {repo} is not the model that step4 continues" in answer(
        here, first_own_step=4, earlier_steps=others
    )
    assert answer(Destination(f"{repo}.own"), first_own_step=4, earlier_steps=same) == "ready", (
        "or begins a repository"
    )
    assert publication.state() == before, "looking changes nothing"


@pytest.mark.parametrize("files", [("tokenizer.json",), ("README.md", "LICENSE")])
def test_a_repository_with_other_files_is_left_alone(publication: PublicationHere, files: tuple[str, ...]) -> None:
    api, repo = HfApi(), publication.repo
    api.create_repo(repo)
    for name in files:
        api.upload_file(path_or_fileobj=b"mine", path_in_repo=name, repo_id=repo)
    if "tokenizer.json" in files:
        reason = f"{repo} already holds other files (tokenizer.json)"
        assert reason in answer(Destination(repo)) and reason in publication.refused()
    else:
        assert answer(Destination(repo)) == "ready" and publication.published(), "a start made on the website"


def test_the_memory_of_a_private_model_is_private(hub: "LocalHub", tmp_path: Path) -> None:
    run, api = write_run(tmp_path / "run", fake_results(1)), HfApi()
    (run / "memory").mkdir()
    (run / "memory" / "step1.parquet").write_bytes(b"exemplars")

    def publication(name: str) -> PublicationHere:
        return PublicationHere(hub, run, f"org/{name}")

    for name, private in {"a": True, "b": True, "d": False, "e": False}.items():
        api.create_repo(f"org/{name}", private=private)
    assert answer(Destination("org/a", push_memory=True)) == "ready"
    publication("b").published("--push_memory")
    publication("c").published("--push_memory")
    assert answer(Destination("org/d", push_memory=True, private=True)) == "ready"
    publication("e").published("--push_memory", "--private")
    made = [api.dataset_info(f"org/{name}-memory").private for name in "abcde"]
    assert made == [True, True, False, True, True]

    api.create_repo("org/f", private=True)
    for name in "fg":
        api.create_repo(f"org/{name}-memory", repo_type="dataset", private=False)
    refusals = {
        "f": (
            answer(Destination("org/f", push_memory=True)),
            publication("f").refused("--push_memory", "--dry_run"),
            publication("f").refused("--push_memory"),
        ),
        "g": (publication("g").refused("--push_memory", "--private", "--dry_run"),),
    }
    for name, messages in refusals.items():
        assert all(f"org/{name}-memory is public, but its images must be private" in message for message in messages)
    assert api.list_repo_files("org/f-memory", repo_type="dataset") == [".gitattributes"]
