"""Loads a data set with a training and a test split, finds its columns and names its classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hub.run.errors import InputError, first_line
from training.arguments import DataArguments
from training.data.digits import load_digits_dataset
from training.data.examples import Examples, Transparency
from training.data.holdout import hold_out
from training.data.inventory import Inventory
from training.data.tables import BUILDERS, TEXT, find_tables, load_tables


BUILT_IN = {"digits": load_digits_dataset}
# In this order, where the options name none.
_TEST_SPLITS = ("test", "validation")


@dataclass(frozen=True)
class LabelledSplits:
    """
    A data set ready to be cut into steps. Label ids here are those of the data set.

    Args:
        train (`Examples`): what to learn from.
        test (`Examples`): what to test on.
        class_names (`list[str]`): name of each label id.
        train_split, test_split (`str`): names of the two splits.
        notes (`Sequence[str]`): what of the data set is not used and why, a line each.
    """

    train: Examples
    test: Examples
    class_names: list[str]
    train_split: str = "train"
    test_split: str = "test"
    notes: Sequence[str] = ()


def load_splits(arguments: DataArguments, seed: int = 0) -> LabelledSplits:
    """
    Loads the data set that the options name.

    Args:
        arguments (`DataArguments`): the options.
        seed (`int`, *optional*, defaults to 0): decides which images `--holdout` holds out.

    Raises:
        InputError: the data set, a split or a column does not exist or cannot be used, or both splits are the same.
    """
    dataset, notes = _load(arguments)
    if arguments.holdout is not None:
        return _held_out(dataset, notes, arguments, arguments.holdout, seed)
    train_name, test_name = (
        arguments.train_split,
        arguments.test_split or _find_test_split(dataset, arguments.train_split),
    )
    if train_name == test_name:
        raise InputError(
            f"--test_split {test_name} is what the model learns from: its accuracy there would say nothing. Choose "
            "images that are held out."
        )
    train, test = _split(dataset, train_name, "train_split"), _split(dataset, test_name, "test_split")
    image_column, label_column = _find_columns(arguments, {"training": train, "test": test})
    class_names, (train_labels, test_labels) = _label_ids(dataset, train, test, label_column)
    return LabelledSplits(
        _examples(train, image_column, train_labels, arguments.transparency),
        _examples(test, image_column, test_labels, arguments.transparency),
        class_names,
        train_name,
        test_name,
        notes,
    )


def _held_out(
    dataset: DatasetDict, notes: Sequence[str], arguments: DataArguments, fraction: float, seed: int
) -> LabelledSplits:
    """The training split alone, cut into images to learn from and images to test on."""
    others = [name for name in (arguments.test_split, *_TEST_SPLITS) if name in dataset]
    if others:
        raise InputError(
            f"--holdout {fraction}: the data set has a split {others[0]} to test on; leave --holdout out."
        )
    name = arguments.train_split
    split = _split(dataset, name, "train_split")
    image_column, label_column = _find_columns(arguments, {"training": split})
    class_names, labels = _label_ids_of_one(dataset, split, label_column)
    train, test = hold_out(_examples(split, image_column, labels, arguments.transparency), fraction, seed)
    return LabelledSplits(train, test, class_names, name, f"{name} ({fraction:.0%} held out)", notes)


def load_test_split(arguments: DataArguments, seed: int = 0) -> tuple[Examples, list[str], Sequence[str]]:
    """
    Loads the test images alone of the data set that the options name; it needs no training split.

    Args:
        arguments (`DataArguments`): the options.
        seed (`int`, *optional*, defaults to 0): decides which images `--holdout` holds out.

    Returns:
        `tuple[Examples, list[str], Sequence[str]]`: the test images, with label ids of the data set, the name of each
        label id, and what is left out, a line each.

    Raises:
        InputError: the data set, the split or a column does not exist or cannot be used.
    """
    dataset, notes = _load(arguments)
    if arguments.holdout is not None:
        splits = _held_out(dataset, notes, arguments, arguments.holdout, seed)
        return splits.test, splits.class_names, notes
    test = _split(dataset, arguments.test_split or _find_test_split(dataset, arguments.train_split), "test_split")
    image_column, label_column = _find_columns(arguments, {"test": test})
    class_names, labels = _label_ids_of_one(dataset, test, label_column)
    return _examples(test, image_column, labels, arguments.transparency), class_names, notes


def _load(arguments: DataArguments) -> tuple[DatasetDict, Sequence[str]]:
    """The data set, and what of it is left out, a line each."""
    name = str(arguments.dataset_name)
    path = Path(name).expanduser()
    if name in BUILT_IN:
        if path.exists():
            raise InputError(
                f"--dataset_name {name} is the name of a built-in data set and of a folder here: write ./{name} for "
                "the folder, or run from another folder for the built-in."
            )
        return BUILT_IN[name](), ()
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise InputError(f"--dataset_name {name} does not exist: give a Hub id, an existing folder or 'digits'.")
    inventory = Inventory.read(path) if path.is_dir() else None
    if inventory is not None and inventory.is_of_plain_images:
        return _load_images(inventory)
    _check_is_unpacked(path)
    try:
        if path.suffix.lower() in BUILDERS and path.is_file():
            return load_tables({"train": [path]}), ()
        if inventory is not None and (tables := find_tables(inventory)):
            return load_tables(tables), ()
        return datasets.load_dataset(name if inventory is None else str(path), arguments.dataset_config_name), ()
    except InputError:
        raise
    except Exception as error:
        # The loaders of `datasets` raise errors of many libraries; most of them mean that the name cannot be used.
        _check_is_of_the_data(error)
        raise InputError(
            # What is wrong stands in the cause of what `datasets` raises.
            f"--dataset_name {name} cannot be loaded ({first_line(error.__cause__ or error)}): give a Hub id, a "
            "folder of images or tables, or 'digits'."
        ) from error


def _check_is_unpacked(path: Path) -> None:
    archives = [path] if path.is_file() else path.iterdir() if path.is_dir() else []
    for archive in sorted(archives):
        if archive.suffix.lower() in (".zip", ".7z", ".rar"):
            raise InputError(
                f"--dataset_name {path} is or holds the archive {archive.name}: unpack it into folders of classes, "
                "remove it, and name their folder."
            )


def _check_is_of_the_data(error: Exception) -> None:
    """Refuses an error of the cache under its own name: nothing is wrong with the data."""
    cache = str(datasets.config.HF_CACHE_HOME)
    for each in (error, error.__cause__, error.__context__):
        if isinstance(each, OSError) and str(each.filename or "").startswith(cache):
            raise InputError(
                f"The cache {cache} cannot be written ({each.strerror}): set the environment variable HF_HOME to a "
                "folder where you may write."
            ) from error


def _load_images(inventory: Inventory) -> tuple[DatasetDict, Sequence[str]]:
    """The images of a folder as a data set that names the files; they are read when they are needed."""
    inventory.check_in_one_split()
    inventory.check_is_no_parent()
    splits = inventory.splits
    if not splits:
        raise InputError(
            f"--dataset_name {inventory.root} has no images in folders of classes: put those of a class into a folder "
            f"with its name, {inventory.root}/CLASS."
        )
    images = {split: inventory.images(split) for split in splits}
    names = sorted({str(entry.class_name) for entries in images.values() for entry in entries}, key=natural_order)
    label_ids = {name: label for label, name in enumerate(names)}
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    dataset = {
        split: Dataset.from_dict(
            {
                "image": [str(entry.path) for entry in entries],
                "label": [label_ids[str(entry.class_name)] for entry in entries],
            },
            features=features,
        )
        for split, entries in images.items()
    }
    return DatasetDict(dataset), inventory.notes()


def _split(dataset: DatasetDict, name: str, option: str) -> Dataset:
    if name not in dataset:
        raise InputError(f"--{option} {name} does not exist: the data set has {', '.join(dataset)}.")
    if len(dataset[name]) == 0:
        raise InputError(f"--{option} {name} is empty: choose a split with images.")
    return dataset[name]


def _find_columns(arguments: DataArguments, splits: dict[str, Dataset]) -> tuple[str, str]:
    """The image and the label column, which are in all splits; an open choice follows from the first of them."""
    first = next(iter(splits.values()))
    image_column = arguments.image_column or _find_image_column(first)
    for name, split in splits.items():
        _check_image_column(split, image_column, name)
    label_column = arguments.label_column or _find_label_column(first, image_column)
    for name, split in splits.items():
        _check_label_column(split, label_column, name)
    return image_column, label_column


def _find_test_split(dataset: DatasetDict, train_split: str) -> str:
    for name in _TEST_SPLITS:
        if name in dataset:
            return name
    others = [name for name in dataset if name != train_split]
    advice = "hold out a share of the images with --holdout 0.2"
    if others:
        advice = f"name one of {', '.join(others)} with --test_split, or {advice}"
    raise InputError(f"The data set has no split test or validation (only {', '.join(dataset)}): {advice}.")


def _find_image_column(split: Dataset) -> str:
    columns = [name for name, feature in split.features.items() if isinstance(feature, Image)]
    columns = columns or [name for name, feature in split.features.items() if _holds_encoded_images(feature)]
    return _the_only(columns, "image", list(split.features))


def _find_label_column(split: Dataset, image_column: str) -> str:
    others = {name: feature for name, feature in split.features.items() if name != image_column}
    columns = [name for name, feature in others.items() if isinstance(feature, ClassLabel)]
    columns = columns or [name for name, feature in others.items() if _can_be_label(feature)]
    return _the_only(columns or [name for name in others if _is_float(others[name])], "label", list(others))


def _the_only(columns: list[str], kind: str, all_columns: list[str]) -> str:
    if len(columns) == 1:
        return columns[0]
    if not all_columns:
        raise InputError(
            f"The data set has no column but its images, so there is no {kind}: put the images of each class into a "
            "folder with its name, or add the labels as a column."
        )
    found = f"{len(columns)} columns can be it" if columns else "no column can be it"
    raise InputError(
        f"The {kind} column is not clear, {found}: name one of {', '.join(columns or all_columns)} with "
        f"--{kind}_column."
    )


def _can_be_label(feature: Any) -> bool:
    is_plain = isinstance(feature, Value) and ("int" in feature.dtype or feature.dtype in ("bool", *TEXT))
    return is_plain or isinstance(feature, ClassLabel)


def _is_float(feature: Any) -> bool:
    # What pandas makes of integers where one is missing.
    return isinstance(feature, Value) and feature.dtype in ("float32", "float64")


def _check_column(split: Dataset, column: str, option: str, name: str) -> None:
    if column not in split.features:
        raise InputError(
            f"--{option} {column} does not exist in the {name} split: it has {', '.join(split.features)}."
        )


def _check_image_column(split: Dataset, column: str, name: str) -> None:
    _check_column(split, column, "image_column", name)
    if not isinstance(split.features[column], Image) and not _holds_encoded_images(split.features[column]):
        raise InputError(
            f"--image_column {column} holds no images but {split.features[column]}: name a column of images."
        )


def _holds_encoded_images(feature: Any) -> bool:
    """Whether a column that no one has declared as images can be read as such: bytes, alone or with a path."""
    if isinstance(feature, Value):
        return feature.dtype in ("binary", "large_binary")
    return isinstance(feature, dict) and isinstance(feature.get("bytes"), Value)


def _check_label_column(split: Dataset, column: str, name: str) -> None:
    _check_column(split, column, "label_column", name)
    if not _can_be_label(split.features[column]) and not _is_float(split.features[column]):
        raise InputError(
            f"--label_column {column} holds {split.features[column]}: expected one class name or one integer an image."
        )


def _label_ids(
    dataset: DatasetDict, train: Dataset, test: Dataset, column: str
) -> tuple[list[str], tuple[np.ndarray, np.ndarray]]:
    """Class names and the label ids of both splits; labels without names are named by their values."""
    train_values, test_values = _read_labels(dataset, train, column), _read_labels(dataset, test, column)
    feature = train.features[column]
    if isinstance(feature, ClassLabel):
        if test.features[column] != feature:
            raise InputError(f"--label_column {column} names other classes in the test split than in training.")
        return feature.names, (np.asarray(train_values), np.asarray(test_values))
    values = sorted(set(train_values), key=natural_order)
    unknown = sorted(set(test_values) - set(values))
    if unknown:
        raise InputError(
            f"The test split holds {unknown[0]!r} in {column}, a class without a training image: remove its test "
            "images, or add training images."
        )
    ids = {value: position for position, value in enumerate(values)}
    label_ids = tuple(np.array([ids[value] for value in split]) for split in (train_values, test_values))
    return [str(value) for value in values], (label_ids[0], label_ids[1])


def _label_ids_of_one(dataset: DatasetDict, test: Dataset, column: str) -> tuple[list[str], np.ndarray]:
    """As `_label_ids`, from the test split alone."""
    values, feature = _read_labels(dataset, test, column), test.features[column]
    if isinstance(feature, ClassLabel):
        return feature.names, np.asarray(values)
    distinct = sorted(set(values), key=natural_order)
    ids = {value: position for position, value in enumerate(distinct)}
    return [str(value) for value in distinct], np.array([ids[value] for value in values])


def _read_labels(dataset: DatasetDict, split: Dataset, column: str) -> list[Any]:
    """The labels of a split; a missing one, and a negative one that stands for it, is refused."""
    labels = _column(split, column)
    row = next((row for row, label in enumerate(labels) if _is_hidden(label)), None)
    if row is None:
        return _whole_numbers(labels, column) if _is_float(split.features[column]) else labels
    name = next(name for name, each in dataset.items() if each is split)
    advice = "remove it or give it a class"
    if all(map(_is_hidden, labels)):
        labelled = [other for other, each in dataset.items() if each is not split and _has_labels(each, column)]
        advice = f"the split hides its labels; those of {', '.join(labelled) or 'no split'} are there"
    raise InputError(f"Row {row} of the {name} split has no label in {column} ({labels[row]}): {advice}.")


def _whole_numbers(labels: Sequence[float], column: str) -> list[int]:
    for row, label in enumerate(labels):
        if not label.is_integer():
            raise InputError(f"--label_column {column} holds {label} in row {row}: expected a name or an integer.")
    return list(map(int, labels))


def _has_labels(split: Dataset, column: str) -> bool:
    return column in split.features and not any(map(_is_hidden, _column(split, column)))


def _is_hidden(label: Any) -> bool:
    # Data sets write -1 where labels are kept secret.
    return label is None or label == "" or label != label or (isinstance(label, (int, float)) and label < 0)


def _column(split: Dataset, column: str) -> list[Any]:
    # Only this column is read: rows with images would be decoded.
    values: list[Any] = split.select_columns([column]).to_dict()[column]
    return [normalize("NFC", value) if isinstance(value, str) else value for value in values]


def natural_order(value: Any) -> tuple[Any, ...]:
    """A key that sorts numbers within text as numbers, `dog2` before `dog10`; other values by themselves."""
    if not isinstance(value, str):
        return (value,)
    parts = re.split(r"(\d+)", value)
    # Text and numbers take turns, so that like is compared with like; the text itself decides between 1 and 01.
    return (*((int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)), (0, value))


def _examples(split: Dataset, image_column: str, labels: np.ndarray, transparency: Transparency) -> Examples:
    # Whatever way of decoding the data set asks for, images are read as they are.
    images = split.select_columns([image_column]).cast_column(image_column, Image())
    if image_column != "image":
        images = images.rename_column(image_column, "image")
    return Examples(images, labels.astype(np.int64), np.arange(len(labels), dtype=np.int64), transparency)
