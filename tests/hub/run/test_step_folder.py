"""Reading step folders: what is complete, what is consistent, what may be published."""

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers.dynamic_module_utils import get_relative_import_files

from hub.cards.model_card import render_card
from hub.run.errors import StepFolderError
from hub.run.seed_results import OtherRun, write_other_runs
from hub.run.step_folder import StepFolder, list_step_folders
from tests.hub import fake_run
from tests.hub.fake_run import STEP_FILES, make_results, write_json, write_run, write_trained_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of step 2 of 3, as training leaves it."""
    return write_trained_files(tmp_path / "step2", make_results(3), 2)


def test_a_run_of_an_earlier_version_is_read_and_its_cards_can_be_made_again(root: Path, tmp_path: Path) -> None:
    with tarfile.open(root / "tests" / "fixtures" / "run_of_0_1_0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    folders = list_step_folders(tmp_path / "run")
    assert [folder.tag for folder in folders] == ["step1", "step2"]
    for folder in folders:
        assert folder.published_files().keys() == STEP_FILES | {"figures/calibration.png"}
        old, new = (folder.path / "README.md").read_text(), render_card(folder, "org/old")
        assert "**Method:** Trained with the method `dytox`." in new and "bibtex" not in new, "no words were recorded"
        old_rows, new_rows = (re.findall(r"^\| .*", text, re.MULTILINE) for text in (old, new))
        if folder.step == 1:
            old_rows = [re.sub(r"(Forgetting|transfer) \| 0.00 %", r"\1 | –", row) for row in old_rows]
        # The summary of 0.1.0 did not name the size, which its table has.
        size = next(row for row in new_rows if row.startswith("| Parameters"))
        assert size.strip("| ").removeprefix("Parameters | ") in old_rows[-1]
        new_rows.remove(size)
        assert old_rows == new_rows


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda c: c.update(class_ranges=[[0, 2], [2, 5]]), "class_ranges[1] is [2, 5], but results.json gives [2, 4"),
        (lambda c: c.update(class_ranges=[[0, 4]]), "the number of class_ranges is 1, but results.json gives 2"),
        (lambda c: c["id2label"].update({"1": "dog"}), "id2label[1] is 'dog', but results.json gives 'class 1'"),
        (lambda c: c["id2label"].pop("3"), "the number of classes in id2label is 3"),
        (lambda c: c.update(auto_map={}), "auto_map is {}, expected classes of files in this folder"),
        (
            lambda c: c.update(auto_map={"AutoModel": "../x.Model"}),
            "auto_map is {'AutoModel': '../x.Model'}, expected",
        ),
    ],
)
def test_a_config_of_other_classes_is_refused(folder: Path, edit: Callable[[Any], object], expected: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    write_json(folder / "config.json", config)
    with pytest.raises(StepFolderError, match=re.escape(f"step2/config.json: {expected}")):
        StepFolder.read(folder)


DEEP: list[Any] = []
for _ in range(500):
    DEEP = [DEEP]
VALUES = [None, True, -1, float("nan"), 10**400, "\n" * 999, "\ud800", [None], {}, DEEP]
BROKEN = ["", "[]", "{", "\x00", "[" * 100_000, "\ufeff{}"]


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every object in a JSON value with each of its keys, and every list with its last index."""
    for key in list(content) if isinstance(content, dict) else range(len(content))[-1:]:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from places(content[key])


def contents(text: str) -> Iterator[str]:
    """Broken JSON, and for every place in this JSON the same with another value there."""
    yield from BROKEN
    content = json.loads(text)
    for container, key in places(content):
        before = container[key]
        for container[key] in VALUES:
            yield json.dumps(content)
        container[key] = before


@pytest.mark.parametrize("name", ["results.json", "config.json", "seeds.json", "model.safetensors.index.json"])
def test_any_value_in_any_place_is_refused_in_one_line_or_makes_a_card(tmp_path: Path, name: str) -> None:
    results = fake_run.with_calibration(make_results(2, 1, ancestors=fake_run.make_ancestors(1)), num_images=3)
    folder = write_trained_files(tmp_path / "step2", results, 2)
    write_other_runs(folder, [OtherRun.of(make_results(2, 1, seed=1), same_class_order=True)])
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "model-00001-of-00001.safetensors"}})
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    refused = []
    for number, content in enumerate(contents((folder / name).read_text())):
        (folder / name).write_text(content)
        try:
            render_card(StepFolder.read(folder)).encode()
        except StepFolderError as error:
            assert str(error).startswith(f"step2/{name}") or name == "model.safetensors.index.json"
            assert str(error).isprintable() and len(str(error)) < 250
            refused.append(number)
    assert refused[: len(BROKEN)] == list(range(len(BROKEN))) and len(refused) > 2 * len(BROKEN)


