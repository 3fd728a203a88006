"""Someone else's published step, continued: into a repository of one's own and into the same one."""

import json
import shlex
import subprocess
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from hub.run.step_folder import is_complete
from tests.command_line import words
from tests.hub.fake_run import fake_results, write_run


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub


TRAIN = """
    import sys
    from training import incremental
    for arguments in {runs!r}:
        sys.argv = ["training/incremental.py", *arguments]
        incremental.main()
"""
# Writes to standard output what a clean machine gets: of each revision of a model the logits of 300 test digits and
# the names of its classes, of each revision of a memory its rows.
DOWNLOAD = """
    import json
    from datasets import load_dataset
    from PIL import Image
    from sklearn.datasets import load_digits
    import modeling_dytox, torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    images = [Image.fromarray((image * (255 / 16)).round().astype("uint8")) for image in load_digits().images[-300:]]
    found = {{}}
    for repo, revision in {models!r}:
        model = AutoModelForImageClassification.from_pretrained(repo, revision=revision).eval()
        processor = AutoImageProcessor.from_pretrained(repo, revision=revision)
        with torch.no_grad():
            logits = model(**processor([image.convert("RGB") for image in images], return_tensors="pt")).logits
        names = [model.config.id2label[label] for label in range(logits.shape[1])]
        found[f"{{repo}} {{revision}}"] = {{"logits": logits.tolist(), "names": names}}
    for repo, revision in {memories!r}:
        memory = load_dataset(repo, revision=revision, split="train")
        assert memory[0]["image"].size == (8, 8)
        found[f"{{repo}} {{revision}}"] = memory.remove_columns("image").to_dict()
    print(json.dumps(found))
"""
DIGITS = load_digits().target[-300:]


def run(hub: "LocalHub", *runs: dict[str, object]) -> "subprocess.CompletedProcess[str]":
    """Trains with these options, one run after the other."""
    return hub.run_warm("-c", TRAIN.format(runs=[words(options) for options in runs]))


def tags_of(hub: "LocalHub", path: str) -> list[str]:
    """The tags of a repository, oldest first; each is a commit of `main`, in the same order."""
    refs = json.loads(hub.call("GET", f"/api/{path}/refs")[2])
    commits = json.loads(hub.call("GET", f"/api/{path}/commits/main")[2])
    assert [commit["id"] for commit in commits[:-1]] == [tag["targetCommit"] for tag in reversed(refs["tags"])]
    return [tag["name"] for tag in refs["tags"]]


def accuracy(seen: dict[str, Any], digits: range) -> float:
    """The share of these digits that a revision names, among all classes that it knows."""
    named = np.array(seen["names"])[np.argmax(seen["logits"], axis=1)].astype(int)
    return float((named == DIGITS)[np.isin(DIGITS, digits)].mean())


