"""Tables of pages hold the numbers of the files of results, and nothing else."""

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks import tables


# What a column shows of a run, as the file names it, and by how much it is multiplied.
PERCENTS = {
    "Avg": "average_incremental_accuracy",
    "Last": "last_accuracy",
    "forgetting": "forgetting",
    "task-aware Last": "task_aware_accuracy",
    "head Last": "head_accuracy",
    "nearest-mean Last": "nearest_mean_accuracy",
}
NUMBERS = {"old images": "memory_size", "parameters": "num_parameters", "CPU seconds": "cpu_seconds"}


def rows_between(page: str, start: str) -> Iterator[dict[str, str]]:
    """The rows of the table below a line, by the names of its columns."""
    lines = page.split(f"{start}\n", 1)[1].split("\n<!-- end", 1)[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for row in rows:
        yield dict(zip(header, row, strict=True))


def numbers_in(cell: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"-?[\d.,]*\d", cell)]


def test_every_cell_of_every_table_is_what_the_file_says(root: Path) -> None:
    described = yaml.safe_load((root / "benchmarks" / "tables.yaml").read_text())
    checked = 0
    for name, table in described.items():
        page = (root / table["page"]).read_text(encoding="utf-8")
        variants = json.loads((root / "benchmarks" / "results" / table["results"]).read_text())["variants"]
        rows = list(rows_between(page, f"<!-- table {name} -->"))
        assert len(rows) == len(table["rows"]) > 0
        for row, (variant, texts) in zip(rows, table["rows"].items(), strict=True):
            runs = list(variants[variant]["runs"].values())
            for column, cell in row.items():
                if column in PERCENTS:
                    values = [run[PERCENTS[column]] for run in runs]
                    if None in values:
                        assert cell == "–"
                        continue
                    mean = 100 * sum(values) / len(values)
                    spread = [100 * statistics.stdev(values)] if len(values) > 1 else []
                    assert numbers_in(cell) == pytest.approx([mean, *spread], abs=0.0051), (name, variant, column)
                    checked += 1
                elif column in NUMBERS:
                    values = [run[NUMBERS[column]] for run in runs]
                    if None in values:
                        assert cell == "–"
                        continue
                    expected = [
                        sum(values) / len(values),
                        *([statistics.stdev(values)] if len(set(values)) > 1 else []),
                    ]
                    assert numbers_in(cell) == pytest.approx(expected, abs=0.51), (name, variant, column)
                elif column in texts:
                    assert cell == texts[column]
                else:
                    assert column in ("seeds", "MB"), "a column that nothing checks"
    assert checked > 20


def test_pages_are_as_the_files_have_them_and_an_edit_is_found_and_undone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables.main(["--check"]) == 0, "run python benchmarks/tables.py"
    (table, *_) = tables.read_tables()
    page = tmp_path / "page.md"
    before = f"Text.\n\n<!-- table {table.name} -->\n{table.markdown()}\n{tables.END}\n\nMore.\n"
    page.write_text(before.replace("95.73", "96.73"))
    edited = tables.Table(table.name, page, table.results, table.columns, table.rows)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "read_tables", lambda: [edited])
    assert tables.main(["--check"]) == 1 and page.read_text() != before
    assert tables.main([]) == 0 and page.read_text() == before
    page.write_text("No place.")
    assert tables.main([]) == 2
    assert "page.md needs the lines" in capsys.readouterr().err
