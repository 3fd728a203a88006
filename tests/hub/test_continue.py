"""Someone else's published step, continued: into a repository of one's own and into the same one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard

from tests.command_line import words


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub


TRAIN = """
    import sys
    from training import incremental
    for arguments in {runs!r}:
        sys.argv = ["training/incremental.py", *arguments]
        incremental.main()
"""
# Logits of the digits of both kinds, in the order of the test split, and which class each is of.
LOGITS = """
    import importlib, json, sys
    if {remote_code}:
        sys.modules["modeling_dytox"] = None
    else:
        import modeling_dytox
    import torch
    from PIL import Image
    from sklearn.datasets import load_digits
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    where = {{"revision": {revision!r}}}
    model = AutoModelForImageClassification.from_pretrained({repo!r}, trust_remote_code={remote_code}, **where).eval()
    processor = AutoImageProcessor.from_pretrained({repo!r}, **where)
    digits = load_digits()
    images = [Image.fromarray((image * (255 / 16)).round().astype("uint8")) for image in digits.images[-300:]]
    with torch.no_grad():
        logits = model(**processor([image.convert("RGB") for image in images], return_tensors="pt")).logits
    names = [model.config.id2label[label] for label in range(logits.shape[1])]
    print(json.dumps({{"logits": logits.tolist(), "names": names, "digits": digits.target[-300:].tolist()}}))