@pytest.mark.slow
def test_a_published_step_learns_more_classes(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    own = {"patch_size": 2, "hidden_size": 48, "drop_path_rate": 0, "memory_size": 200, "train_crop": "none"}
    own |= {"auto_augment": "none", "horizontal_flip": False, "max_train_samples_per_class": 40}
    own |= {"num_epochs": 12, "learning_rate": 3e-3, "per_device_train_batch_size": 32}
    own |= {"finetuning_epochs": 5, "finetuning_learning_rate": 1e-3, "num_classes": 5, "initial_classes": 4}
    options = tiny_options | own | {"classes_per_step": 1, "push_to_hub": True, "push_memory": True}
    more = options | {"num_classes": 10, "initial_classes": 5, "classes_per_step": 5, "known_classes": "test"}
    more |= {"model_name_or_path": "org/first", "model_revision": "step2"}
    trained = run(
        local_hub,
        options | {"output_dir": tmp_path / "first", "hub_model_id": "org/first"},
        more | {"output_dir": tmp_path / "second", "hub_model_id": "org/second"},
        more | {"output_dir": tmp_path / "third", "hub_model_id": "org/first"},
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "Continues org/first at step2 after step 2" in trained.stdout
    assert f"Step 3 is at {local_hub.endpoint}/org/second/tree/step3" in trained.stdout

    # The ancestor keeps its revisions; the new repository begins with step 3.
    for kind in ("models/org/{}", "datasets/org/{}-memory"):
        assert tags_of(local_hub, kind.format("first")) == ["step1", "step2", "step3"]
        assert tags_of(local_hub, kind.format("second")) == ["step3"]
    models = [("org/first", "step2"), ("org/first", "step3"), ("org/second", "step3")]
    memories = [("org/first-memory", "step2"), ("org/second-memory", "step3")]
    done = local_hub.run_warm("-c", DOWNLOAD.format(models=models, memories=memories))
    assert done.returncode == 0, done.stderr[-3000:]
    before, same, after, *exemplars = json.loads(done.stdout).values()
    assert after == same, "the same run, in the repository of its ancestor"
    assert after["names"] == [str(digit) for digit in range(10)] and before["names"] == after["names"][:5]
    assert accuracy(before, range(5, 10)) == 0, "the published model does not know them"
    assert accuracy(after, range(5, 10)) > 0.3
    moves = np.abs(np.array(before["logits"]) - np.array(after["logits"])[:, :5])
    assert 0 < moves.mean() < 3, "its old logits move, but are the same classifiers' still"
    for found, file in zip(exemplars, ("first/memory/step2", "second/memory/step3"), strict=True):
        assert found == pq.read_table(tmp_path / f"{file}.parquet").drop_columns("image").to_pydict()
    check_words(tmp_path / "second" / "step3")


def check_words(folder: Path) -> None:
    """The card, the results and the recipe name the ancestor, and the commit that was continued."""
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert data["base_model"] == "org/first"
    (ancestor,) = json.loads((folder / "results.json").read_text())["ancestors"]
    assert (ancestor["model"], ancestor["revision"], ancestor["num_steps"]) == ("org/first", "step2", 2)
    assert yaml.safe_load((folder / "training_config.yaml").read_text())["model_revision"] == ancestor["commit"]
    assert len(ancestor["commit"]) == 40


def test_a_step_of_another_model_does_not_follow(local_hub: "LocalHub", tmp_path: Path) -> None:
    """Who continues a model may publish beside it or elsewhere, but never as a step after another model."""
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


@pytest.mark.slow
def test_a_run_that_continues_main_of_its_own_repository_resumes_and_needs_its_memory(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    publish = {"push_to_hub": True, "push_memory": True, "hub_model_id": "org/own"}
    first = tiny_options | publish | {"num_classes": 2, "output_dir": tmp_path / "first"}
    more = tiny_options | publish | {"num_classes": 4, "known_classes": "test", "output_dir": tmp_path / "more"}
    more |= {"model_name_or_path": "org/own"}
    done = run(local_hub, first)
    assert done.returncode == 0, done.stderr[-3000:]

    # A memory that cannot be reached is not taken for none.
    drop = {"path": "/datasets/org/own-memory/", "kind": "drop_before", "count": 99}
    local_hub.inject(*({"method": method} | drop for method in ("HEAD", "GET")))
    refused = run(local_hub, more)
    assert refused.returncode == 2 and "org/own-memory cannot be downloaded" in refused.stderr, refused.stderr[-3000:]
    assert not (tmp_path / "more").exists()

    # Publishing moves `main`: the same command resumes from the commit that it began with.
    local_hub.inject()
    done = run(local_hub, more, more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "holds 2 of 2 steps" in done.stdout
    assert tags_of(local_hub, "models/org/own") == ["step1", "step2"]
    assert "base_model" not in ModelCard.load(tmp_path / "more" / "step2" / "README.md").data.to_dict()


# Both as `docs/encoders.md` has them, in a folder that holds `photos` and `photo.jpg`.
COMMAND = """
    import os, sys
    os.chdir({folder!r})
    os.execv(sys.executable, [sys.executable, *{words!r}])
"""
LINES = """
    import os
    os.chdir({folder!r})
{lines}
    import json, torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    images = [Image.open(f"photos/train/heron/{{number}}.png") for number in range(10)]
    found = []
    for source in ({{"pretrained_model_name_or_path": step}}, {{
        "pretrained_model_name_or_path": "me/more-flowers", "revision": "step3"
    }}):
        model = AutoModelForImageClassification.from_pretrained(**source).eval()
        processor = AutoImageProcessor.from_pretrained(**source)
        with torch.no_grad():
            found.append(model(**processor(images, return_tensors="pt")).logits.tolist())
    print(json.dumps([classify("photo.jpg")[0]["label"], model.config.id2label[4], *found]))
"""


def documented(page: Path, heading: str) -> tuple[list[str], str]:
    """The words of the command and the lines of Python of a section."""
    section = page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    command, lines = (block.partition("\n")[2] for block in section.split("```")[1::2])
    python, script, *options = shlex.split(command.replace("\\\n", ""))
    assert python == "python" and len(lines.splitlines()) <= 10
    return [str(page.parents[1] / script), *options], lines


@pytest.mark.slow
def test_one_class_is_learned_from_ten_images_and_a_revision_alone(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path, root: Path
) -> None:
    base = tiny_options | {"num_classes": 4, "method": "ridge", "ridge_lambda": 3.0, "output_dir": tmp_path / "base"}
    trained = run(local_hub, base | {"push_to_hub": "true", "hub_model_id": "org/dytox-flowers"})
    assert trained.returncode == 0, trained.stderr[-3000:]
    # The folder is gone: what is continued comes from the Hub, into clients without a cache.
    before = (tmp_path / "base").rename(tmp_path / "kept") / "step2"

    sevens = load_digits().images[load_digits().target == 7]
    command, lines = documented(root / "docs" / "encoders.md", "One class from ten images")
    for way in ("command", "lines"):
        for split, start, stop in (("train", 0, 10), ("test", 10, 15)):
            folder = tmp_path / way / "photos" / split / "heron"
            folder.mkdir(parents=True)
            for number, image in enumerate(sevens[start:stop]):
                as_photo(image).save(folder / f"{number}.png")
        as_photo(sevens[20]).save(tmp_path / way / "photo.jpg")
    learned = local_hub.run_python(COMMAND.format(folder=str(tmp_path / "command"), words=command))
    assert learned.returncode == 0, learned.stderr[-3000:]
    code = LINES.format(folder=str(tmp_path / "lines"), lines=indent(lines, "    "))
    done = local_hub.run_python(code)
    assert done.returncode == 0, done.stderr[-3000:]

    label, name, here, published = json.loads(done.stdout.splitlines()[-1])
    assert label == name == "heron" and np.argmax(here, axis=1).tolist() == [4] * 10
    assert here == published, "the lines do what the command does"
    after = tmp_path / "command" / "outputs" / "more" / "step3"
    assert is_complete(after)
    old, new = (load_file(folder / "statistics.safetensors") for folder in (before, after))
    assert new["counts"].tolist() == [12] * 4 + [10]
    assert new["products"][:, :4].equal(old["products"])
    # What was added to the products of inputs is of ten images.
    assert np.linalg.matrix_rank(new["gram"] - old["gram"]) <= 10
    assert yaml.safe_load((after / "training_config.yaml").read_text())["ridge_lambda"] == 3.0


def as_photo(image: np.ndarray) -> Image.Image:
    """A digit in black on white, which the encoder, whose weights are random, tells from white on black."""
    return Image.fromarray((255 - image * (255 / 16)).round().astype("uint8")).convert("RGB")
