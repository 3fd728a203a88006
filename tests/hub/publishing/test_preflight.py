"""What is found out about the Hub before the first epoch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hub.fake_run import fake_results, write_run


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

TOKENS = {
    "hf_writer": {"name": "alice", "orgs": ["org"], "role": "write"},
    "hf_reader": {"name": "bob", "orgs": ["org"], "role": "read"},
    "hf_stranger": {"name": "carol", "orgs": [], "role": "write"},
}
PREFLIGHT = """
    from hub.run.errors import UserError
    from hub.publishing.preflight import preflight
    for repo, options in {cases!r}:
        try:
            preflight(repo, **options)
            print("ready")
        except UserError as error:
            print(error)
"""
PUBLISH = "from hub.publish import publish_run; publish_run({run!r}, {repo!r}, push_memory={push_memory})"


def answers_of(hub: "LocalHub", *cases: tuple[str, dict[str, object]], **env: str) -> list[str]:
    """What `preflight` says to each case, a line each."""
    done = hub.run_python(PREFLIGHT.format(cases=cases), **env)
    answers = done.stdout.splitlines()
    assert len(answers) == len(cases), done.stderr
    return answers


def publish(hub: "LocalHub", run: Path, repo: str, push_memory: bool = False) -> None:
    done = hub.run_python(PUBLISH.format(run=str(run), repo=repo, push_memory=push_memory))
    assert done.returncode == 0, done.stderr


def test_it_makes_the_repositories_or_says_why_not(start_local_hub: Callable[..., "LocalHub"]) -> None:
    hub = start_local_hub(TOKENS)
    answers = answers_of(
        hub,
        *(
            (repo, {"private": True, "push_memory": True, "token": token})
            for repo, token in [
                ("org/run", "hf_writer"),
                ("org/run", "hf_writer"),
                ("org/run", "hf_reader"),
                ("org/run", "hf_stranger"),
                ("org/new", "hf_stranger"),
                ("org/run", "hf_unknown"),
                ("no-namespace", "hf_writer"),
                ("org/bad name", "hf_writer"),
                ("datasets/org/run", "hf_writer"),
            ]
        ),
    )
    assert answers[:2] == ["ready", "ready"], "a repository that exists is fine"
    assert "can only read" in answers[2]
    assert all("may not write" in answer for answer in answers[3:5])
    assert "does not accept the token" in answers[5]
    assert all("expected namespace/name" in answer for answer in answers[6:])
    assert not any("hf_" in answer for answer in answers)
    check = """
        from huggingface_hub import HfApi
        print(HfApi().model_info('org/run').private, HfApi().dataset_info('org/run-memory').private)
    """
    assert hub.run_python(check, HF_TOKEN="hf_writer").stdout.split() == ["True", "True"]


def test_revisions_in_the_way_are_found_before_the_training(local_hub: "LocalHub", tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    publish(local_hub, run, "org/run")
    part = Path(shutil.copytree(run, tmp_path / "part"))
    shutil.rmtree(part / "step3")
    other = write_run(tmp_path / "other", fake_results(3, seed=7))
    answers = answers_of(
        local_hub,
        ("org/run", {"output_dir": str(run)}),
        ("org/run", {}),
        ("org/run", {"overwrite_revisions": True}),
        ("org/run", {"output_dir": str(part)}),
        ("org/run", {"output_dir": str(other)}),
        ("org/run", {"first_own_step": 4}),
        ("org/run", {"first_own_step": 5}),
        ("org/elsewhere", {"first_own_step": 4}),
    )
    assert answers[0] == "ready", "a finished run that is published already"
    assert "org/run has step1 already, which this run has yet to learn" in answers[1]
    assert answers[2] == "ready"
    assert "org/run has step3 already" in answers[3], "this run has yet to learn what was published from elsewhere"
    assert "step1 of org/run has other content than the folder" in answers[4]
    assert answers[5] == "ready", "a continued run goes on in the repository of its ancestor"
    assert "org/run has no step4 yet" in answers[6]
    assert answers[7] == "ready", "or in one of its own"


def test_looking_changes_nothing(local_hub: "LocalHub", tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    shutil.rmtree(run / "step3")
    publish(local_hub, run, "org/run")
    before = local_hub.call("GET", "/api/models/org/run/refs")[2]
    assert answers_of(local_hub, ("org/run", {"output_dir": str(run)})) == ["ready"]
    assert local_hub.call("GET", "/api/models/org/run/refs")[2] == before
    assert {tag["name"] for tag in json.loads(before)["tags"]} == {"step1", "step2"}


@pytest.mark.parametrize("files", [{"tokenizer.json": b"x"}, {"README.md": b"# mine", "LICENSE": b"mine"}])
def test_a_repository_with_other_files_is_left_alone_unless_it_is_empty(
    local_hub: "LocalHub", files: dict[str, bytes]
) -> None:
    done = local_hub.run_python(
        f"""
        from huggingface_hub import CommitOperationAdd, HfApi
        HfApi().create_repo("org/run")
        added = [CommitOperationAdd(path, content) for path, content in {files!r}.items()]
        HfApi().create_commit("org/run", added, commit_message="start")
        """
    )
    assert done.returncode == 0, done.stderr
    (answer,) = answers_of(local_hub, ("org/run", {}))
    assert answer == "ready" if "README.md" in files else "already holds other files (tokenizer.json)" in answer


def with_memory(run: Path) -> Path:
    """The run with something that stands for the memory of each step."""
    (run / "memory").mkdir()
    for folder in run.glob("step*"):
        (run / "memory" / f"{folder.name}.parquet").write_bytes(b"exemplars " + folder.name.encode())
    return run


def test_the_memory_of_a_private_model_is_private(local_hub: "LocalHub", tmp_path: Path) -> None:
    run = with_memory(write_run(tmp_path / "run", fake_results(1)))
    done = local_hub.run_python(
        f"""
        from huggingface_hub import HfApi
        from hub.run.errors import UserError
        from hub.publishing.preflight import preflight
        from hub.publish import plan_run, publish_run
        api = HfApi()
        for name in "ab":
            api.create_repo(f"org/{{name}}", private=True)
        preflight("org/a", push_memory=True)
        publish_run({str(run)!r}, "org/b", push_memory=True)
        publish_run({str(run)!r}, "org/c", push_memory=True)
        for name in "de":
            api.create_repo(f"org/{{name}}", private=False)
        preflight("org/d", push_memory=True, private=True)
        publish_run({str(run)!r}, "org/e", push_memory=True, private=True)
        print(*(api.dataset_info(f"org/{{name}}-memory").private for name in "abcde"))

        api.create_repo("org/f", private=True)
        api.create_repo("org/f-memory", repo_type="dataset", private=False)
        api.create_repo("org/g-memory", repo_type="dataset", private=False)
        for refuse in (
            lambda: preflight("org/f", push_memory=True),
            lambda: plan_run({str(run)!r}, "org/f", push_memory=True),
            lambda: publish_run({str(run)!r}, "org/f", push_memory=True),
            lambda: plan_run({str(run)!r}, "org/g", push_memory=True, private=True),
        ):
            try:
                refuse()
            except UserError as error:
                print(error)
        print(api.list_repo_files("org/f-memory", repo_type="dataset"))
        """
    )
    assert done.returncode == 0, done.stderr
    made, *refusals, files = done.stdout.splitlines()
    assert made == "True True False True True"
    assert len(refusals) == 4
    assert all(f"org/{name}-memory is public" in line for name, line in zip("fffg", refusals, strict=True))
    assert files == "['.gitattributes']"


def test_a_model_is_not_published_without_the_memory_that_was_asked_for(local_hub: "LocalHub", tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", fake_results(1))
    command = f"import sys; from hub.publish import main; sys.exit(main([{str(run)!r}, *{{arguments!r}}]))"
    arguments = ["--hub_model_id", "org/run", "--push_memory"]
    done = local_hub.run_python(command.format(arguments=arguments))
    assert done.returncode == 1 and "memory/step1.parquet is no file" in done.stderr
    assert local_hub.call("GET", "/api/models/org/run/refs")[0] == 404
    with_memory(run)
    done = local_hub.run_python(command.format(arguments=arguments))
    tree = f"{local_hub.endpoint}/org/run/tree/step1"
    assert done.stdout.splitlines() == [
        f"{tree}  published",
        f"{tree.replace('org/', 'datasets/org/').replace('run/', 'run-memory/')}  published",
    ]


def test_who_continues_another_model_is_told_before_the_training(local_hub: "LocalHub", tmp_path: Path) -> None:
    results = fake_results(2)
    publish(local_hub, write_run(tmp_path / "run", results), "org/run")
    # What later versions record of a step does not make it another.
    same = [{"calibration": None, "old_new_bias": None} | step for step in results["steps"]]
    other = fake_results(2, seed=9)["steps"]
    answers = answers_of(
        local_hub,
        ("org/run", {"first_own_step": 3, "earlier_steps": same}),
        ("org/run", {"first_own_step": 3, "earlier_steps": other}),
    )
    assert answers[0] == "ready"
    assert "step2 of org/run is not the model that step3 continues" in answers[1]
