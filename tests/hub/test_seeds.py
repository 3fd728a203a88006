"""Several seeds of one recipe: what is refused, what is written, and that nothing else changes."""

import json
import re
import shutil
from collections.abc import Callable
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
from tests.hub.fake_run import make_ancestors, make_results, write_run
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
        assert [other.accuracy for other in folder.other_runs] == [
            tuple(one.accuracy for one in run.steps) for run in own
        ]
    card = ModelCard.load(runs[0] / "step2" / "README.md")
    assert "over 3 runs of this recipe, with seeds 0, 7, 0; " in card.text
    assert "order of the classes differs" in card.text and card.data.model_name == "org/run"
    (top5,) = (line for line in card.text.splitlines() if line.startswith("| Top-5 accuracy |"))
    assert top5.endswith("| – |"), "one of the runs did not measure it"

    add_other_runs(runs[0], runs[1:])
    assert content_of(runs[0]) == after[0], "again changes nothing"
    add_other_runs(runs[0], runs[1:2])
    assert len(StepFolder.read(runs[0] / "step2").other_runs) == 1, "fewer runs replace more"


def other_run(results: RunResults, **options: Any) -> Callable[[Path, Path], Path]:
    def make(folder: Path, first: Path) -> Path:
        path = write_run(folder / "other", results)
        change_recipes(path, **options)
        return path

    return make


def without_step_2(folder: Path, first: Path) -> Path:
    path = write_run(folder / "other", make_results(2, seed=9))
    (path / "step2" / "README.md").unlink()
    return path


OTHER = make_results(2, seed=9)
UNEVEN = replace(OTHER, steps=(OTHER.steps[0], replace(OTHER.last, classes=("class 2",), num_seen_classes=3)))
REFUSED: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "data set": (other_run(replace(OTHER, dataset="a\nb")), "other: dataset is 'a\\nb', expected 'digits' as in "),
    "method": (other_run(replace(OTHER, method="replay")), "other: method is 'replay', expected 'some_method' as in "),
    "steps": (other_run(make_results(3, seed=9)), "other: num_steps is 3, expected 2 as in "),
    "classes": (other_run(UNEVEN), "the number of classes of step 2 is 1, expected 2"),
    "ancestors": (other_run(make_results(2, seed=9, ancestors=make_ancestors(1))), "continues other models"),
    "not finished": (without_step_2, "has no complete step2: finish this run first"),
    "itself": (lambda folder, first: first, "has the seed 0 and the class order of"),
    "options": (
        other_run(OTHER, num_epochs=3, warmup_epochs=None, seed=9, class_order=["other.txt"]),
        "(num_epochs is 3, not 2; warmup_epochs is None, not absent)",
    ),
    "no run": (lambda folder, first: folder, "has no complete step folder"),
    "nothing": (lambda folder, first: folder / "none", "is not a folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_other_seed_of_the_recipe_is_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, expected = REFUSED[case]
    before = content_of(runs[0])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main([str(runs[0]), str(runs[1]), str(make(empty, runs[0]))]) == 1
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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("{}", "runs is missing"),
        ('{"runs": []}', "runs is empty, expected at least one: write it with python -m hub.seeds"),
        ('{"runs": [{"seed": 1, "same_class_order": true, "accuracy": [0.5]}]}', "runs[0].accuracy has 1 values"),
        ('{"runs": [{"seed": 1, "same_class_order": true, "accuracy": [0.5, 50]}]}', "runs[0].accuracy[1] is 50"),
        ('{"runs": [{"seed": 1, "same_class_order": 1, "accuracy": [1, 1]}]}', "same_class_order is 1, expected true"),
    ],
)
def test_a_broken_seeds_file_is_named(runs: list[Path], content: str, expected: str) -> None:
    (runs[0] / "step2" / "seeds.json").write_text(content)
    with pytest.raises(StepFolderError, match=re.escape(expected)) as caught:
        StepFolder.read(runs[0] / "step2")
    assert str(caught.value).startswith("step2/seeds.json") and "\n" not in str(caught.value)


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
