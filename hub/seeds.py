"""
Adds the results of the same recipe with other seeds to the cards of a run.

    python -m hub.seeds outputs/seed0 outputs/seed1 outputs/seed2
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hub.cards.model_card import complete_step_folder, hub_model_id_of
from hub.run.atomic import write_aside
from hub.run.errors import StepFolderError, UserError
from hub.run.layout import RECIPE_FILE, SEEDS_FILE
from hub.run.results import RunResults
from hub.run.seed_results import OtherRun, SeedResults
from hub.run.step_folder import StepFolder, list_step_folders
from hub.run.text import printable


#: Options in which the runs may differ.
FREE_OPTIONS = ("seed", "class_order")

_MAX_VALUE = 40


@dataclass(frozen=True)
class FinishedRun:
    """The complete step folders of a run, from step 1 or, where it continues a model, from its first own step."""

    path: Path
    folders: tuple[StepFolder, ...]

    @classmethod
    def read(cls, output_dir: str | Path) -> "FinishedRun":
        """
        Reads the `--output_dir` of a run.

        Raises:
            StepFolderError: it is no folder, holds no complete step folder, or one that is inconsistent.
        """
        path = Path(output_dir)
        folders = tuple(list_step_folders(path))
        if not folders:
            raise StepFolderError(f"{path} has no complete step folder, expected step1, step2, …")
        return cls(path, folders)

    @property
    def results(self) -> RunResults:
        """The results up to the last complete step."""
        return self.folders[-1].results

    def recipe(self) -> dict[str, Any]:
        """
        The options of the last complete step, without those that may differ.

        Raises:
            StepFolderError: they cannot be read.
        """
        path = self.folders[-1].path / RECIPE_FILE
        try:
            options = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, OSError):
            options = None
        if not isinstance(options, dict):
            raise StepFolderError(f"{path} is not valid YAML, expected the options of a run")
        return {name: value for name, value in options.items() if name not in FREE_OPTIONS}

    def step(self, number: int) -> RunResults:
        """
        The results after a step.

        Raises:
            StepFolderError: its folder is missing or not complete.
        """
        for folder in self.folders:
            if folder.step == number:
                return folder.results
        raise StepFolderError(f"{self.path} has no complete step{number}: finish this run first")


def add_other_runs(
    output_dir: str | Path, other_dirs: Sequence[str | Path], *, dry_run: bool = False
) -> list[tuple[StepFolder, list[OtherRun]]]:
    """
    Writes `seeds.json` into each complete step folder of a run, and draws its figures and writes its card anew.

    Everything is checked before anything is written; each file is written aside, then renamed.

    Args:
        output_dir: `--output_dir` of the run whose cards are to tell of the others.
        other_dirs: Those of runs of the same recipe with other seeds, which have at least the same steps.
        dry_run: Only check.

    Returns:
        For each step its folder and what the other runs measured.

    Raises:
        StepFolderError: A folder is not that of a run, the runs are not of one scenario and recipe, or one is there
            twice.
    """
    run, others = FinishedRun.read(output_dir), [FinishedRun.read(path) for path in other_dirs]
    for other in others:
        _check_same_scenario(run, other)
        _check_same_recipe(run, other)
    _check_different_runs([run, *others])
    found = [(folder, _other_runs(folder, others)) for folder in run.folders]
    repositories = [hub_model_id_of(folder) for folder, _ in found]
    if not dry_run:
        for (folder, measured), hub_model_id in zip(found, repositories, strict=True):
            content = json.dumps(SeedResults(tuple(measured)).to_json_object(), indent=2) + "\n"
            write_aside(folder.path / SEEDS_FILE, content)
            complete_step_folder(folder.path, hub_model_id)
    return found


def _other_runs(folder: StepFolder, others: Sequence[FinishedRun]) -> list[OtherRun]:
    names = folder.results.class_names
    measured = [other.step(folder.step) for other in others]
    return [OtherRun.of(results, same_class_order=results.class_names == names) for results in measured]


def _check_same_scenario(run: FinishedRun, other: FinishedRun) -> None:
    mine, theirs = run.results, other.results
    for name in ("dataset", "method", "num_steps"):
        _expect_equal(other, name, getattr(theirs, name), getattr(mine, name))
    if theirs.ancestors != mine.ancestors:
        raise StepFolderError(f"{other.path}: continues other models than {run.path}, expected the same")
    for own, of_other in zip(mine.steps, theirs.steps, strict=False):
        _expect_equal(other, f"the number of classes of step {own.step}", len(of_other.classes), len(own.classes))


def _expect_equal(other: FinishedRun, name: str, value: str | int, expected: str | int) -> None:
    if value != expected:
        raise StepFolderError(
            f"{other.path}: {name} is {_shown(value)}, expected that of the first: {_shown(expected)}"
        )


def _check_same_recipe(run: FinishedRun, other: FinishedRun) -> None:
    mine, theirs = run.recipe(), other.recipe()
    differing = [
        f"{printable(str(name))} is {_shown(theirs.get(name))}, not {_shown(mine.get(name))}"
        for name in sorted(mine.keys() | theirs.keys(), key=str)
        if mine.get(name) != theirs.get(name)
    ]
    if differing:
        raise StepFolderError(f"{other.path}: has another recipe than {run.path} ({'; '.join(differing)})")


def _check_different_runs(runs: Sequence[FinishedRun]) -> None:
    """Two runs of one seed and one class order are the same run: they would make the deviation too small."""
    last = min(run.results.last.step for run in runs)
    seen: dict[Any, FinishedRun] = {}
    for run in runs:
        results = run.results
        key = results.seed, tuple(step.classes for step in results.steps[:last])
        if key in seen:
            raise StepFolderError(
                f"{run.path}: has the seed {results.seed} and the class order of {seen[key].path}: it is the same run"
            )
        seen[key] = run


def _shown(value: Any) -> str:
    text = printable(repr(value))
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 1]}…"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hub.seeds",
        description="Adds the results of the same recipe with other seeds to the cards of a run: mean and sample "
        "standard deviation in the card, all seeds in the figure. Writes seeds.json into each complete step folder of "
        "OUTPUT_DIR, and draws its figures and writes its card anew: what you wrote into a card by hand is lost.",
        epilog="A step that is on the Hub already has other content then: python -m hub.publish replaces it only with "
        "--overwrite_revisions.",
    )
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="--output_dir of the run whose cards are to change")
    parser.add_argument(
        "other_dirs", metavar="OTHER_DIR", nargs="+", help="--output_dir of a run of the same recipe with another seed"
    )
    parser.add_argument("--dry_run", action="store_true", help="only check, and print what would be done")
    return parser


def _lines(found: list[tuple[StepFolder, list[OtherRun]]], dry_run: bool) -> Iterator[str]:
    word = "would get" if dry_run else "has"
    for folder, others in found:
        seeds = ", ".join(str(seed) for seed in [folder.results.seed, *(other.seed for other in others)])
        yield f"{folder.tag}  {word} the results of {len(others) + 1} runs, with seeds {seeds}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m hub.seeds`; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        found = add_other_runs(options.output_dir, options.other_dirs, dry_run=options.dry_run)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in _lines(found, options.dry_run)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
