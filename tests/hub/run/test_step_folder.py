"""Reading step folders: what is complete, what is consistent, what may go up."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hub.run.errors import StepFolderError
from hub.run.results import RunResults
from hub.run.step_folder import StepFolder, list_step_folders
from tests.hub.fake_run import (
    STEP_FILES,
    continued,
    fake_results,
    with_calibration,
    write_json,
    write_run,
    write_trained_files,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of step 2 of 3, as training leaves it."""
    return write_trained_files(tmp_path / "step2", fake_results(3), 2)


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edits a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    write_json(path, content)


def test_a_folder_is_read_as_it_was_written(folder: Path) -> None:
    step = StepFolder.read(folder)
    assert (step.step, step.tag) == (2, "step2")
    assert step.results.class_names == ["class 0", "class 1", "class 2", "class 3"]
    assert step.results.last.accuracy == fake_results(3)["steps"][1]["accuracy"]


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_forgetting_after_each_step_agrees_with_numpy(steps: int, tmp_path: Path) -> None:
    results = fake_results(steps, seed=steps)
    for step in range(1, steps + 1):
        folder = write_trained_files(tmp_path / f"step{step}", results, step)
        own = StepFolder.read(folder).results
        whole = RunResults.from_dict(results)
        assert whole.forgetting_after(step) == pytest.approx(own.forgetting, nan_ok=False)


@pytest.mark.parametrize(
    ("file", "edit", "expected"),
    [
        ("config.json", lambda c: c.update(class_ranges=[[0, 2], [2, 5]]), "class_ranges is [[0, 2], [2, 5]]"),
        ("config.json", lambda c: c.update(class_ranges=[[0, 4]]), "results.json gives [[0, 2], [2, 4]]"),
        ("config.json", lambda c: c.update(num_task_tokens=3), "num_task_tokens is 3"),
        ("config.json", lambda c: c.update(token_expansion=False), "num_task_tokens is 2, expected one for all steps"),
        ("config.json", lambda c: c["id2label"].update({"1": "dog"}), "id2label[1] is 'dog'"),
        ("config.json", lambda c: c["id2label"].pop("3"), "id2label has 3 classes"),
        ("results.json", lambda r: r.pop("method"), "'method' is missing"),
        ("results.json", lambda r: r.update(steps=[]), "'steps' is empty"),
        ("results.json", lambda r: r.update(steps=[1]), "expected a list of objects"),
        ("results.json", lambda r: r.update(num_steps=1), "expected at most num_steps = 1"),
        ("results.json", lambda r: r.update(num_steps="3"), "num_steps is '3', expected a whole number"),
        ("results.json", lambda r: r.update(last_accuracy=0.1234), "last_accuracy is 0.1234"),
        ("results.json", lambda r: r.update(average_incremental_accuracy=0.2), "average_incremental_accuracy is 0.2"),
        ("results.json", lambda r: r.update(forgetting=float("nan")), "forgetting is nan"),
        ("results.json", lambda r: r["steps"][1].update(accuracy=76.8), "step 2: accuracy is 76.8"),
        ("results.json", lambda r: r["steps"][1].update(accuracy=True), "step 2: accuracy is True"),
        ("results.json", lambda r: r["steps"][1].update(classes=[7, 8]), "step 2: classes is [7, 8]"),
        ("results.json", lambda r: r["steps"][1].update(num_seen_classes=9), "num_seen_classes is 9, expected 4"),
        ("results.json", lambda r: r["steps"][1]["accuracy_per_step"].pop(), "accuracy_per_step is 1, expected 2"),
        ("results.json", lambda r: r["steps"][0]["accuracy_per_step"].__setitem__(0, "x"), "accuracy_per_step[0]"),
        ("results.json", lambda r: r["steps"].reverse(), "step 1: step is 2, expected 1"),
    ],
)
def test_a_contradiction_is_one_line_that_names_it(
    folder: Path, file: str, edit: Callable[[dict[str, Any]], None], expected: str
) -> None:
    change(folder / file, edit)
    with pytest.raises(StepFolderError, match=re.escape(expected)) as caught:
        StepFolder.read(folder)
    message = str(caught.value)
    assert message.startswith(f"step2/{file}") and "\n" not in message and len(message) < 250


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda r: r["ancestors"][1].update(num_steps=1), "ancestor 2: num_steps is 1, expected more than 1"),
        (lambda r: r["ancestors"][1].update(num_steps=4), "less than 4, all steps"),
        (lambda r: r["ancestors"][0].update(num_steps=0), "ancestor 1: num_steps is 0"),
        (lambda r: r["ancestors"][0].update(commit="main"), "ancestor 1: commit is 'main', expected 40"),
        (lambda r: r["ancestors"][0].update(revision=5), "ancestor 1: revision is 5, expected a string"),
        (lambda r: r["ancestors"][0].pop("model"), "ancestor 1: 'model' is missing"),
        (lambda r: r["ancestors"][0].pop("dataset"), "ancestor 1: 'dataset' is missing"),
        (lambda r: r.update(ancestors=["org/x"]), "ancestors is ['org/x'], expected a list of objects"),
        (lambda r: r.update(ancestors=[]), "step 2: accuracy_per_step[0] is None"),
        (lambda r: r["steps"][3]["accuracy_per_step"].__setitem__(3, None), "step 4: accuracy_per_step[3] is None"),
        (lambda r: r["steps"][2]["accuracy_per_step"].__setitem__(0, "?"), "step 3: accuracy_per_step[0] is '?'"),
        (lambda r: r["steps"][1]["calibration"][0].update(count=0), "step 2: calibration has an empty bin"),
        (lambda r: r["steps"][1]["calibration"].reverse(), "step 2: calibration has an empty bin or one out of order"),
        (lambda r: r["steps"][1]["calibration"][0].update(accuracy=2), "step 2, bin 1: accuracy is 2, expected"),
        (lambda r: r["steps"][1].update(expected_calibration_error=0.9), "expected_calibration_error is 0.9, but"),
    ],
)
def test_contradictions_of_ancestors_and_calibration_are_named(
    edit: Callable[[dict[str, Any]], None], expected: str
) -> None:
    results = with_calibration(continued(fake_results(4), 1, 2))
    assert RunResults.from_dict(results).first_own_step == 3
    edit(results)
    with pytest.raises(StepFolderError, match=re.escape(expected)) as caught:
        RunResults.from_dict(results)
    assert str(caught.value).startswith("results.json") and "\n" not in str(caught.value)


