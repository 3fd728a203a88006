"""Several seeds of one recipe: what is refused, what is written, and that nothing else changes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hub.run.errors import StepFolderError
from hub.run.recipe import differing_options
from hub.run.results import RunResults
from hub.run.seed_results import OtherRun, Spread, read_other_runs
from hub.run.step_folder import StepFolder
from hub.seeds import add_other_runs, main
from tests.hub.fake_run import make_ancestors, make_results, up_to_step, write_run
from tests.hub.publication import content_of


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of three runs of one recipe, the last with the first one's seed and another class order."""
    tmp_path = tmp_path_factory.mktemp("finished")
    shuffled = make_results(2, names=[f"class {label}" for label in (3, 2, 1, 0)])
    shuffled = replace(shuffled, steps=tuple(replace(step, top5_accuracy=None) for step in shuffled.steps))
    made = [make_results(2), make_results(2, seed=7), shuffled]
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


def test_each_step_gets_what_the_others_measured_by_then(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = [content_of(run) for run in runs]
    assert main([*map(str, runs), "--dry_run"]) == 0
    expected = [f"step{step}  would get the results of 3 runs, with seeds 0, 7, 0" for step in (1, 2)]
    assert capsys.readouterr().out.splitlines() == expected
    assert [content_of(run) for run in runs] == before, "a dry run writes nothing"

    assert main([str(run) for run in runs]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "step2  has the results of 3 runs, with seeds 0, 7, 0"
    after = [content_of(run) for run in runs]
    assert after[1:] == before[1:], "the other runs are only read"
    changed = {path for path, content in after[0].items() if before[0].get(path) != content}
    files = ("seeds.json", "README.md", "figures/accuracy_per_step.png")
    assert changed == {f"step{step}/{name}" for step in (1, 2) for name in files}
    for step in (1, 2):
        folder = StepFolder.read(runs[0] / f"step{step}")
        assert "seeds.json" in folder.published_files()
        own = [RunResults.read(run / f"step{step}" / "results.json") for run in runs[1:]]
        assert list(folder.other_runs) == [OtherRun.of(own[0], True), OtherRun.of(own[1], False)]
        assert folder.other_runs[0].accuracy == tuple(one.accuracy for one in own[0].steps)
    card = ModelCard.load(runs[0] / "step2" / "README.md")
    assert "over 3 runs of this recipe, with seeds 0, 7, 0; " in card.text
    assert "order of the classes differs" in card.text and card.data.model_name == "org/run"
    (top5,) = (line for line in card.text.splitlines() if line.startswith("| Top-5 accuracy |"))
    assert top5.endswith("| – |"), "one of the runs did not measure it"

    add_other_runs(runs[0], runs[1:])
    assert content_of(runs[0]) == after[0], "again changes nothing"
    add_other_runs(runs[0], runs[1:2])
    assert len(StepFolder.read(runs[0] / "step2").other_runs) == 1, "fewer runs replace more"


OTHER = make_results(2, seed=9)
UNEVEN = replace(OTHER, steps=(OTHER.steps[0], replace(OTHER.last, classes=("class 2",), num_seen_classes=3)))
DIFFERENT = {"num_epochs": 3, "warmup_epochs": None, "seed": 9, "class_order": ["other.txt"]}


@pytest.mark.parametrize(
    ("other", "recipe", "expected"),
    [
        (replace(OTHER, dataset="a\nb"), {}, "other: dataset is 'a\\nb', expected 'digits' as in "),
        (replace(OTHER, method="replay"), {}, "other: method is 'replay', expected 'some_method' as in "),
        (make_results(3, seed=9), {}, "other: num_steps is 3, expected 2 as in "),
        (UNEVEN, {}, "the number of classes of step 2 is 1, expected 2"),
        (make_results(2, seed=9, ancestors=make_ancestors(1)), {}, "continues other models"),
        (up_to_step(OTHER, 1), {}, "has no complete step2: finish this run first"),
        (make_results(2), {}, "has the seed 0 and the class order of"),
        (OTHER, DIFFERENT, "(num_epochs is 3, not 2; warmup_epochs is None, not absent)"),
        ("empty", {}, "has no complete step folder"),
        ("nothing", {}, "is not a folder"),
    ],
)
def test_what_is_no_other_seed_of_the_recipe_is_refused(
    runs: list[Path], other: Any, recipe: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, path = content_of(runs[0]), runs[0].parent / "other"
    if isinstance(other, RunResults):
        change_recipes(write_run(path, other), **recipe)
    elif other == "empty":
        path.mkdir()
    assert main([*map(str, runs[:2]), str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and expected in captured.err
    assert content_of(runs[0]) == before


def test_an_option_that_an_earlier_version_lacks_has_the_value_that_it_amounts_to() -> None:
    old, new = {"a": 1, "files": "x"}, {"a": 1, "files": ["x"], "added": [0.0], "also_added": None}
    added = {"added": 0.0, "also_added": None, "unused": 3}
    for first, second in ((old, new), (new, old)):
        assert differing_options(first, second, added) == []
        assert differing_options(first, second) == ["added", "also_added"]
        assert differing_options(first, second | {"a": 2}, added | {"added": 1}) == ["a", "added"]


def test_a_seeds_file_of_another_step_is_named(runs: list[Path]) -> None:
    add_other_runs(runs[0], runs[1:])
    shutil.copy(runs[0] / "step1" / "seeds.json", runs[0] / "step2")
    with pytest.raises(
        StepFolderError, match=r"^step2/seeds.json: runs\[0\].accuracy has 1 values, expected one a step"
    ):
        StepFolder.read(runs[0] / "step2")
    (runs[0] / "step2" / "seeds.json").write_text('{"runs": []}')
    with pytest.raises(
        StepFolderError, match="runs is empty, expected at least one: write it with python -m hub.seeds"
    ):
        StepFolder.read(runs[0] / "step2")


def test_a_continued_run_needs_only_its_own_steps(tmp_path: Path) -> None:
    own, other = (make_results(3, seed=seed, ancestors=make_ancestors(1)) for seed in (0, 1))
    # What the ancestor measured is the same in both.
    other = replace(other, steps=(own.steps[0], *other.steps[1:]))
    paths = [write_run(tmp_path / str(results.seed), results) for results in (own, other)]
    assert not (paths[0] / "step1").exists()
    add_other_runs(paths[0], paths[1:])
    (run,) = read_other_runs(paths[0] / "step3", 3)
    spread = Spread.of([own.steps[0].accuracy, run.accuracy[0]])
    assert spread is not None and spread.deviation == 0
    assert json.loads((paths[0] / "step3" / "seeds.json").read_text())["runs"][0]["accuracy"][1:] == [None, None]
    card = (paths[0] / "step3" / "README.md").read_text()
    assert f"with test images | {100 * (own.last.accuracy_of_measured or 0):.2f} % | – |" in card
