"""Data sets: the built-in one, local folders, their columns, splits and labels."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from hub.run.errors import InputError
from training.arguments import Arguments
from training.data.examples import Examples
from training.data.splits import BUILT_IN, LabelledSplits, load_splits


Load = Callable[..., LabelledSplits]
Refuse = Callable[..., str]
WriteParquet = Callable[..., Path]

A_OR_B = ClassLabel(names=["a", "b"])


@pytest.fixture
def load(make_arguments: Callable[..., Arguments]) -> Load:
    """Loads the data set that these options name."""
    return lambda **options: load_splits(make_arguments(**options).data)


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """The one line with which the data set that these options name is refused."""

    def message(**options: Any) -> str:
        with pytest.raises(InputError) as caught:
            load(**options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message


@pytest.fixture
def write_parquet(tmp_path: Path, marked_image: Callable[[int], PILImage.Image]) -> WriteParquet:
    """
    Writes a folder of one Parquet file a split, `{split: labels}`. Images are numbered through all splits; `columns`
    adds more, and `label` is the type of the labels.
    """

    def write(
        splits: dict[str, Sequence[Any]], label: Any = None, columns: dict[str, Any] | None = None, name: str = "data"
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        features = Features({"image": Image(), "label": label or Value("int64")} | (columns or {}))
        start = 0
        for split, labels in splits.items():
            images = [marked_image(start + row) for row in range(len(labels))]
            extra = {column: [None] * len(labels) for column in columns or {}}
            rows = {"image": images, "label": list(labels)} | extra
            Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
            start += len(labels)
        return folder

    return write


def pixels(examples: Examples) -> list[bytes]:
    return [examples.image(position).tobytes() for position in range(len(examples))]


def test_digits_are_all_of_scikit_learns_digits_split_alike_at_every_call(load: Load) -> None:
    splits, again = load(dataset_name="digits"), load(dataset_name="digits")
    digits = load_digits()
    grey = np.rint(digits.images / 16 * 255).astype(np.uint8)
    expected = Counter(
        (np.repeat(image[..., None], 3, axis=2).tobytes(), label)
        for image, label in zip(grey, digits.target, strict=True)
    )
    found: Counter[tuple[bytes, int]] = Counter()
    for examples in (splits.train, splits.test):
        found.update(zip(pixels(examples), examples.labels.tolist(), strict=True))
    assert found == expected
    assert splits.class_names == [str(digit) for digit in range(10)]
    # In equal proportions of the classes.
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    assert (np.abs(np.bincount(splits.test.labels) - np.bincount(digits.target) * 360 / 1797) <= 1).all()
    assert pixels(splits.test) == pixels(again.test)
    assert splits.train.labels.tolist() == again.train.labels.tolist()


def test_an_image_folder(
    load: Load,
    write_image_folder: Callable[..., Path],
    marked_image: Callable[[int], PILImage.Image],
    number_of: Callable[[PILImage.Image], int],
) -> None:
    numbers = {"train": {"dog": [3, 1], "cat": [2, 5, 7]}, "test": {"dog": [11], "cat": [12, 10]}}
    images = {
        split: {name: list(map(marked_image, each)) for name, each in classes.items()}
        for split, classes in numbers.items()
    }
    splits = load(dataset_name=write_image_folder(images))
    assert splits.class_names == ["cat", "dog"]
    for split, examples in (("train", splits.train), ("test", splits.test)):
        found = [number_of(examples.image(position)) for position in range(len(examples))]
        for label, name in enumerate(splits.class_names):
            assert [found[position] for position in np.flatnonzero(examples.labels == label)] == numbers[split][name]


def test_a_parquet_folder_and_the_choice_of_its_splits(
    load: Load, write_parquet: WriteParquet, number_of: Callable[[PILImage.Image], int]
) -> None:
    folder = write_parquet({"train": [1, 0, 1], "validation": [0], "test": [1, 0]}, A_OR_B)
    splits = load(dataset_name=folder)
    assert splits.class_names == ["a", "b"]
    assert (splits.train.labels.tolist(), splits.test.labels.tolist()) == ([1, 0, 1], [1, 0])
    assert [number_of(splits.train.image(row)) for row in range(3)] == [0, 1, 2]
    assert [number_of(splits.test.image(row)) for row in range(2)] == [4, 5]
    assert splits.train.source_indices.tolist() == [0, 1, 2]
    chosen = load(dataset_name=folder, train_split="test", test_split="validation")
    assert (len(chosen.train), len(chosen.test)) == (2, 1)
    # A validation split stands in for a test split.
    (folder / "test.parquet").unlink()
    assert number_of(load(dataset_name=folder).test.image(0)) == 3


@pytest.mark.parametrize("form", ["bytes", "bytes and path"])
def test_images_that_another_writer_stored_as_bytes(
    load: Load, tmp_path: Path, encode_image: Callable[..., bytes], marked_image: Any, number_of: Any, form: str
) -> None:
    for split, numbers in (("train", [3, 1]), ("test", [7, 5])):
        encoded = [encode_image(marked_image(number)) for number in numbers]
        images = encoded if form == "bytes" else [{"bytes": content, "path": None} for content in encoded]
        kinds = {"bytes": pa.binary(), "bytes and path": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}
        table = pa.table({"picture": pa.array(images, kinds[form]), "kind": ["ant", "bee"]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    splits = load(dataset_name=tmp_path)
    assert splits.class_names == ["ant", "bee"]
    assert [number_of(splits.train.image(row)) for row in range(2)] == [3, 1]
    assert number_of(load(dataset_name=tmp_path, image_column="picture").test.image(0)) == 7


@pytest.mark.parametrize(
    ("label", "train", "test", "names", "ids"),
    [
        (Value("string"), ["pear", "fig", "pear"], ["fig"], ["fig", "pear"], [1, 0, 1]),
        # Sorted as numbers: as words, 10 would come before 9.
        (Value("int64"), [10, 9, 200], [200, 9], ["9", "10", "200"], [1, 0, 2]),
        (Value("uint8"), [3, 1], [1], ["1", "3"], [1, 0]),
        # As CSV files are read.
        (Value("large_string"), ["x10", "x9", "x10"], ["x9"], ["x9", "x10"], [1, 0, 1]),
        (Value("bool"), [True, False], [True], ["False", "True"], [1, 0]),
        (ClassLabel(names=["z", "a", "never"]), [1, 0], [1], ["z", "a", "never"], [1, 0]),
    ],
)
def test_labels_of_every_kind(
    load: Load, write_parquet: WriteParquet, label: Any, train: list[Any], test: list[Any], names: list[str], ids: Any
) -> None:
    splits = load(dataset_name=write_parquet({"train": train, "test": test}, label))
    assert splits.class_names == names
    assert splits.train.labels.tolist() == ids
    of_values = dict(zip(train, ids, strict=True))
    assert splits.test.labels.tolist() == [of_values[value] for value in test]


def test_columns_that_are_not_clear_or_cannot_be_used_are_named(
    load: Load, refuse: Refuse, write_parquet: WriteParquet
) -> None:
    columns = {"mask": Image(), "size": Value("int64"), "score": Value("float32")}
    folder = write_parquet({"train": [0, 1], "test": [1]}, Value("int64"), columns)
    for options, message in (
        ({}, "image, mask with --image_column"),
        ({"image_column": "image"}, "label, size with --label_column"),
        ({"image_column": "picture"}, "--image_column picture does not exist"),
        ({"image_column": "image", "label_column": "fine"}, "--label_column fine does not exist"),
        ({"image_column": "score"}, "--image_column score holds no images"),
        ({"image_column": "label"}, "--image_column label holds no images"),
        ({"image_column": "image", "label_column": "score"}, "has no label in score (None)"),
        ({"image_column": "mask", "label_column": "image"}, "--label_column image holds"),
    ):
        assert message in refuse(dataset_name=folder, **options)
    assert load(dataset_name=folder, image_column="image", label_column="label").class_names == ["0", "1"]
    # The only class label is preferred to other columns; of two, none is.
    one = write_parquet({"train": [0, 1], "test": [1]}, A_OR_B, {"size": Value("int64")}, name="one")
    assert load(dataset_name=one).class_names == ["a", "b"]
    two = write_parquet({"train": [0], "test": [0]}, A_OR_B, {"coarse": ClassLabel(names=["b"])}, name="two")
    assert "label, coarse with --label_column" in refuse(dataset_name=two)
    for split in ("train", "test"):
        Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(two / f"{split}.parquet")
    assert "text, label with --image_column" in refuse(dataset_name=two)


def test_splits_that_cannot_be_used_are_named(
    refuse: Refuse, write_parquet: WriteParquet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_parquet({"train": [0, 1], "test": [0]})
    assert refuse(dataset_name=folder, train_split="learn").startswith("--train_split learn does not exist")
    assert refuse(dataset_name=folder, test_split="exam").startswith("--test_split exam does not exist")
    alone = write_parquet({"train": [0, 1]}, name="alone")
    assert "only train): hold out a share" in refuse(dataset_name=alone)
    assert "only train): hold out a share of the images with --holdout 0.2" in refuse(
        dataset_name=alone / "train.parquet"
    )
    # Here the loader of `datasets` speaks first.
    empty = write_parquet({"train": [0, 1], "test": []}, name="empty")
    assert '"test"' in refuse(dataset_name=empty)
    full = BUILT_IN["digits"]()
    for split, other in (("train", "test"), ("test", "train")):
        dataset = DatasetDict({split: full[split].select([]), other: full[other]})
        monkeypatch.setitem(BUILT_IN, "digits", dataset.copy)
        assert refuse(dataset_name="digits").startswith(f"--{split}_split {split} is empty")


MISSING = "of the {} split has no label in label"


@pytest.mark.parametrize(
    ("label", "train", "test", "message"),
    [
        (A_OR_B, [0, 1, None], [0], "Row 2 " + MISSING.format("train")),
        (A_OR_B, [0, 1], [0, None], "Row 1 " + MISSING.format("test")),
        (Value("string"), ["a", None], ["a"], "Row 1 " + MISSING.format("train")),
        (Value("int64"), [0, 1], [None], "Row 0 " + MISSING.format("test")),
        # Unlabelled images of some data sets have the label -1.
        (A_OR_B, [0, 1], [0, -1], "Row 1 " + MISSING.format("test")),
        (
            Value("int64"),
            [0, 1],
            [-1, -1],
            "Row 0 of the test split has no label in label (-1): the split hides its labels; those of train are there",
        ),
        (Value("string"), ["fig"], ["fig", "pear"], "'pear' in label, a class without a training image"),
    ],
)
def test_labels_that_are_missing_or_unknown_are_named(
    refuse: Refuse, write_parquet: WriteParquet, label: Any, train: list[Any], test: list[Any], message: str
) -> None:
    assert message in refuse(dataset_name=write_parquet({"train": train, "test": test}, label))


def test_splits_that_name_their_classes_differently_are_refused(
    refuse: Refuse, marked_image: Callable[[int], PILImage.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def split(names: list[str]) -> Dataset:
        features = Features({"image": Image(), "label": ClassLabel(names=names)})
        return Dataset.from_dict({"image": [marked_image(0)], "label": [0]}, features=features)

    dataset = DatasetDict({"train": split(["a", "b"]), "test": split(["b", "a"])})
    monkeypatch.setitem(BUILT_IN, "digits", lambda: dataset)
    assert "--label_column label names other classes" in refuse(dataset_name="digits")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/no-such-folder", "a/b/c"])
def test_a_folder_that_does_not_exist_is_named(refuse: Refuse, name: str) -> None:
    assert refuse(dataset_name=name).startswith(f"--dataset_name {name} does not exist")


def test_a_folder_that_is_no_data_set_is_named(refuse: Refuse, tmp_path: Path) -> None:
    assert refuse(dataset_name=tmp_path).startswith(f"--dataset_name {tmp_path} cannot be loaded")
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    assert refuse(dataset_name=tmp_path).startswith(f"--dataset_name {tmp_path} cannot be loaded")
    assert refuse(dataset_name=tmp_path / "train.parquet").startswith("--dataset_name")


def test_a_cache_that_cannot_be_written_is_named_and_not_the_data(
    refuse: Refuse, write_parquet: WriteParquet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_parquet({"train": [0], "test": [0]})
    (tmp_path / "cache").write_text("a file in its place")
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache" / "datasets")
    message = refuse(dataset_name=folder)
    assert message.startswith(f"The cache {tmp_path}/cache cannot be written") and "HF_HOME" in message


@pytest.mark.parametrize("feature", [Image(decode=False), Image(mode="L")], ids=str)
def test_how_a_data_set_wants_to_be_decoded_does_not_matter(
    load: Load,
    tmp_path: Path,
    encode_image: Callable[..., bytes],
    noise_image: Callable[..., PILImage.Image],
    feature: Image,
) -> None:
    rows = {"image": [{"bytes": encode_image(noise_image(0)), "path": None}], "label": ["a"]}
    for split in ("train", "test"):
        dataset = Dataset.from_dict(rows, features=Features({"image": feature, "label": Value("string")}))
        dataset.to_parquet(tmp_path / f"{split}.parquet")
    assert load(dataset_name=tmp_path).train.image(0).tobytes() == noise_image(0).tobytes()
