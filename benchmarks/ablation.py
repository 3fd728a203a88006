"""
Runs the ablation of the paper on any recipe: from a transformer with replay to DyTox, one component per row.

    python benchmarks/ablation.py --config training/recipes/cifar100_tiny_10steps.yaml --output_dir outputs/ablation

Each row is a run of `training/incremental.py` in its own folder. The same command again resumes where it stopped.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple


if not __package__:
    # Launched as a file: Python puts this folder on the path, but not the root of the project.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from hub.run.atomic import write_aside
from hub.run.errors import InputError
from training.methods.dytox import DyTox
from training.parsing import parse_arguments


SCRIPT = Path(__file__).resolve().parents[1] / "training" / "incremental.py"
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


@dataclass(frozen=True)
class Row:
    """
    One row of the ablation.

    Args:
        name (`str`): component that it adds to the row before.
        folder (`str`): name of its output folder.
        switches (`tuple[str, ...]`): options of the command line that switch off the components of later rows.
    """

    name: str
    folder: str
    switches: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """A row with the results of its run: fractions in 0..1, and the number of parameters after the last step."""

    row: str
    switches: tuple[str, ...]
    average_incremental_accuracy: float | None
    last_accuracy: float | None
    forgetting: float | None
    num_parameters: int


def ablation_rows() -> list[Row]:
    """Makes the rows from the baseline, without any of `COMPONENTS`, to DyTox, with all of them."""
    names = ["baseline", *(f"+ {component.name}" for component in COMPONENTS)]
    names[-1] += " (DyTox)"
    rows = []
    for count, name in enumerate(names):
        folder = f"{count}_{COMPONENTS[count - 1].name if count else name}".replace(" ", "_")
        switches = [word for component in COMPONENTS[count:] for word in (f"--{component.option}", component.off)]
        rows.append(Row(name, folder, tuple(switches)))
    return rows


def run_ablation(options: Sequence[str], output_dir: Path, launcher: Sequence[str]) -> list[Measured]:
    """
    Runs all rows and writes `ablation.json` after each.

    Args:
        options (`Sequence[str]`): options of `training/incremental.py` that all rows share.
        output_dir (`Path`): folder of `ablation.json` and of one folder per row.
        launcher (`Sequence[str]`): words that start the script.

    Returns:
        `list[Measured]`: the results of all rows.

    Raises:
        `InputError`: if the options or the folder cannot be used, or a run fails.
    """
    check_options(options)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output_dir {output_dir} cannot be written ({error.strerror}): choose another folder."
        ) from error
    measured: list[Measured] = []
    for row in ablation_rows():
        folder = output_dir / row.folder
        sys.stderr.write(f"\n{row.name}: {folder}\n")
        command = [*launcher, str(SCRIPT), *options, *row.switches, "--output_dir", str(folder)]
        if status := launch(command):
            raise InputError(
                f"The row {row.name!r} ended with status {status}, see the reason above: fix it and run the same "
                "command again to resume."
            )
        measured.append(read_results(row, folder))
        content = {"options": list(options), "rows": [asdict(each) for each in measured]}
        write_aside(output_dir / RESULTS_FILE, json.dumps(content, indent=2) + "\n")
    return measured


def launch(command: Sequence[str]) -> int:
    """Runs a command and returns its exit status; it prints to stderr, so that stdout holds only the table."""
    return subprocess.run(command, stdout=sys.stderr, check=False).returncode


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


def read_results(row: Row, folder: Path) -> Measured:
    """Reads the results of the run of a row."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return Measured(
        row.name,
        row.switches,
        results["average_incremental_accuracy"],
        results["last_accuracy"],
        results["forgetting"],
        results["steps"][-1]["num_parameters"],
    )


def markdown_table(measured: Sequence[Measured]) -> str:
    """Formats the rows as a table in Markdown, with accuracies in percent."""
    lines = ["| row | switches | Avg | Last | forgetting | parameters |", "|---|---|--:|--:|--:|--:|"]
    for each in measured:
        switches = f"`{' '.join(each.switches)}`" if each.switches else "none"
        fractions = (each.average_incremental_accuracy, each.last_accuracy, each.forgetting)
        percents = " | ".join("–" if fraction is None else f"{100 * fraction:.2f}" for fraction in fractions)
        lines.append(f"| {each.row} | {switches} | {percents} | {each.num_parameters:,} |")
    return "\n".join(lines)


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
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped: run the same command again to resume.\n")
        return 130
    sys.stdout.write(markdown_table(measured) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
