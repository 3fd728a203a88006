"""
Adds the results of the same recipe with other seeds to the cards of a run.

    python -m hub.seeds outputs/seed0 outputs/seed1 outputs/seed2
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.cards.model_card import add_card_and_figures, hub_model_id_of, read_recipe
from hub.run.errors import StepFolderError, UserError
from hub.run.layout import step_name
from hub.run.recipe import differing_options
from hub.run.results import RunResults
from hub.run.seed_results import OtherRun, write_other_runs
from hub.run.step_folder import StepFolder, list_step_folders
from hub.run.text import printable, short_repr


#: Options in which the runs may differ.
FREE_OPTIONS = ("seed", "class_order")


@dataclass(frozen=True)
class SeedRun:
    """
    A run with one of the seeds.

    Args:
        path (`Path`): its `--output_dir`.
        folders (`tuple[StepFolder, ...]`): its complete step folders, at least one. A run that continues a model has
            those of its own steps alone.
    """

    path: Path
    folders: tuple[StepFolder, ...]

    @classmethod
    def read(cls, output_dir: str | Path) -> "SeedRun":
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
        recipe = read_recipe(self.folders[-1].path)
        return {name: value for name, value in recipe.items() if name not in FREE_OPTIONS}

    def results_after(self, step: int) -> RunResults:
        """
        The results after a step.

        Raises:
            StepFolderError: its folder is missing or not complete.
        """
        for folder in self.folders:
            if folder.step == step:
                return folder.results
        raise StepFolderError(f"{self.path} has no complete {step_name(step)}: finish this run first")


def add_other_runs(
    output_dir: str | Path, other_dirs: Sequence[str | Path], *, dry_run: bool = False
) -> list[tuple[StepFolder, list[OtherRun]]]:
    """
    Writes `seeds.json` into each complete step folder of a run, and draws its figures and writes its card again.

    Everything is checked before anything is written; each file is written aside, then renamed.

    Args:
        output_dir (`str` or `Path`): `--output_dir` of the run whose cards will show the others.
        other_dirs (`Sequence[str | Path]`): those of runs of the same recipe with other seeds, which have at least the
            same steps.
        dry_run (`bool`, *optional*, defaults to `False`): only check.

    Returns:
        `list[tuple[StepFolder, list[OtherRun]]]`: for each step its folder and what the other runs measured.

    Raises:
        StepFolderError: a folder is not that of a run, the runs are not of one scenario and recipe, or one is given
            twice.
    """
    run, others = SeedRun.read(output_dir), [SeedRun.read(path) for path in other_dirs]
    for other in others:
        _check_same_scenario(run, other)
        _check_same_recipe(run, other)
    _check_different_runs([run, *others])
    found = [(folder, _other_runs(folder, others)) for folder in run.folders]
    repositories = [hub_model_id_of(folder) for folder in run.folders]
    if not dry_run:
        for (folder, measured), hub_model_id in zip(found, repositories, strict=True):
            write_other_runs(folder.path, measured)
            add_card_and_figures(folder.path, hub_model_id)
    return found


def _other_runs(folder: StepFolder, others: Sequence[SeedRun]) -> list[OtherRun]:
    names = folder.results.class_names
    measured = [other.results_after(folder.step) for other in others]
    return [OtherRun.of(results, same_class_order=results.class_names == names) for results in measured]


def _check_same_scenario(run: SeedRun, other: SeedRun) -> None:
    ours, theirs = run.results, other.results
    for name in ("dataset", "method", "num_steps"):
        _expect_equal(run, other, name, getattr(ours, name), getattr(theirs, name))
    if set(theirs.class_order) != set(ours.class_order):
        raise StepFolderError(f"{other.path}: learns other classes than {run.path}, expected the same in any order")
    if theirs.ancestors != ours.ancestors:
        raise StepFolderError(f"{other.path}: continues other models than {run.path}, expected the same")
    for our, their in zip(ours.steps, theirs.steps, strict=False):
        name = f"the number of classes of step {our.step}"
        _expect_equal(run, other, name, len(our.classes), len(their.classes))


def _expect_equal(run: SeedRun, other: SeedRun, name: str, expected: str | int, value: str | int) -> None:
    if value != expected:
        raise StepFolderError(
            f"{other.path}: {name} is {short_repr(value)}, expected {short_repr(expected)} as in {run.path}"
        )


def _check_same_recipe(run: SeedRun, other: SeedRun) -> None:
    ours, theirs = run.recipe(), other.recipe()
    differences = [
        f"{printable(str(name))} is {_option(theirs, name)}, not {_option(ours, name)}"
        for name in differing_options(ours, theirs)
    ]
    if differences:
        raise StepFolderError(f"{other.path}: has another recipe than {run.path} ({'; '.join(differences)})")


def _option(recipe: Mapping[str, Any], name: str) -> str:
    return short_repr(recipe[name]) if name in recipe else "absent"


def _check_different_runs(runs: Sequence[SeedRun]) -> None:
    """Two runs of one seed and one class order are the same run: they would make the deviation too small."""
    num_steps = min(run.results.last.step for run in runs)
    seen: dict[Any, SeedRun] = {}
    for run in runs:
        results = run.results
        key = results.seed, tuple(step.classes for step in results.steps[:num_steps])
        if key in seen:
            raise StepFolderError(
                f"{run.path}: has the seed {results.seed} and the class order of {seen[key].path}: it is the same run"
            )
        seen[key] = run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hub.seeds",
        description="Adds the results of the same recipe with other seeds to the cards of a run: mean and sample "
        "standard deviation in the card, all seeds in the figure. Writes seeds.json into each complete step folder of "
        "OUTPUT_DIR, and draws its figures and writes its card again: what you wrote into a card by hand is lost.",
        epilog="A step that is on the Hub already has other content then: python -m hub.publish replaces it only with "
        "--overwrite_revisions.",
    )
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="--output_dir of the run whose cards will change")
    parser.add_argument(
        "other_dirs", metavar="OTHER_DIR", nargs="+", help="--output_dir of a run of the same recipe with another seed"
    )
    parser.add_argument("--dry_run", action="store_true", help="only check, and print what would be done")
    return parser


def _lines(found: list[tuple[StepFolder, list[OtherRun]]], dry_run: bool) -> Iterator[str]:
    verb = "would get" if dry_run else "has"
    for folder, others in found:
        seeds = ", ".join(str(seed) for seed in [folder.results.seed, *(other.seed for other in others)])
        yield f"{folder.tag}  {verb} the results of {len(others) + 1} runs, with seeds {seeds}"


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
