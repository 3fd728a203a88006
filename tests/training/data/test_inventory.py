"""What a folder of images holds: its split and class for every file, or why the file is left out."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as PILImage

from hub.run.errors import InputError
from training.arguments import DataArguments
from training.data.scenario import make_scenario
from training.data.splits import LabelledSplits, load_splits, load_test_split


Write = Callable[..., Path]


def load(folder: Path, **options: object) -> LabelledSplits:
    return load_splits(DataArguments(dataset_name=str(folder), **options))  # type: ignore[arg-type]


@pytest.fixture
def write(write_image_folder: Write, marked_image: Callable[[int], PILImage.Image]) -> Write:
    """Writes `{split: {class: number of images}}`; images are numbered through."""

    def folder(splits: dict[str, dict[str, int]], name: str = "images") -> Path:
        numbers = iter(range(1000))
        content = {
            split: {label: [marked_image(next(numbers)) for _ in range(count)] for label, count in classes.items()}
            for split, classes in splits.items()
        }
        return write_image_folder(content, name)

    return folder


def test_the_split_is_the_top_folder_whatever_a_class_is_called(write: Write) -> None:
    classes = {"bus": 2, "train": 3, "test": 1, "validation": 2}
    splits = load(write({"train": classes, "test": {name: 1 for name in classes}}))
    assert (len(splits.train), len(splits.test)) == (8, 4)
    assert splits.class_names == sorted(classes)
    assert make_scenario(splits, DataArguments()).describe() == [
        "train: 8 images of 4 classes: bus 2, test 1, train 3, validation 2",
        "test: 4 images of 4 classes: bus 1, test 1, train 1, validation 1",
        "1 step(s) of 4 class(es)",
    ]


def test_what_is_left_out_is_named_with_its_reason(write: Write, tmp_path: Path) -> None:
    folder = write({"train": {"ant": 2}, "test": {"ant": 1}})
    (folder / "train" / "cat").mkdir()
    for name in ("train/ant/a.HEIC", "train/cat/b.heic", "train/cat/c.HEIC", "notes.txt"):
        (folder / name).write_bytes(b"?")
    (folder / "train" / "000.png").write_bytes((folder / "train/ant/000.png").read_bytes())
    (folder / "extra").mkdir()
    (folder / "extra" / "000.png").write_bytes((folder / "train/ant/000.png").read_bytes())
    for rubbish in (".DS_Store", "train/ant/._000.png", "train/ant/Thumbs.db"):
        (folder / rubbish).write_bytes(b"?")
    (folder / "__MACOSX" / "ant").mkdir(parents=True)
    (folder / "__MACOSX" / "ant" / "000.png").write_bytes(b"?")
    splits = load(folder)
    assert splits.class_names == ["ant"]
    assert set(splits.notes) == {
        "Left out: 2 file(s) of a kind that cannot be read (.HEIC): train/ant/a.HEIC, train/cat/c.HEIC",
        "Left out: 1 file(s) of a kind that cannot be read (.heic): train/cat/b.heic",
        "Left out: 1 file(s) of a kind that cannot be read (.txt): notes.txt",
        "Left out: 1 file(s) in the folder of a split, but of no class: train/000.png",
        "Left out: 1 file(s) outside the folders of the splits: extra/000.png",
        "Left out: 1 folder(s) without an image that can be read: train/cat",
    }


def test_counts_of_many_classes_are_a_line(write: Write) -> None:
    classes = {f"{number:02}": 1 + (number == 7) for number in range(30)}
    splits = load(write({"train": classes, "test": classes}))
    lines = make_scenario(splits, DataArguments()).describe()
    assert lines[0] == "train: 31 images of 30 classes, from 1 (00) to 2 (07) a class"


def test_links_are_followed_but_one_file_in_two_splits_is_refused(write: Write, tmp_path: Path) -> None:
    pool = write({"train": {"ant": 2}, "test": {"ant": 1}}, name="pool")
    view = tmp_path / "view"
    for split in ("train", "test"):
        (view / split).mkdir(parents=True)
        (view / split / "ant").symlink_to(pool / split / "ant")
    (view / "train" / "loop").symlink_to(view)
    assert (len(load(view).train), len(load(view).test)) == (2, 1)
    (pool / "test" / "ant" / "again.png").symlink_to(pool / "train" / "ant" / "001.png")
    with pytest.raises(InputError, match=r"test/ant/again.png and train/ant/001.png are the same file, in two splits"):
        load(view)


def test_a_folder_without_splits_is_learned_from_and_some_images_are_held_out(write: Write) -> None:
    # A class may be called like a split, as long as no folder of that name holds folders of images.
    folder = write({"ant": {"": 20}, "test": {"": 20}, "dog10": {"": 20}, "dog2": {"": 20}})
    with pytest.raises(InputError, match="no split test or validation .only train.: hold out .* with --holdout 0.2"):
        load(folder)
    splits = load(folder, holdout=0.3)
    assert splits.class_names == ["ant", "dog2", "dog10", "test"], "numbers in names are numbers"
    assert splits.test_split == "train (30% held out)"
    found = [{examples.name(place) for place in range(len(examples))} for examples in (splits.train, splits.test)]
    assert not found[0] & found[1] and len(found[0] | found[1]) == 80
    assert 10 <= len(found[1]) <= 40
    again, other = load(folder, holdout=0.3), load_splits(DataArguments(str(folder), holdout=0.3), seed=1)
    assert again.test.source_indices.tolist() == splits.test.source_indices.tolist()
    assert other.test.source_indices.tolist() != splits.test.source_indices.tolist()
    held_out = load_test_split(DataArguments(str(folder), holdout=0.3))[0]
    assert held_out.source_indices.tolist() == splits.test.source_indices.tolist()


def test_images_that_are_added_move_no_other_and_equal_ones_stay_together(
    write: Write, marked_image: Callable[[int], PILImage.Image]
) -> None:
    folder = write({"ant": {"": 30}, "bee": {"": 30}})
    first = load(folder, holdout=0.3)
    before = {first.test.name(place) for place in range(len(first.test))}
    for number in range(20):
        marked_image(500 + number).save(folder / "ant" / f"a{number}.png")
        copy = folder / "bee" / f"{number:03}.png"
        copy.with_name(f"copy{number:03}.png").write_bytes(copy.read_bytes())
    later = load(folder, holdout=0.3)
    after = {later.test.name(place) for place in range(len(later.test))}
    assert before <= after
    for number in range(20):
        pair = {f"The image {folder}/bee/{name}{number:03}.png" for name in ("", "copy")}
        assert len(pair & after) in (0, 2)


def test_holding_out_beside_a_test_split_is_refused(write: Write) -> None:
    with pytest.raises(InputError, match="--holdout 0.2: the data set has a split test to test on; leave --holdout"):
        load(write({"train": {"ant": 1}, "test": {"ant": 1}}), holdout=0.2)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_split_to_learn_from_is_not_the_one_to_test_on(write: Write, split: str) -> None:
    folder = write({"train": {"ant": 1}, "val": {"ant": 1}})
    with pytest.raises(InputError, match=f"--test_split {split} is what the model learns from"):
        load(folder, train_split=split, test_split=split)


def test_a_folder_named_like_a_built_in_data_set_is_refused(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"train": {"zero": 1}, "test": {"zero": 1}}, name="digits")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"write \./digits for the folder"):
        load_splits(DataArguments(dataset_name="digits"))
    assert load_splits(DataArguments(dataset_name="./digits")).class_names == ["zero"]