@pytest.mark.parametrize("ancestors", [(1,), (2,), (1, 3), (4,)])
def test_forgetting_of_a_continued_model_is_over_what_was_measured(ancestors: tuple[int, ...], tmp_path: Path) -> None:
    results = continued(fake_results(5), *ancestors)
    whole = RunResults.from_dict(results)
    for step in range(ancestors[-1] + 1, 6):
        own = StepFolder.read(write_trained_files(tmp_path / f"step{step}", results, step)).results
        assert whole.forgetting_after(step) == (own.forgetting and pytest.approx(own.forgetting))
    assert (whole.forgetting_after(ancestors[0] + 1) is None) == (own.steps[ancestors[0]].accuracy_per_step[0] is None)


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00"])
def test_broken_json_is_named(folder: Path, content: str) -> None:
    (folder / "results.json").write_text(content)
    with pytest.raises(StepFolderError, match=r"^step2/results\.json: "):
        StepFolder.read(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "preprocessor_config.json", "results.json", "modeling_dytox.py"]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StepFolderError, match=f"step2 lacks {name}"):
        StepFolder.read(folder)


def test_a_joint_model_may_know_several_steps_by_one_token(tmp_path: Path) -> None:
    folder = write_trained_files(tmp_path / "step2", fake_results(3, method="joint"), 2)
    change(folder / "config.json", lambda config: config.update(class_ranges=[[0, 4]], num_task_tokens=1))
    assert StepFolder.read(folder).step == 2


def test_without_token_expansion_all_steps_share_one_token(folder: Path) -> None:
    change(folder / "config.json", lambda config: config.update(token_expansion=False, num_task_tokens=1))
    assert StepFolder.read(folder).step == 2


def test_sharded_weights_count_when_every_shard_is_there(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for shard in shards:
        save_file({shard: np.zeros(1, np.float32)}, folder / shard)
    write_json(folder / "model.safetensors.index.json", {"weight_map": {shard: shard for shard in shards}})
    files = StepFolder.read(folder).published_files()
    assert {*shards, "model.safetensors.index.json"} <= files.keys()

    (folder / shards[1]).unlink()
    with pytest.raises(StepFolderError, match="lacks model.safetensors"):
        StepFolder.read(folder)


def test_only_listed_files_may_go_up(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", fake_results(1)) / "step1"
    before = StepFolder.read(folder).published_files().keys()
    for stray in (
        ".env",
        "model.bin",
        "figures/a.svg",
        "figures/.b.png",
        "figures/deep/b.png",
        "sub/config.json",
        "README.md.bak",
    ):
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_text("x")
    assert StepFolder.read(folder).published_files().keys() == before
    assert before == STEP_FILES


@pytest.mark.parametrize("name", ["model.safetensors", "results.json", "README.md", "figures/x.png", "figures"])
@pytest.mark.parametrize("outside", [True, False])
def test_links_are_refused(tmp_path: Path, name: str, outside: bool) -> None:
    folder = write_run(tmp_path / "run", fake_results(1)) / "step1"
    before = StepFolder.read(folder)
    path = folder / name
    target = (tmp_path if outside else folder) / "private"
    path.rename(target) if path.exists() else target.write_text("secret")
    path.symlink_to(target)
    expected = f"step1/{'figures/accuracy_matrix.png' if name == 'figures' else name} is a link, expected a file"
    with pytest.raises(StepFolderError, match=re.escape(expected)) as caught:
        StepFolder.read(folder)
    assert "\n" not in str(caught.value) and "private" not in str(caught.value)
    with pytest.raises(StepFolderError, match=re.escape(expected)):
        before.published_files()


def test_a_folder_may_be_reached_by_a_link(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", fake_results(1))
    (tmp_path / "link").symlink_to(run)
    (run / "step1").rename(tmp_path / "elsewhere")
    (run / "step1").symlink_to(tmp_path / "elsewhere")
    (folder,) = list_step_folders(tmp_path / "link")
    assert len(folder.published_files()) == 10


def test_the_list_is_in_order_and_leaves_out_the_unfinished(tmp_path: Path) -> None:
    run = tmp_path / "run"
    results = fake_results(11, 1)
    finished = write_run(tmp_path / "source", fake_results(1, 1)) / "step1"
    for step in range(1, 12):
        folder = write_trained_files(run / f"step{step}", results, step)
        shutil.copytree(finished / "figures", folder / "figures")
        shutil.copy(finished / "README.md", folder)
    (run / "step7" / "README.md").unlink()
    shutil.copytree(run / "step3", run / "step12.tmp")
    (run / "memory").mkdir()
    assert [folder.step for folder in list_step_folders(run)] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]

    shutil.rmtree(run / "step5")
    (run / "step6").rename(run / "step5")
    with pytest.raises(StepFolderError, match="step5 holds the results of step6"):
        list_step_folders(run)


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StepFolderError, match="is not a folder"):
        list_step_folders(tmp_path / "nothing")