"""


def look(hub: "LocalHub", repo: str, revision: str, remote_code: bool = False) -> dict[str, Any]:
    """What a revision says to 300 digits."""
    done = hub.run_python(LOGITS.format(repo=repo, revision=revision, remote_code=remote_code))
    assert done.returncode == 0, done.stderr[-3000:]
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def accuracy(seen: dict[str, Any], digits: range) -> float:
    """The share of these digits that a revision names, among all classes that it knows."""
    rows = [(row, digit) for row, digit in zip(seen["logits"], seen["digits"], strict=True) if digit in digits]
    return sum(seen["names"][row.index(max(row))] == str(digit) for row, digit in rows) / len(rows)


@pytest.mark.slow
def test_a_published_step_learns_more_classes(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    own = {"image_size": 16, "hidden_size": 48, "drop_path_rate": 0, "memory_size": 200, "train_crop": "none"}
    own |= {"auto_augment": "none", "horizontal_flip": False, "max_train_samples_per_class": 80}
    own |= {"num_epochs": 20, "learning_rate": 2e-3, "per_device_train_batch_size": 32}
    own |= {"finetuning_epochs": 10, "finetuning_learning_rate": 1e-3, "num_classes": 5, "classes_per_step": 1}
    options = tiny_options | own | {"push_to_hub": True, "push_memory": True}
    more = {"num_classes": 10, "classes_per_step": 5, "known_classes": "test"}
    more |= {"model_name_or_path": "org/first", "model_revision": "step5"}
    runs = [
        options | {"output_dir": tmp_path / "first", "hub_model_id": "org/first"},
        options | more | {"output_dir": tmp_path / "second", "hub_model_id": "org/second"},
        options | more | {"output_dir": tmp_path / "third", "hub_model_id": "org/first"},
    ]
    trained = local_hub.run_python(TRAIN.format(runs=[words(run) for run in runs]))
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "Continues org/first at step5 after step 5" in trained.stdout
    assert f"Step 6 is at {local_hub.endpoint}/org/second/tree/step6" in trained.stdout

    before, after = look(local_hub, "org/first", "step5"), look(local_hub, "org/second", "step6")
    assert after == look(local_hub, "org/first", "step6"), "the same run, in the repository of its ancestor"
    assert after == look(local_hub, "org/second", "step6", remote_code=True)
    assert after["names"] == [str(digit) for digit in range(10)] and before["names"] == after["names"][:5]
    old, new = range(5), range(5, 10)
    assert accuracy(before, new) == 0, "the published model does not know them"
    assert accuracy(after, new) > 0.3
    moves = np.abs(np.array(before["logits"]) - np.array(after["logits"])[:, :5])
    assert 0 < moves.mean() < 3, "its old logits move, but are the same classifiers' still"
    old_before, old_after, learned = accuracy(before, old), accuracy(after, old), accuracy(after, new)
    print(  # noqa: T201
        f"old classes {old_before:.2%} -> {old_after:.2%}, new {learned:.2%}, old logits move by {moves.mean():.3f}"
    )

    check_history(local_hub)
    check_words(tmp_path / "second" / "step6")
    check_memory(local_hub, tmp_path)


def check_history(hub: "LocalHub") -> None:
    """The ancestor keeps its revisions; the new repository begins with step 6."""
    for path, tags in {
        "models/org/first": [1, 2, 3, 4, 5, 6],
        "models/org/second": [6],
        "datasets/org/first-memory": [1, 2, 3, 4, 5, 6],
        "datasets/org/second-memory": [6],
    }.items():
        refs = json.loads(hub.call("GET", f"/api/{path}/refs")[2])
        assert [tag["name"] for tag in refs["tags"]] == [f"step{step}" for step in tags], path
        commits = json.loads(hub.call("GET", f"/api/{path}/commits/main")[2])
        assert [commit["id"] for commit in commits[:-1]] == [tag["targetCommit"] for tag in reversed(refs["tags"])]


def check_words(folder: Path) -> None:
    """The card, the results and the recipe name the ancestor, and the commit that was continued."""
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert data["base_model"] == "org/first"
    (ancestor,) = json.loads((folder / "results.json").read_text())["ancestors"]
    assert (ancestor["model"], ancestor["revision"], ancestor["num_steps"]) == ("org/first", "step5", 5)
    assert yaml.safe_load((folder / "training_config.yaml").read_text())["model_revision"] == ancestor["commit"]
    assert len(ancestor["commit"]) == 40


def check_memory(hub: "LocalHub", tmp_path: Path) -> None:
    """The memory of each step loads as a data set, by the revision of the step."""
    done = hub.run_python(
        """
        import json
        from datasets import load_dataset
        for repo, revision in (("org/first-memory", "step2"), ("org/second-memory", "step6")):
            memory = load_dataset(repo, revision=revision, split="train")
            assert memory[0]["image"].size == (8, 8)
            print(json.dumps(memory.remove_columns("image").to_dict()))
        """
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line, file in zip(done.stdout.splitlines(), ("first/memory/step2", "second/memory/step6"), strict=True):
        saved = pq.read_table(tmp_path / f"{file}.parquet").drop_columns("image").to_pydict()
        assert json.loads(line) == saved


def test_a_step_of_another_model_does_not_follow(local_hub: "LocalHub", tmp_path: Path) -> None:
    """Who continues a model may publish beside it or elsewhere, but never as a step after another model."""
    from tests.hub.fake_run import fake_results, write_run

    ancestors = [{"model": "org/a", "revision": "step2", "commit": "0" * 40, "num_steps": 2, "dataset": "digits"}]
    whole = fake_results(3) | {"ancestors": ancestors}
    write_run(tmp_path / "own", whole)
    write_run(tmp_path / "other", fake_results(2, seed=9))
    write_run(tmp_path / "same", fake_results(3))
    done = local_hub.run_python(
        f"""
        import shutil
        from hub.publish import main
        from hub.publishing.destination import Destination
        from hub.publishing.revision import publish_step
        from hub.run.errors import PublishError
        own, other, same = (f"{tmp_path}/{{name}}" for name in ("own", "other", "same"))
        shutil.rmtree(f"{{same}}/step3")
        main([other, "--hub_model_id", "org/other"])
        main([same, "--hub_model_id", "org/same"])
        for repo in ("org/other", "org/same", "org/new"):
            try:
                print(publish_step(f"{{own}}/step3", Destination(repo))[0].created)
            except PublishError as error:
                print(error)
        """
    )
    assert done.returncode == 0, done.stderr
    refused, *published = done.stdout.splitlines()[-3:]
    assert "step2 of org/other is not the model that step3 continues" in refused
    assert published == ["True", "True"]


def test_a_run_that_continues_main_of_its_own_repository_resumes(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    """Publishing moves `main`: the same command goes on from the commit that it began with."""
    publish = {"push_to_hub": True, "push_memory": True, "hub_model_id": "org/own"}
    first = tiny_options | publish | {"num_classes": 4, "output_dir": tmp_path / "first"}
    more = tiny_options | publish | {"num_classes": 8, "known_classes": "test", "output_dir": tmp_path / "more"}
    more |= {"model_name_or_path": "org/own"}
    for runs in ([first, more], [more]):
        done = local_hub.run_python(TRAIN.format(runs=[words(run) for run in runs]))
        assert done.returncode == 0, done.stderr[-3000:]
    assert "holds 4 of 4 steps" in done.stdout
    refs = json.loads(local_hub.call("GET", "/api/models/org/own/refs")[2])
    assert [tag["name"] for tag in refs["tags"]] == ["step1", "step2", "step3", "step4"]
    assert "base_model" not in ModelCard.load(tmp_path / "more" / "step4" / "README.md").data.to_dict()


def test_a_memory_that_cannot_be_reached_is_not_taken_for_none(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    first = tiny_options | {"num_classes": 2, "output_dir": tmp_path / "first"}
    first |= {"push_to_hub": True, "push_memory": True, "hub_model_id": "org/own"}
    more = tiny_options | {"num_classes": 4, "known_classes": "merge", "output_dir": tmp_path / "more"}
    more |= {"model_name_or_path": "org/own"}
    done = local_hub.run_python(TRAIN.format(runs=[words(first)]))
    assert done.returncode == 0, done.stderr[-3000:]
    path = "/datasets/org/own-memory/"
    local_hub.inject(
        *({"method": method, "path": path, "kind": "drop_before", "count": 99} for method in ("HEAD", "GET"))
    )
    done = local_hub.run_python(TRAIN.format(runs=[words(more)]))
    assert done.returncode == 2 and "org/own-memory cannot be downloaded" in done.stderr, done.stderr[-3000:]
    assert not (tmp_path / "more").exists()


def test_both_rooms_look_for_the_memory_in_the_same_place() -> None:
    """They never import each other."""
    from hub.run import layout
    from training.run import continuation

    assert (continuation.MEMORY_SUFFIX, continuation.MEMORY_FILE) == (layout.MEMORY_SUFFIX, layout.MEMORY_FILE)
