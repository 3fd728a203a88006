"""
Compares methods, or any variants of a recipe, over several seeds: one file of results, one table and one figure.

    python benchmarks/methods.py --config training/recipes/digits.yaml --variants dytox wa \
        wide='dytox --hidden_size 96' --seeds 0 1 2 --output_dir outputs/methods --figure outputs/methods.png

Each run is one of `training/incremental.py` in the folder OUTPUT_DIR/VARIANT/seedS. The same command again resumes.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


if not __package__:
    # Launched as a file: Python puts this folder on the path, but not the root of the project.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.comparison.figure import draw_comparison
from benchmarks.comparison.machine import public_words
from benchmarks.comparison.results import Comparison
from benchmarks.comparison.runs import Job, MeasuredRun, RunFailed, make_or_read
from benchmarks.comparison.table import comparison_table
from benchmarks.comparison.variants import Variant, read_variants
from hub.run.errors import InputError, StepFolderError, UserError
from training.option_parser import OptionParser


def jobs_of(
    variants: Sequence[Variant], seeds: Sequence[int], options: Sequence[str], output_dir: Path
) -> list[tuple[Variant, int, Job]]:
    """
    The runs of a comparison, all checked; the first seed of every variant comes first.

    Args:
        variants (`Sequence[Variant]`): what is compared.
        seeds (`Sequence[int]`): of each.
        options (`Sequence[str]`): of `training/incremental.py`, shared by all runs.
        output_dir (`Path`): folder of all runs.

    Raises:
        InputError: a seed is given twice, or an option is wrong.
    """
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {' '.join(map(str, seeds))} has a seed twice: give each once.")
    for word in (word for words in (options, *(variant.options for variant in variants)) for word in words):
        if word.partition("=")[0] in ("--seed", "--output_dir"):
            raise InputError(f"{word} differs from run to run: give --seeds and --output_dir of the comparison.")
    jobs = []
    for seed in seeds:
        for variant in variants:
            words = (*options, *variant.options, "--seed", str(seed))
            job = Job(f"{variant.name}, seed {seed}", output_dir / variant.name / f"seed{seed}", words)
            job.arguments()
            jobs.append((variant, seed, job))
    return jobs


def compare(
    jobs: Sequence[tuple[Variant, int, Job]], options: Sequence[str], launcher: Sequence[str], file: Path
) -> tuple[Comparison, list[str]]:
    """
    Makes the runs that are not finished, and writes the results of all after each.

    Args:
        jobs (`Sequence[tuple[Variant, int, Job]]`): the runs, see [`jobs_of`].
        options (`Sequence[str]`): of `training/incremental.py`, shared by all runs.
        launcher (`Sequence[str]`): words that start the script.
        file (`Path`): of the results; runs that it holds of other variants and seeds stay.

    Returns:
        `tuple[Comparison, list[str]]`: the results, and a line for each run that failed.

    Raises:
        InputError: the launcher, a folder or the file cannot be used.
    """
    comparison = Comparison.open(file, shlex.join(public_words(options)))
    for variant, seed, _ in jobs:
        comparison = comparison.with_variant(variant.name, shlex.join(public_words(variant.options)), [seed])
    failures = []
    for variant, seed, job in jobs:
        comparison.write(file)
        try:
            run: MeasuredRun | None = make_or_read(job, launcher)
        except (RunFailed, StepFolderError) as error:
            run = None
            failures.append(f"{job.name}: {error}")
        comparison = comparison.with_run(variant.name, seed, run)
    comparison.write(file)
    return comparison, failures


def make_parser() -> OptionParser:
    """The options of a comparison."""
    parser = OptionParser(
        [],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compares variants of a recipe over several seeds; the same command again resumes.",
        epilog="All other options, and those after --, are of training/incremental.py and hold for every run.",
    )
    parser.add_argument("--config", metavar="FILE", help="Recipe of all runs, such as those in training/recipes/.")
    parser.add_argument(
        "--variants",
        metavar="VARIANT",
        nargs="+",
        default=[],
        help="Rows of the table: a method, or NAME='METHOD --option value ...'.",
    )
    file: dict[str, Any] = {"type": Path, "metavar": "FILE"}
    parser.add_argument(
        "--variants_file", **file, help="YAML of variants, each 'NAME: {method: METHOD, option: value}'."
    )
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", default=[0], help="Seeds of each. (default: 0)")
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="FOLDER",
        default=Path("outputs/methods"),
        help="Folder of all runs. (default: %(default)s)",
    )
    parser.add_argument("--results", **file, help="JSON of all numbers. (default: OUTPUT_DIR/results.json)")
    parser.add_argument("--figure", **file, help="PNG to draw: accuracy over the number of classes seen.")
    parser.add_argument("--table_only", action="store_true", help="Only show what the file of results holds.")
    parser.add_argument(
        "--launcher",
        metavar="WORDS",
        default=shlex.quote(sys.executable),
        help="What starts each run, e.g. 'accelerate launch --num_processes 2'. (default: this Python)",
    )
    return parser


def run(command_line: Sequence[str]) -> list[str]:
    """
    Makes or reads the comparison that a command line asks for, prints its table and draws its figure.

    Returns:
        `list[str]`: a line for each run that failed.

    Raises:
        InputError: an option is wrong.
        StepFolderError: the file of results is missing or damaged.
    """
    words = list(command_line)
    end = words.index("--") if "--" in words else len(words)
    own, options = make_parser().parse_known_args(words[:end])
    options += words[end + 1 :]
    file: Path = own.results or own.output_dir / "results.json"
    failures: list[str] = []
    if own.table_only:
        comparison = Comparison.read(file)
    else:
        options = [*(["--config", own.config] if own.config else []), *options]
        variants = read_variants(own.variants, own.variants_file)
        jobs = jobs_of(variants, own.seeds, options, own.output_dir)
        comparison, failures = compare(jobs, options, shlex.split(own.launcher), file)
    sys.stdout.write(comparison_table(comparison) + "\n")
    if own.figure:
        draw_comparison(comparison, own.figure)
    return failures


def main(command_line: Sequence[str] | None = None) -> int:
    """
    Runs the script and returns its exit status: 1 if a run failed. Bad input ends it with one line and status 2.

    Args:
        command_line (`Sequence[str]`, *optional*): words of the command line, by default those of the process.
    """
    try:
        failures = run(sys.argv[1:] if command_line is None else command_line)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped: run the same command again to resume.\n")
        return 130
    for failure in failures:
        sys.stderr.write(f"failed: {failure}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
