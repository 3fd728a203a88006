"""`python -m hub.publish` against a Hub in a folder, with the real client."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import HfApi, ModelCard

from hub.cards.model_card import PLACEHOLDER_ID
from hub.publishing.client_errors import one_line_errors
from hub.publishing.destination import Destination
from hub.publishing.listing import published_steps
from hub.publishing.preflight import preflight
from hub.publishing.remote import RemoteRun
from hub.run.errors import PublishError
from tests.hub.fake_run import fake_results, make_confusion, make_results, up_to_step, write_run
from tests.hub.publication import Publication, PublicationHere, content_of


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

TAGS = ("step1", "step2", "step3")
FIGURE = "figures/accuracy_matrix.png"


def lines(publication: Publication, *words: str) -> list[str]:
    """What the command prints of the steps of a run."""
    tree = f"{publication.hub.endpoint}/{publication.repo}/tree"
    return [f"{tree}/step{step}  {word}" for step, word in enumerate(words, 1)]


def upload(repo: str, path: str, content: bytes = b"x") -> None:
    """A commit of someone else on `main`."""
    HfApi().upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=repo)


def edit_card(repo: str, old: str, new: str, repo_type: str = "model") -> None:
    """A commit on `main` that changes the card, as the website makes it."""
    path = HfApi().hf_hub_download(repo, "README.md", repo_type=repo_type, force_download=True)
    text = Path(path).read_text()
    assert old in text
    content = text.replace(old, new, 1).encode()
    HfApi().upload_file(path_or_fileobj=content, path_in_repo="README.md", repo_id=repo, repo_type=repo_type)


def test_each_revision_equals_its_folder_and_is_made_once(publication: PublicationHere) -> None:
    assert publication.published() == lines(publication, *["published"] * 3)
    assert all(publication.repo in (publication.run / tag / "README.md").read_text() for tag in TAGS)
    publication.assert_published_once()


def test_the_confusion_of_a_step_is_published_and_drawn_once(publication: PublicationHere) -> None:
    results = make_results(3, 4, seed=4)
    shutil.rmtree(publication.run)
    write_run(publication.run, results)
    for step, tag in enumerate(TAGS[1:], 2):
        own = up_to_step(results, step)
        make_confusion(own).write(publication.run / tag, own.class_names)
        shutil.rmtree(publication.run / tag / "figures")
        (publication.run / tag / "README.md").unlink()
    publication.published()
    added = {"confusion.csv", "figures/confusion_matrix.png"}
    assert publication.content("step3").keys() == publication.content("step1").keys() | added
    publication.assert_published_once()


def test_the_list_of_steps_is_made_again_from_the_tags_where_it_is_wrong(publication: PublicationHere) -> None:
    later = publication.run / "step3"
    later.rename(publication.run.parent / "later")
    publication.published()
    before, tags = publication.steps_file("main"), publication.state()["tags"]
    # A damaged file; then one whose commits are not those of the tags, and whose numbers nobody measured.
    wrong = [entry | {"commit": "0" * 40, "accuracy": 0.123} for entry in before]
    for content in (b'{"steps": [{"tag": 7}]}', json.dumps({"steps": wrong}).encode()):
        upload(publication.repo, "steps.json", content)
        listed = published_steps(RemoteRun.read(HfApi(), publication.repo))
        assert [(entry.tag, entry.commit, entry.accuracy) for entry in listed] == [
            (entry["tag"], tags[entry["tag"]], entry["accuracy"]) for entry in before
        ]
    (publication.run.parent / "later").rename(later)
    publication.published()
    again = publication.steps_file("main")
    assert [entry["commit"] for entry in again] == [tags["step1"], tags["step2"], None]
    assert [entry["accuracy"] for entry in again[:2]] == [entry["accuracy"] for entry in before]


def test_other_content_is_refused_then_replaced_on_request(publication: PublicationHere, tmp_path: Path) -> None:
    publication.published()
    before = publication.state()
    step2 = publication.run / "step2"
    for name in ("model.safetensors", "training_config.yaml"):
        content = (step2 / name).read_bytes()
        (step2 / name).write_bytes(content[:-2] + b"7" + content[-1:])
    (step2 / "figures" / "extra.png").write_bytes(b"\x89PNG")
    message = publication.refused()
    assert "(model.safetensors, training_config.yaml, figures/extra.png)" in message, "same size, other bytes"
    assert "step2" in message and "--overwrite_revisions" in message
    assert publication.state() == before

    publication.published("--overwrite_revisions")
    after = publication.state()
    assert after["tags"]["step1"] == before["tags"]["step1"], "equal content is left alone"
    assert after["branches"]["main"] == after["tags"]["step3"], "main is the last step"
    assert after["commits"][: len(before["commits"])] == before["commits"], "what was replaced stays in the history"
    for tag in TAGS:
        assert publication.content(tag) == content_of(publication.run / tag), "files of another step do not linger"

    publication.run = write_run(tmp_path / "shorter", fake_results(2, seed=7))
    publication.published("--overwrite_revisions")
    assert sorted(publication.state()["tags"]) == ["step1", "step2"], "a shorter run replaces the longer one whole"
    assert publication.content("main") == content_of(publication.run / "step2")


def test_steps_are_published_in_order_and_bury_no_commits_of_others(
    publication: PublicationHere, tmp_path: Path
) -> None:
    run, repo = publication.run, publication.repo
    shutil.move(run / "step1", tmp_path / "step1")
    assert "no step1 yet, publish it before step2" in publication.refused()
    assert not publication.exists(), "nothing is made for what is refused"
    shutil.move(tmp_path / "step1", run / "step1")
    shutil.move(run / "step3", tmp_path / "step3")
    publication.published()
    edit_card(repo, "## Results", "My words.\n\n## Results")
    upload(repo, "note.txt")
    shutil.move(tmp_path / "step3", run / "step3")
    assert f"main of {repo} has commits after step2" in publication.refused()
    publication.published("--overwrite_revisions")
    assert publication.content("main") == content_of(run / "step3")
    assert "\nMy words.\n" in (run / "step3" / "README.md").read_text(), "what was written into the card is kept"
    HfApi().delete_tag(repo, tag="step2")
    assert "has step3 but not step2" in publication.refused()


def test_a_commit_that_slips_in_between_is_a_conflict(publication: PublicationHere) -> None:
    HfApi().create_repo(publication.repo)
    publication.hub.inject({"method": "POST", "path": "/preupload/", "kind": "slow"})

    def upload_in_between() -> None:
        while not publication.hub.num_hits:
            time.sleep(0.01)
        upload(publication.repo, "note.txt")

    other = threading.Thread(target=upload_in_between)
    other.start()
    message = publication.refused()
    other.join()
    assert f"someone else has changed main of {publication.repo} in the meantime (412, conflict)" in message


def test_what_users_write_into_the_card_on_the_website_is_carried_from_step_to_step(
    publication: PublicationHere, finished_run: Path, tmp_path: Path
) -> None:
    run, repo, memory = publication.run, publication.repo, f"{publication.repo}-memory"
    (run / "memory").mkdir()
    for step in (1, 2, 3):
        (run / "memory" / f"step{step}.parquet").write_bytes(b"exemplars" * step)
    for tag in TAGS[1:]:
        shutil.move(run / tag, tmp_path / tag)
    publication.published("--push_memory")
    edit_card(repo, "library_name: transformers", "license: mit\nlibrary_name: transformers")
    edit_card(repo, "## Results", "The photographs are mine.\n\n## Results")
    edit_card(memory, "| column |", "Mine as well.\n\n| column |", repo_type="dataset")

    preflight(Destination(repo, push_memory=True), run)
    shutil.move(tmp_path / "step2", run / "step2")
    before = content_of(run)
    assert publication.published("--dry_run") == lines(publication, "already there", "would be published")
    assert content_of(run) == before, "a dry run writes nothing"
    # It breaks off between commit and tag.
    publication.hub.inject({"method": "POST", "path": "/tag/", "kind": "status", "status": 403, "count": 2})
    publication.refused("--push_memory")
    publication.hub.inject()
    publication.published("--push_memory")
    edit_card(repo, "photographs are mine", "photographs of step 2 are mine")
    shutil.move(tmp_path / "step3", run / "step3")
    publication.published("--push_memory")

    state = publication.state()
    titles = [commit["title"].partition(":")[0] for commit in state["commits"]]
    assert [title for title in titles if title.startswith("Step")] == ["Step 1", "Step 2", "Step 3"]
    for step, words in ((2, "The photographs are mine."), (3, "The photographs of step 2 are mine.")):
        content = publication.content(f"step{step}")
        assert content == content_of(run / f"step{step}")
        text = content["README.md"].decode()
        assert text.count(f"\n{words}\n\n## Results\n") == 1 and text.count("photographs") == 1
        # But for these words and the licence the card is the one that the step has without them.
        metadata, generated = ModelCard(text).data, (finished_run / f"step{step}" / "README.md").read_text()
        assert metadata.pop("license") == "mit"
        body = text.replace(f"{words}\n\n", "").partition("\n---\n")[2]
        assert f"---\n{metadata.to_yaml()}\n---\n{body}" == generated.replace(PLACEHOLDER_ID, repo)
        exemplars = HfApi().hf_hub_download(memory, "README.md", repo_type="dataset", revision=f"step{step}")
        assert Path(exemplars).read_text().count("\nMine as well.\n\n| column |") == 1

    # Again, and from a folder that never saw the words.
    copy = Path(shutil.copytree(finished_run, tmp_path / "copy"))
    shutil.copytree(run / "memory", copy / "memory")
    for folder in (run, copy):
        publication.run = folder
        assert all(line.endswith("  already there") for line in publication.published("--push_memory"))
        assert publication.state() == state
        assert publication.content("step3") == content_of(folder / "step3")


def test_words_that_slip_in_while_a_step_goes_up_are_in_it(publication: PublicationHere, tmp_path: Path) -> None:
    shutil.move(publication.run / "step2", tmp_path / "step2")
    shutil.move(publication.run / "step3", tmp_path / "step3")
    publication.published()
    shutil.move(tmp_path / "step2", publication.run / "step2")
    publication.hub.inject({"method": "POST", "path": "/preupload/", "kind": "slow"})

    def edit_in_between() -> None:
        while not publication.hub.num_hits:
            time.sleep(0.01)
        edit_card(publication.repo, "## Results", "My words.\n\n## Results")

    other = threading.Thread(target=edit_in_between)
    other.start()
    publication.published()
    other.join()
    assert publication.content("step2") == content_of(publication.run / "step2")
    assert b"\nMy words.\n\n## Results" in publication.content("step2")["README.md"]


def test_the_dry_run_shows_the_plan_and_writes_nothing(publication: PublicationHere) -> None:
    before = content_of(publication.run)
    assert publication.published("--dry_run") == lines(publication, *["would be published"] * 3)
    assert content_of(publication.run) == before and not publication.exists()

    publication.published()
    HfApi().delete_tag(publication.repo, tag="step3")
    state = publication.state()
    assert publication.published("--dry_run") == lines(publication, *["already there"] * 2, "would be tagged")
    config = publication.run / "step3" / "training_config.yaml"
    config.write_text("num_epochs: 99\n")
    plan = publication.published("--dry_run", "--overwrite_revisions")
    assert plan == lines(publication, *["already there"] * 2, "would be published")
    assert publication.state() == state


def test_a_folder_that_lacks_card_or_figures_is_completed(publication: PublicationHere) -> None:
    step1, step2, step3 = (publication.run / tag for tag in TAGS)
    complete = content_of(publication.run)
    shutil.rmtree(step1 / "figures")
    (step1 / "README.md").unlink()
    (step2 / "README.md").unlink()
    (step3 / "README.md").write_text((step3 / "README.md").read_text() + "\nA note of the author.\n")
    (step3 / FIGURE).unlink()
    before = content_of(publication.run)
    missing = [
        f"step1: README.md, figures/accuracy_per_step.png, {FIGURE}",
        "step2: README.md",
        f"step3: {FIGURE}",
    ]
    plan = publication.published("--dry_run")
    assert plan[:3] == [f"{line} would be added" for line in missing]
    assert plan[3:] == lines(publication, *["would be published"] * 3)
    assert content_of(publication.run) == before, "a dry run writes nothing"

    printed = publication.published()
    assert [line for line in printed if "added" in line] == [f"{line} added" for line in missing]
    after = content_of(publication.run)
    assert after.keys() == complete.keys()
    drawn = [name for name in complete if name.endswith(".png")]
    assert [after[name] for name in drawn] == [complete[name] for name in drawn]
    assert f'"{publication.repo}", revision="step1"' in after["step1/README.md"].decode()
    assert after["step3/README.md"].endswith(b"\nA note of the author.\n"), "a card that is there is kept"
    publication.assert_published_once()

    (step2 / FIGURE).unlink()
    plan = publication.published("--dry_run")
    assert plan == [f"step2: {FIGURE} would be added", *lines(publication, *["already there"] * 3)]


def test_a_second_repository_renames_the_card(publication: PublicationHere) -> None:
    card = publication.run / "step1" / "README.md"
    card.write_text(card.read_text() + "\nA note of the author.\n")
    publication.published()
    second = PublicationHere(publication.hub, publication.run, "org/second")
    second.published("--private")
    assert HfApi().model_info("org/second").private
    text = card.read_text()
    assert "org/second" in text and publication.repo not in text and text.endswith("A note of the author.\n")
    assert publication.published() == lines(publication, *["already there"] * 3), "and back again"


def test_a_model_goes_up_only_with_the_memory_that_was_asked_for(publication: PublicationHere) -> None:
    shutil.rmtree(publication.run / "step2")
    shutil.rmtree(publication.run / "step3")
    assert "memory/step1.parquet is missing" in publication.refused("--push_memory")
    assert not publication.exists()
    memory = publication.run / "memory" / "step1.parquet"
    memory.parent.mkdir()
    memory.write_bytes(b"exemplars")
    (model,) = lines(publication, "published")
    (exemplars,) = lines(publication, "published")
    exemplars = exemplars.replace("/org/", "/datasets/org/").replace("/tree/", "-memory/tree/")
    assert publication.published("--push_memory") == [model, exemplars]
    path = f"/datasets/{publication.repo}-memory/resolve/step1/data/train.parquet"
    assert publication.hub.call("GET", path)[2] == b"exemplars"


def test_no_server_and_offline_are_one_line(publication: PublicationHere, local_hub: "LocalHub") -> None:
    unplugged = Publication(local_hub, publication.run, "org/run", {"HF_HUB_OFFLINE": "1"})
    assert "offline mode is on" in unplugged.refused()
    local_hub.stop()
    unplugged.env.clear()
    assert "no connection to the Hub" in unplugged.refused()


def test_a_token_that_an_error_repeats_is_masked() -> None:
    token, others = "secret-of-mine", ("hf_" + "x" * 34, "api_org_" + "y" * 34, "hf_oauth_" + "ey.J-_" * 9)
    with pytest.raises(PublishError) as caught, one_line_errors("publish", "org/run", token):
        raise OSError(f"bad header\nAuthorization: Bearer {token} {' '.join(others)}")
    message = str(caught.value)
    assert message.endswith("Bearer hf_*** hf_*** hf_*** hf_***") and "\n" not in message
    assert caught.value.__cause__ is None and caught.value.__suppress_context__, "the traceback does not repeat it"


def test_a_destination_checks_its_id_hides_its_token_and_names_its_command() -> None:
    for name in ("no-namespace", "org/bad name", "datasets/org/run"):
        with pytest.raises(PublishError, match=f"--hub_model_id is '{name}', expected namespace/name"):
            Destination(name)
    destination = Destination("org/run", push_memory=True, overwrite_revisions=True, token="hf_mine")
    assert "hf_mine" not in repr(destination) and destination.secret == "hf_mine"
    assert destination.command("my runs/a") == (
        "python -m hub.publish 'my runs/a' --hub_model_id org/run --push_memory --overwrite_revisions"
    )
