"""
Tables beside images: files of CSV, JSON Lines or Parquet with a column that names image files.

Paths are relative to the folder of the table, and stay below it.
"""

import csv
import glob
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, Features, Image, Value, concatenate_datasets

from hub.run.errors import InputError
from hub.run.text import shorten
from training.data.inventory import SPLITS, Inventory


#: Suffix of a table -> the builder of `datasets` that reads it.
BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
#: Types of text that tables have: CSV files are read as the second.
TEXT = ("string", "large_string", "string_view")


def find_tables(inventory: Inventory) -> dict[str, list[Path]]:
    """
    The tables of a folder that name the images below it.

    Args:
        inventory (`Inventory`): the files of the data folder.

    Returns:
        `dict[str, list[Path]]`: the tables of each split; empty where `datasets` knows better how to read the folder.

    Raises:
        InputError: it is not clear which table is to be read.
    """
    folder, paths = inventory.root, [entry.path for entry in inventory.entries]
    files = [path for path in paths if path.parent == folder]
    tables = [path for path in files if path.suffix.lower() in BUILDERS]
    # Labels beside images, data sets saved by `datasets`, and clones of a Hub repository that names its files.
    if any(path.name.startswith("metadata.") or path.suffix == ".arrow" for path in paths):
        return {}
    if not tables or any(path.name == "README.md" and "configs:" in path.read_text("utf-8") for path in files):
        return {}
    if all(path.suffix.lower() == ".parquet" for path in tables) and not inventory.has_images:
        return {}
    named: dict[str, list[Path]] = {}
    for path in tables:
        if (split := _split_of(path)) is not None:
            named.setdefault(split, []).append(path)
    if named or len(tables) == 1:
        return named or {"train": tables}
    raise InputError(
        f"--dataset_name {folder} holds {len(tables)} tables ({shorten([path.name for path in tables], 60)}): call "
        f"them train and test, or name one, {tables[0]}."
    )


def _split_of(table: Path) -> str | None:
    """The split that the name of a table begins with: `train_labels.csv` is of the training split."""
    return SPLITS.get(re.split(r"[^a-z]", table.stem.lower())[0])


def load_tables(tables: Mapping[str, Sequence[Path]]) -> DatasetDict:
    """
    Reads tables; text columns that name image files become columns of images.

    Args:
        tables (`Mapping[str, Sequence[Path]]`): the tables of each split.

    Raises:
        InputError: a row names a file that does not exist or lies elsewhere.
    """
    return DatasetDict(
        {split: concatenate_datasets([_read(path) for path in paths]) for split, paths in tables.items()}
    )


def _read(path: Path) -> Dataset:
    builder = BUILDERS[path.suffix.lower()]
    # A name with brackets would be a pattern.
    options: dict[str, Any] = {"data_files": [glob.escape(str(path.absolute()))], "split": "train"}
    if builder == "csv":
        separator, columns = _header(path)
        # As it is written: without types, 007 would be 7 and a class called "nan" would be missing.
        types = Features({name: Value("string") for name in columns})
        options |= {"sep": separator, "features": types, "keep_default_na": False, "encoding": "utf-8-sig"}
    return _with_images(datasets.load_dataset(builder, **options), path)


def _header(path: Path) -> tuple[str, list[str]]:
    """The separator of a CSV file and the names of its columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = file.readline()
    separator = next((mark for mark in ("\t", ";") if mark in line and "," not in line), ",")
    return separator, next(csv.reader([line], delimiter=separator), [])


def _with_images(table: Dataset, path: Path) -> Dataset:
    texts = [name for name, kind in table.features.items() if isinstance(kind, Value) and kind.dtype in TEXT]
    for column in texts if len(table) else ():
        if _names_image(table[0][column], path.parent):
            places = partial(_places, table=path, column=column)
            table = table.map(places, with_indices=True, batched=True, input_columns=[column], keep_in_memory=True)
            table = table.cast_column(column, Image())
    return table


def _names_image(value: str | None, folder: Path) -> bool:
    return value is not None and Path(value).suffix != "" and (folder / value).is_file()


def _places(values: Sequence[str | None], rows: Sequence[int], table: Path, column: str) -> dict[str, list[str]]:
    return {column: [_place(value, row, table) for value, row in zip(values, rows, strict=True)]}


def _place(value: str | None, row: int, table: Path) -> str:
    """The whole path of an image that a table names."""
    folder = os.path.abspath(table.parent)
    place = os.path.normpath(os.path.join(folder, value or ""))
    if Path(folder) not in Path(place).parents:
        raise InputError(f"Row {row} of {table} names {value!r}, which is not below {folder}: move the image there.")
    if not os.path.isfile(place):
        raise InputError(f"Row {row} of {table} names {value!r}, which is not there: add it, or remove the row.")
    return place
