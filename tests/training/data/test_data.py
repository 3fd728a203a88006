"""Data sets: the built-in one, local folders, their columns, splits and labels."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from hub.run.errors import InputError
from training.arguments import Arguments
from training.data.examples import Examples
from training.data.splits import BUILT_IN, LabelledSplits, load_splits


Load = Callable[..., LabelledSplits]
WriteParquet = Callable[..., Path]


@pytest.fixture
def load(make_arguments: Callable[..., Arguments]) -> Load:
    """Loads the data set that these options name."""
    return lambda **options: load_splits(make_arguments(**options).data)


@pytest.fixture
def refuse(load: Load) -> Callable[..., str]:
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
    adds more, and `label` tells what the labels are.
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


def test_digits_are_all_of_scikit_learns_digits_with_their_labels(load: Load) -> None:
    splits = load(dataset_name="digits")
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


def test_digits_are_split_in_equal_proportions(load: Load) -> None:
    splits = load(dataset_name="digits")
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    totals = np.bincount(load_digits().target)
    assert (np.abs(np.bincount(splits.test.labels) - totals * 360 / 1797) <= 1).all()


def test_digits_are_split_alike_at_every_call(load: Load) -> None:
    once, again = load(dataset_name="digits"), load(dataset_name="digits")
    assert pixels(once.test) == pixels(again.test)
    assert once.train.labels.tolist() == again.train.labels.tolist()


def test_an_image_folder(
    load: Load, write_image_folder: Callable[..., Path], noise_image: Callable[..., PILImage.Image]
) -> None:
    images = {
        split: {
            name: [noise_image(offset + 10 * row + i) for i in range(3)] for row, name in enumerate(("dog", "cat"))
        }
        for offset, split in ((0, "train"), (100, "test"))
    }
    splits = load(dataset_name=write_image_folder(images))
    assert splits.class_names == ["cat", "dog"]
    for split, examples in (("train", splits.train), ("test", splits.test)):
        found = {
            (splits.class_names[label], image) for label, image in zip(examples.labels, pixels(examples), strict=True)
        }
        assert found == {(name, image.tobytes()) for name in ("cat", "dog") for image in images[split][name]}


@pytest.mark.parametrize("test_name", ["test", "validation"])
def test_a_parquet_folder(
    load: Load, write_parquet: WriteParquet, number_of: Callable[[PILImage.Image], int], test_name: str
) -> None:
    splits = load(
        dataset_name=write_parquet({"train": [2, 0, 1, 1], test_name: [0, 1, 2]}, ClassLabel(names=[*"abc"]))
    )
    assert splits.class_names == ["a", "b", "c"]
    assert splits.train.labels.tolist() == [2, 0, 1, 1]
    assert splits.test.labels.tolist() == [0, 1, 2]
    assert [number_of(splits.train.image(row)) for row in range(4)] == [0, 1, 2, 3]
    assert [number_of(splits.test.image(row)) for row in range(3)] == [4, 5, 6]
    assert splits.train.source_indices.tolist() == [0, 1, 2, 3]


def test_test_wins_over_validation_and_options_over_both(load: Load, write_parquet: WriteParquet) -> None:
    folder = write_parquet({"train": [0, 1], "validation": [0], "test": [1, 0]})
    assert len(load(dataset_name=folder).test) == 2
    assert len(load(dataset_name=folder, test_split="validation").test) == 1
    assert len(load(dataset_name=folder, train_split="test").train) == 2


def test_a_parquet_file_alone(load: Load, write_parquet: WriteParquet) -> None:
    splits = load(dataset_name=write_parquet({"train": [0, 1]}) / "train.parquet", test_split="train")
    assert len(splits.train) == len(splits.test) == 2


@pytest.mark.parametrize(
    ("label", "train", "test", "names", "ids"),
    [
        (Value("string"), ["pear", "fig", "pear"], ["fig"], ["fig", "pear"], [1, 0, 1]),
        # Sorted as numbers: as words, 10 would come before 9.
        (Value("int64"), [10, 9, 200], [200, 9], ["9", "10", "200"], [1, 0, 2]),
        (Value("uint8"), [3, 1], [1], ["1", "3"], [1, 0]),
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


def test_the_only_class_label_is_preferred_to_other_columns(load: Load, write_parquet: WriteParquet) -> None:
    columns = {"size": Value("int64"), "author": Value("string")}
    folder = write_parquet({"train": [0, 1], "test": [1]}, ClassLabel(names=["a", "b"]), columns)
    assert load(dataset_name=folder).class_names == ["a", "b"]


def test_columns_that_are_not_clear_are_named(
    load: Load, refuse: Callable[..., str], write_parquet: WriteParquet
) -> None:
    columns = {"mask": Image(), "size": Value("int64"), "score": Value("float32")}
    folder = write_parquet({"train": [0, 1], "test": [1]}, Value("int64"), columns)
    assert "image, mask with --image_column" in refuse(dataset_name=folder)
    assert "label, size with --label_column" in refuse(dataset_name=folder, image_column="image")
    assert load(dataset_name=folder, image_column="image", label_column="label").class_names == ["0", "1"]
    fine_and_coarse = write_parquet(
        {"train": [0], "test": [0]}, ClassLabel(names=["a"]), {"coarse": ClassLabel(names=["b"])}, name="two"
    )
    assert "label, coarse with --label_column" in refuse(dataset_name=fine_and_coarse)


def test_columns_that_cannot_be_used_are_named(refuse: Callable[..., str], write_parquet: WriteParquet) -> None:
    columns = {"score": Value("float32")}
    folder = write_parquet({"train": [0, 1], "test": [1]}, ClassLabel(names=["a", "b"]), columns)
    assert "--image_column picture does not exist" in refuse(dataset_name=folder, image_column="picture")
    assert "--label_column fine does not exist" in refuse(dataset_name=folder, label_column="fine")
    assert "--image_column score holds no images" in refuse(dataset_name=folder, image_column="score")
    assert "--image_column label holds no images" in refuse(dataset_name=folder, image_column="label")
    assert "--label_column score holds" in refuse(dataset_name=folder, label_column="score")
    assert "--label_column image holds" in refuse(dataset_name=folder, label_column="image")


def test_a_data_set_without_images_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    for split in ("train", "test"):
        Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(tmp_path / f"{split}.parquet")
    assert "text, label with --image_column" in refuse(dataset_name=tmp_path)


def test_splits_that_cannot_be_used_are_named(refuse: Callable[..., str], write_parquet: WriteParquet) -> None:
    folder = write_parquet({"train": [0, 1], "test": [0]})
    assert refuse(dataset_name=folder, train_split="learn").startswith("--train_split learn does not exist")
    assert refuse(dataset_name=folder, test_split="exam").startswith("--test_split exam does not exist")
    alone = write_parquet({"train": [0, 1]}, name="alone")
    assert "name one with --test_split" in refuse(dataset_name=alone)
    # Here the loader of `datasets` speaks first.
    empty = write_parquet({"train": [0, 1], "test": []}, name="empty")
    assert '"test"' in refuse(dataset_name=empty)


def test_an_empty_split_is_named(refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    full = BUILT_IN["digits"]()
    for split, other in (("train", "test"), ("test", "train")):
        dataset = DatasetDict({split: full[split].select([]), other: full[other]})
        monkeypatch.setitem(BUILT_IN, "digits", dataset.copy)
        assert refuse(dataset_name="digits").startswith(f"--{split}_split {split} is empty")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [ClassLabel(names=["a", "b"]), Value("string"), Value("int64")])
def test_a_missing_label_is_named_by_row_and_split(
    refuse: Callable[..., str], write_parquet: WriteParquet, label: Any, split: str
) -> None:
    values = ["a", "b"] if label.dtype == "string" else [0, 1]
    splits: dict[str, list[Any]] = {"train": values * 2, "test": values * 2}
    splits[split][2] = None
    message = refuse(dataset_name=write_parquet(splits, label))
    assert "Row 2 of the " + {"train": "training", "test": "test"}[split] in message


def test_the_label_minus_one_of_unlabelled_images_is_refused(
    refuse: Callable[..., str], write_parquet: WriteParquet
) -> None:
    names = ClassLabel(names=["a", "b"])
    assert "Row 1 of the test split" in refuse(dataset_name=write_parquet({"train": [0, 1], "test": [0, -1]}, names))
    plain = write_parquet({"train": [0, 1], "test": [-1, -1]}, name="plain")
    assert "-1 in label, a class without a training image" in refuse(dataset_name=plain)


def test_a_test_split_with_an_unknown_class_is_refused(
    refuse: Callable[..., str], write_parquet: WriteParquet
) -> None:
    folder = write_parquet({"train": ["fig"], "test": ["fig", "pear"]}, Value("string"))
    assert "'pear' in label, a class without a training image" in refuse(dataset_name=folder)


def test_splits_that_name_their_classes_differently_are_refused(
    refuse: Callable[..., str], marked_image: Callable[[int], PILImage.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def split(names: list[str]) -> Dataset:
        features = Features({"image": Image(), "label": ClassLabel(names=names)})
        return Dataset.from_dict({"image": [marked_image(0)], "label": [0]}, features=features)

    dataset = DatasetDict({"train": split(["a", "b"]), "test": split(["b", "a"])})
    monkeypatch.setitem(BUILT_IN, "digits", lambda: dataset)
    assert "--label_column label names other classes" in refuse(dataset_name="digits")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/no-such-folder", "a/b/c"])
def test_a_folder_that_does_not_exist_is_named(refuse: Callable[..., str], name: str) -> None:
    assert refuse(dataset_name=name).startswith(f"--dataset_name {name} does not exist")


def test_a_folder_that_is_no_data_set_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    assert refuse(dataset_name=tmp_path).startswith(f"--dataset_name {tmp_path} cannot be loaded")
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    assert refuse(dataset_name=tmp_path).startswith(f"--dataset_name {tmp_path} cannot be loaded")
    assert refuse(dataset_name=tmp_path / "train.parquet").startswith("--dataset_name")


def test_how_a_data_set_wants_to_be_decoded_does_not_matter(
    load: Load, tmp_path: Path, encode_image: Callable[..., bytes], noise_image: Callable[..., PILImage.Image]
) -> None:
    image = noise_image(0)
    for name, feature in (("raw", Image(decode=False)), ("grey", Image(mode="L"))):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            rows = {"image": [{"bytes": encode_image(image), "path": None}], "label": ["a"]}
            dataset = Dataset.from_dict(rows, features=Features({"image": feature, "label": Value("string")}))
            dataset.to_parquet(tmp_path / name / f"{split}.parquet")
        assert load(dataset_name=tmp_path / name).train.image(0).tobytes() == image.tobytes()


def test_images_of_different_sizes_and_modes_are_trained_together(
    run_script: Callable[..., Any],
    write_image_folder: Callable[..., Path],
    noise_image: Callable[..., PILImage.Image],
    tmp_path: Path,
) -> None:
    sizes = ((8, 8), (31, 17), (5, 40), (64, 64))
    images = [noise_image(number, *size) for number, size in enumerate(sizes)] + [noise_image(9).convert("L")]
    folder = write_image_folder({split: {name: images for name in ("a", "b")} for split in ("train", "test")})
    sized = "--image_size 16 --hidden_size 16 --num_attention_heads 2 --num_hidden_layers 1".split()
    short = "--classes_per_step 2 --num_epochs 1 --memory_size 4 --num_workers 0".split()
    output = tmp_path / "run"
    outcome = run_script("--dataset_name", str(folder), "--output_dir", str(output), *sized, *short)
    assert outcome.status == 0, outcome.errors
    assert (output / "step1" / "model.safetensors").is_file()
