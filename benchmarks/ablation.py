"""
Runs the ablation of the paper on any recipe: from a transformer with replay to DyTox, one component per row.

    python benchmarks/ablation.py --config training/recipes/cifar100_tiny_10steps.yaml --output_dir outputs/ablation

Each row is a run of `training/incremental.py` in its own folder. The same command again resumes where it stopped.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple


if not __package__:
    # Launched as a file: Python puts this folder on the path, but not the root of the project.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.comparison.machine import public_words
from benchmarks.comparison.runs import Job, MeasuredRun, RunFailed, make_or_read
from benchmarks.comparison.table import markdown_table, percents_text
from benchmarks.comparison.variants import Variant
from hub.run.atomic import write_aside
from hub.run.errors import InputError, UserError
from training.methods.dytox import DyTox
from training.parsing import parse_arguments


RESULTS_FILE = "ablation.json"


class Component(NamedTuple):
    """A component of DyTox, its option and the value that switches it off."""

    name: str
    option: str
    off: str


# In the order in which the paper adds them.
COMPONENTS = (
    Component("distillation", "distillation", "false"),
    Component("finetuning", "finetuning_epochs", "0"),
    Component("token expansion", "token_expansion", "false"),
    Component("divergence classifier", "divergence_weight", "0"),
    Component("independent classifiers", "independent_classifiers", "false"),
)


def ablation_rows() -> list[Variant]:
    """Makes the rows from the baseline, without any of `COMPONENTS`, to DyTox, with all of them."""
    names = ["baseline", *(f"+ {component.name}" for component in COMPONENTS)]
    names[-1] += " (DyTox)"
    switches = [(f"--{component.option}", component.off) for component in COMPONENTS]
    return [
        Variant(name, tuple(word for pair in switches[count:] for word in pair)) for count, name in enumerate(names)
    ]


def row_folder(count: int) -> str:
    """The name of the folder of a row, which adds `count` components."""
    return f"{count}_{COMPONENTS[count - 1].name if count else 'baseline'}".replace(" ", "_")


def run_ablation(
    options: Sequence[str], output_dir: Path, launcher: Sequence[str]
) -> list[tuple[Variant, MeasuredRun]]:
    """
    Runs all rows and writes `ablation.json` after each.

    Args:
        options (`Sequence[str]`): options of `training/incremental.py` that all rows share.
        output_dir (`Path`): folder of `ablation.json` and of one folder per row.
        launcher (`Sequence[str]`): words that start the script.

    Returns:
        `list[tuple[Variant, MeasuredRun]]`: the rows with what they measured.

    Raises:
        InputError: the options, the folder or the launcher cannot be used, or a run fails.
        StepFolderError: a file of a run is damaged.
    """
    check_options(options)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output_dir {output_dir} cannot be written ({error.strerror}): choose another folder."
        ) from error
    measured: list[tuple[Variant, MeasuredRun]] = []
    for count, row in enumerate(ablation_rows()):
        job = Job(row.name, output_dir / row_folder(count), (*options, *row.options))
        try:
            measured.append((row, make_or_read(job, launcher)))
        except RunFailed as error:
            raise InputError(
                f"The row {row.name!r} {error}; fix it and run the same command again to resume."
            ) from error
        content = {"options": public_words(options), "rows": [_row_content(row, run) for row, run in measured]}
        write_aside(output_dir / RESULTS_FILE, json.dumps(content, indent=2) + "\n")
    return measured


def _row_content(row: Variant, run: MeasuredRun) -> dict[str, Any]:
    return {"row": row.name, "switches": row.options, **asdict(run)}


def check_options(options: Sequence[str]) -> None:
    """
    Checks the options that all rows share before the first row starts.

    Args:
        options (`Sequence[str]`): options of `training/incremental.py`.

    Raises:
        `InputError`: if an option is wrong, or does not fit the rows of the ablation.
    """
    arguments = parse_arguments(options)
    if arguments.method.method != DyTox.name:
        raise InputError(f"--method {arguments.method.method} has no components of DyTox to add: leave it out.")
    if arguments.output.push_to_hub:
        raise InputError("--push_to_hub would publish every row to one repository: publish a row's folder yourself.")
    recipe = arguments.recipe()
    for component in COMPONENTS:
        if not recipe[component.option]:
            raise InputError(
                f"--{component.option} {recipe[component.option]} leaves out the {component.name} in every row: the "
                "ablation switches it off by itself; leave the option out, or give the value of the full method."
            )


def ablation_table(measured: Sequence[tuple[Variant, MeasuredRun]]) -> str:
    """Formats the rows as a table in Markdown, with accuracies in percent."""
    header = ["row", "switches", "Avg", "Last", "forgetting", "parameters"]
    rows = []
    for row, run in measured:
        switches = f"`{' '.join(row.options)}`" if row.options else "none"
        fractions = (run.average_incremental_accuracy, run.last_accuracy, run.forgetting)
        rows.append([row.name, switches, *(percents_text([each]) for each in fractions), f"{run.num_parameters:,}"])
    return markdown_table(header, rows, num_words=2)


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status. Bad input ends it with one line and status 2."""
    parser = argparse.ArgumentParser(
        description="Runs the ablation of the paper and prints its table.",
        epilog="All other options are those of training/incremental.py, and hold for every row.",
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", default="outputs/ablation", help="Folder of all rows. (default: %(default)s)")
    parser.add_argument(
        "--launcher",
        default=shlex.quote(sys.executable),
        help="What starts each run, e.g. 'accelerate launch --num_processes 2'. (default: this Python)",
    )
    own, options = parser.parse_known_args(command_line)
    try:
        measured = run_ablation(options, Path(own.output_dir), shlex.split(own.launcher))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped: run the same command again to resume.\n")
        return 130
    sys.stdout.write(ablation_table(measured) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
