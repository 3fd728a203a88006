"""Several seeds of one recipe: what is refused, what is written, and that nothing else changes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hub.run.errors import StepFolderError
from hub.run.seed_results import OtherRun, Spread, read_other_runs
from hub.run.step_folder import StepFolder
from hub.seeds import add_other_runs, main
from tests.hub.fake_run import continued, fake_results, up_to_step, write_json, write_run


def shuffled_names(count: int) -> list[str]:
    return [f"class {i}" for i in reversed(range(count))]


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of three runs of one recipe, the last with the first one's seed and another class order."""
    tmp_path = tmp_path_factory.mktemp("finished")
    made = [fake_results(2), fake_results(2, seed=7), fake_results(2, names=shuffled_names(4))]
    made[2]["steps"][1]["top5_accuracy"] = None
    paths = [write_run(tmp_path / f"run{i}", results, hub_model_id="org/run") for i, results in enumerate(made)]
    for path, seed in zip(paths, (0, 7, 0), strict=True):
        change_recipes(path, seed=seed, class_order=[f"seed:{seed}"])
    return paths


@pytest.fixture
def runs(finished_runs: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of these runs."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in finished_runs]


def change_recipes(output_dir: Path, **options: Any) -> None:
    for file in output_dir.glob("step*/training_config.yaml"):
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_step_gets_what_the_others_measured_by_then(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = [contents(run) for run in runs]
    assert main([str(run) for run in runs]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "step2  has the results of 3 runs, with seeds 0, 7, 0"
    after = [contents(run) for run in runs]
    assert after[1:] == before[1:], "the other runs are only read"
    changed = {path for path, content in after[0].items() if before[0].get(path) != content}
    assert changed == {
        f"step{step}/{name}"
        for step in (1, 2)
        for name in ("seeds.json", "README.md", "figures/accuracy_per_step.png")
    }
    for step in (1, 2):
        folder = StepFolder.read(runs[0] / f"step{step}")
        assert "seeds.json" in folder.published_files()
        written = json.loads((folder.path / "seeds.json").read_text())["runs"]
        own = [json.loads((run / f"step{step}" / "results.json").read_text()) for run in runs[1:]]
        assert [each["accuracy"] for each in written] == [[row["accuracy"] for row in run["steps"]] for run in own]
        assert [(each["seed"], each["same_class_order"]) for each in written] == [(7, True), (0, False)]
        for name in ("forgetting", "backward_transfer"):
            assert [each[name] for each in written] == [run[name] for run in own]
    card = ModelCard.load(runs[0] / "step2" / "README.md")
    assert "over 3 runs of this recipe, with seeds 0, 7, 0; " in card.text
    assert "order of the classes differs" in card.text and card.data.model_name == "org/run"
    (top5,) = (line for line in card.text.splitlines() if line.startswith("| Top-5 accuracy |"))
    assert top5.endswith("| – |"), "one of the runs did not measure it"


def test_again_changes_nothing_and_fewer_runs_replace_more(runs: list[Path]) -> None:
    add_other_runs(runs[0], runs[1:])
    once = contents(runs[0])
    add_other_runs(runs[0], runs[1:])
    assert contents(runs[0]) == once
    add_other_runs(runs[0], runs[1:2])
    assert len(json.loads((runs[0] / "step2" / "seeds.json").read_text())["runs"]) == 1


def test_a_dry_run_writes_nothing(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(runs[0])
    assert main([*map(str, runs), "--dry_run"]) == 0
    assert contents(runs[0]) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"step{t}  would get the results of 3 runs, with seeds 0, 7, 0" for t in (1, 2)]


def other_run(results: dict[str, Any]) -> Callable[[Path, Path], Path]:
    return lambda folder, first: write_run(folder / "other", results)


def with_recipe(**options: Any) -> Callable[[Path, Path], Path]:
    def make(folder: Path, first: Path) -> Path:
        path = write_run(folder / "other", fake_results(2, seed=9))
        change_recipes(path, **options)
        return path

    return make


def without_step_2(folder: Path, first: Path) -> Path:
    path = write_run(folder / "other", fake_results(2, seed=9))
    (path / "step2" / "README.md").unlink()
    return path


UNEVEN = fake_results(2, seed=9)
UNEVEN["steps"][1].update(classes=["class 2"], num_seen_classes=3)
REFUSED: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "data set": (
        other_run(fake_results(2, seed=9, dataset="a\nb")),
        "dataset is 'a\\nb', expected that of the first: 'digits'",
    ),
    "method": (
        other_run(fake_results(2, seed=9, method="replay")),
        "method is 'replay', expected that of the first: 'dytox'",
    ),
    "steps": (other_run(fake_results(3, seed=9)), "num_steps is 3, expected that of the first: 2"),
    "classes": (other_run(UNEVEN), "the number of classes of step 2 is 1, expected that of the first: 2"),
    "ancestors": (other_run(continued(fake_results(2, seed=9), 1)), "continues other models"),
    "not finished": (without_step_2, "has no complete step2: finish this run first"),
    "itself": (lambda folder, first: first, "has the seed 0 and the class order of"),
    "option": (with_recipe(num_epochs=3), "another recipe than"),
    "missing option": (with_recipe(warmup_epochs=3), "(warmup_epochs is 3, not None)"),
    "no run": (lambda folder, first: folder, "has no complete step folder"),
    "nothing": (lambda folder, first: folder / "none", "is not a folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_other_seed_of_the_recipe_is_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, expected = REFUSED[case]
    before = contents(runs[0])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main([str(runs[0]), str(runs[1]), str(make(empty, runs[0]))]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and expected in captured.err
    assert contents(runs[0]) == before


def test_all_differing_options_are_named(runs: list[Path], tmp_path: Path) -> None:
    path = with_recipe(num_epochs=3, learning_rate=0.1, seed=9, class_order=["other.txt"])(tmp_path, runs[0])
    with pytest.raises(StepFolderError) as caught:
        add_other_runs(runs[0], [path])
    assert "(learning_rate is 0.1, not None; num_epochs is 3, not 2)" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("{}", "has no 'runs'"),
        ('{"runs": []}', "has no 'runs'"),
        ('{"runs": [1]}', "runs is [1], expected a list of objects"),
        ('{"runs": [{"seed": 1, "same_class_order": true, "accuracy": [0.5]}]}', "run 1: accuracy has 1 values"),
        ('{"runs": [{"seed": 1, "same_class_order": true, "accuracy": [0.5, 50]}]}', "run 1: accuracy[1] is 50"),
        ('{"runs": [{"seed": 1, "same_class_order": 1, "accuracy": [1, 1]}]}', "same_class_order is 1, expected true"),
        ('{"runs": [{"same_class_order": true, "accuracy": [1, 1]}]}', "run 1: 'seed' is missing"),
    ],
)
def test_a_broken_seeds_file_is_named(runs: list[Path], content: str, expected: str) -> None:
    (runs[0] / "step2" / "seeds.json").write_text(content)
    with pytest.raises(StepFolderError, match=re.escape(expected)) as caught:
        StepFolder.read(runs[0] / "step2")
    assert str(caught.value).startswith("step2/seeds.json") and "\n" not in str(caught.value)


def test_a_continued_run_needs_only_its_own_steps(tmp_path: Path) -> None:
    paths = []
    for seed in (0, 1):
        # What the ancestor measured is the same in both.
        results = fake_results(3, seed=seed)
        results["steps"][0] = fake_results(3)["steps"][0]
        paths.append(write_run(tmp_path / str(seed), continued(results, 1)))
        assert not (paths[-1] / "step1").exists()
    add_other_runs(paths[0], paths[1:])
    (other,) = read_other_runs(paths[0] / "step3", 3)
    spread = Spread.of([fake_results(3)["steps"][0]["accuracy"], other.accuracy[0]])
    assert spread is not None and spread.deviation == 0


def test_numbers_go_through_the_file_unchanged(tmp_path: Path, runs: list[Path]) -> None:
    add_other_runs(runs[0], runs[1:])
    expected = OtherRun.of(StepFolder.read(runs[1] / "step2").results, same_class_order=True)
    assert StepFolder.read(runs[0] / "step2").other_runs[0] == expected
    average = up_to_step(fake_results(2, seed=7), 2)["average_incremental_accuracy"]
    assert expected.average_incremental_accuracy == pytest.approx(average)
    write_json(tmp_path / "seeds.json", {"runs": []})
    with pytest.raises(StepFolderError):
        read_other_runs(tmp_path, 2)
