"""
Writes the tables of the pages from the files of results, so that no number is typed.

    python benchmarks/tables.py [--check]

`benchmarks/tables.yaml` says which rows and columns a table has. In its page it stands between the lines
`<!-- table NAME -->` and `<!-- end of table -->`; what is between them is replaced.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


if not __package__:
    # Launched as a file: Python puts this folder on the path, but not the root of the project.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import yaml

from benchmarks.comparison.results import Comparison, VariantResults
from benchmarks.comparison.runs import MeasuredRun
from benchmarks.comparison.table import percents_text, size_text
from hub.run.atomic import write_aside
from hub.run.errors import InputError, UserError


ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "benchmarks" / "tables.yaml"
RESULTS = ROOT / "benchmarks" / "results"
END = "<!-- end of table -->"


def _percent(value: Callable[[MeasuredRun], float | None]) -> Callable[[VariantResults], str]:
    """Mean and deviation over the seeds, in percent."""
    return lambda variant: percents_text([value(run) for run in variant.measured])


def _number(value: Callable[[MeasuredRun], float | None], form: str = ",.0f") -> Callable[[VariantResults], str]:
    """The same for all seeds, or mean and deviation; a dash where a run lacks it."""
    return lambda variant: size_text([value(run) for run in variant.measured], form)


def _seeds(variant: VariantResults) -> str:
    """`0 to 2`, or the seeds one by one."""
    seeds = sorted(variant.seeds)
    is_range = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if is_range else ", ".join(map(str, seeds))


#: What a column of this name holds; columns of other names hold text of `tables.yaml`.
COLUMNS: dict[str, Callable[[VariantResults], str]] = {
    "seeds": _seeds,
    "old images": _number(lambda run: run.memory_size),
    "Avg": _percent(lambda run: run.average_incremental_accuracy),
    "Last": _percent(lambda run: run.last_accuracy),
    "forgetting": _percent(lambda run: run.forgetting),
    "task-aware Last": _percent(lambda run: run.task_aware_accuracy),
    "head Last": _percent(lambda run: run.head_accuracy),
    "nearest-mean Last": _percent(lambda run: run.nearest_mean_accuracy),
    "parameters": _number(lambda run: run.num_parameters),
    "MB": _number(lambda run: None if run.weights_bytes is None else run.weights_bytes / 1e6, ".1f"),
    "CPU seconds": _number(lambda run: run.cpu_seconds),
}


@dataclass(frozen=True)
class Table:
    """
    A table of a page.

    Args:
        name (`str`): in the line that opens it.
        page (`Path`): the page.
        results (`Path`): the file that its numbers come from.
        columns (`Sequence[str]`): names of [`COLUMNS`], and of columns of text.
        rows (`Mapping[str, Mapping[str, str]]`): by variant, the texts of the columns of text.
    """

    name: str
    page: Path
    results: Path
    columns: Sequence[str]
    rows: Mapping[str, Mapping[str, str]]

    def markdown(self) -> str:
        """
        The table.

        Raises:
            InputError: the file lacks a variant, or a row a text.
        """
        variants = Comparison.read(self.results).variants
        rows = []
        for name, texts in self.rows.items():
            if name not in variants:
                raise InputError(f"{self.results.name} has no variant {name!r}: it has {', '.join(variants)}.")
            if len(variants[name].measured) < len(variants[name].seeds):
                raise InputError(f"{self.results.name} lacks runs of {name}: {variants[name].num_seeds}.")
            rows.append([self._cell(column, name, texts, variants[name]) for column in self.columns])
        rule = "|" + "".join("--:|" if column in COLUMNS else "---|" for column in self.columns)
        lines = [f"| {' | '.join(row)} |" for row in [list(self.columns), *rows]]
        return "\n".join([lines[0], rule, *lines[1:]])

    def _cell(self, column: str, name: str, texts: Mapping[str, str], variant: VariantResults) -> str:
        if column in COLUMNS:
            return COLUMNS[column](variant)
        if column not in texts:
            raise InputError(f"The row {name!r} of the table {self.name} has no text for its column {column!r}.")
        return str(texts[column])

    def put_into(self, text: str) -> str:
        """
        The text of the page with this table.

        Raises:
            InputError: the page has no place for it, or several.
        """
        start = f"<!-- table {self.name} -->"
        places = re.compile(f"({re.escape(start)}\n).*?({re.escape(END)})", re.DOTALL)
        if len(places.findall(text)) != 1:
            raise InputError(f"{self.page.name} needs the lines {start!r} and {END!r} once.")
        return places.sub(lambda found: f"{found[1]}{self.markdown()}\n{found[2]}", text)


def read_tables(path: Path = TABLES) -> list[Table]:
    """The tables that a file describes."""
    described: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        Table(name, ROOT / table["page"], RESULTS / table["results"], table["columns"], table["rows"])
        for name, table in described.items()
    ]


def main(command_line: Sequence[str] | None = None) -> int:
    """
    Runs the script and returns its exit status: 1 if `--check` finds a page that is not as the files have it.

    Args:
        command_line (`Sequence[str]`, *optional*): words of the command line, by default those of the process.
    """
    parser = argparse.ArgumentParser(description="Writes the tables of the pages from the files of results.")
    parser.add_argument("--check", action="store_true", help="Write nothing; name the pages that would change.")
    check = parser.parse_args(command_line).check
    try:
        texts: dict[Path, str] = {}
        for table in read_tables():
            text = texts.get(table.page) or table.page.read_text(encoding="utf-8")
            texts[table.page] = table.put_into(text)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    changed = [page for page, text in texts.items() if page.read_text(encoding="utf-8") != text]
    for page in changed:
        sys.stdout.write(f"{page.relative_to(ROOT)} {'differs from the files' if check else 'written'}\n")
        if not check:
            write_aside(page, texts[page])
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