def test_a_missing_file_is_named(folder: Path) -> None:
    for file in [file for file in folder.iterdir() if not file.name.startswith("modeling")]:
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(StepFolderError, match=f"step2 lacks {file.name}: it is not a finished step folder"):
            StepFolder.read(folder)
        file.write_bytes(content)


def test_sharded_weights_count_when_every_shard_is_there(folder: Path) -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = folder / "model.safetensors.index.json"
    write_json(index, {"weight_map": {shard: shard for shard in shards}})
    shutil.copy(folder / "model.safetensors", folder / shards[0])
    with pytest.raises(StepFolderError, match=f"step2 lacks {shards[1]}"):
        StepFolder.read(folder)
    (folder / "model.safetensors").rename(folder / shards[1])
    assert {*shards, index.name} <= StepFolder.read(folder).published_files().keys()
    write_json(index, {"weight_map": {"a": "results.json"}})
    with pytest.raises(StepFolderError, match=r"weight_map names 'results\.json', expected model-"):
        StepFolder.read(folder)


def test_only_listed_files_and_the_code_that_transformers_loads_may_be_published(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", make_results(1)) / "step1"
    strays = (".env", "model.bin", "figures/a.svg", "figures/.b.png", "figures/deep/b.png", "sub/config.json", "a.py")
    for stray in (*strays, "README.md.bak", "modeling_stray.py"):
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_text("x")
    assert StepFolder.read(folder).published_files().keys() == STEP_FILES

    (folder / "modeling_dytox.py").write_text(
        "if True:\n    from .heads import (\n        Head,\n    )\nimport torch\n"
    )
    (folder / "heads.py").write_text("from .ranges import a\nfrom .modeling_dytox import b\n")
    (folder / "ranges.py").write_text("# from .a import x\n")
    imported = {Path(file).name for file in get_relative_import_files(folder / "modeling_dytox.py")}
    code = {path for path in StepFolder.read(folder).published_files() if path.endswith(".py")}
    assert code == imported | {"modeling_dytox.py"} == {"modeling_dytox.py", "heads.py", "ranges.py"}


@pytest.mark.parametrize(
    "name", ["model.safetensors", "results.json", "README.md", "modeling_dytox.py", "figures/x.png", "figures"]
)
@pytest.mark.parametrize("outside", [True, False])
def test_links_are_refused(tmp_path: Path, name: str, outside: bool) -> None:
    folder = write_run(tmp_path / "run", make_results(1)) / "step1"
    before = StepFolder.read(folder)
    path, target = folder / name, (tmp_path if outside else folder) / "private"
    path.rename(target) if path.exists() else target.write_text("secret")
    path.symlink_to(target)
    expected = f"step1/{'figures/accuracy_matrix.png' if name == 'figures' else name} is a link, expected a file"
    for read in (lambda: StepFolder.read(folder), before.published_files):
        with pytest.raises(StepFolderError, match=re.escape(expected)) as caught:
            read()
        assert "\n" not in str(caught.value) and "private" not in str(caught.value)


def test_the_list_is_in_order_and_leaves_out_the_unfinished(tmp_path: Path) -> None:
    run, results = tmp_path / "run", make_results(11, 1)
    finished = write_run(tmp_path / "source", make_results(1, 1)) / "step1"
    for step in range(1, 12):
        folder = write_trained_files(run / f"step{step}", results, step)
        shutil.copytree(finished / "figures", folder / "figures")
        shutil.copy(finished / "README.md", folder)
    (run / "step7" / "README.md").unlink()
    shutil.copytree(run / "step3", run / "step12.tmp")
    (run / "memory").mkdir()
    # The folder of a run or of a step may be reached by a link.
    (tmp_path / "link").symlink_to(run)
    (run / "step2").rename(tmp_path / "elsewhere")
    (run / "step2").symlink_to(tmp_path / "elsewhere")
    assert [folder.step for folder in list_step_folders(tmp_path / "link")] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]

    shutil.rmtree(run / "step5")
    (run / "step6").rename(run / "step5")
    with pytest.raises(StepFolderError, match="step5 holds the results of step6"):
        list_step_folders(run)
    with pytest.raises(StepFolderError, match="is not a folder"):
        list_step_folders(tmp_path / "nothing")
