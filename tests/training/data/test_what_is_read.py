"""
What people bring as a data set: what is read, as what, and what is refused with which words.

The table of docs/data.md is made of these cases: `python tests/training/data/test_what_is_read.py` writes it anew.
"""

import io
import re
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate import Accelerator
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from hub.run.errors import InputError
from training.arguments import DataArguments
from training.data.examples import concatenate
from training.data.scenario import make_scenario
from training.data.splits import load_splits
from training.run.checks import check_images


PAGE = Path(__file__).parents[3] / "docs" / "data.md"
Make = Callable[[Path], None]


def photo(number: int, form: str = "PNG") -> bytes:
    """An image file of noise, another for every number."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(file, form)
    return file.getvalue()


def files(*names: str, root: Path, **contents: bytes | str) -> None:
    """Writes files: an image each but for those whose content is given by keyword."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number))
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def tree(*names: str, **contents: bytes | str) -> Make:
    """A maker of a folder, see [`files`]."""
    return lambda root: files(*names, root=root, **contents)


def classes(pattern: str, *names: str, count: int = 3) -> list[str]:
    """Names of image files, `count` a class."""
    return [f"{pattern.format(name)}/{number}.png" for name in names for number in range(count)]


GOOD = [*classes("train/{}", "ant", "bee"), *classes("test/{}", "ant", "bee", count=1)]
READ = {"train": {"ant": 3, "bee": 3}, "test": {"ant": 1, "bee": 1}}


def table(root: Path, kind: pa.DataType, ant: Any, bee: Any, image: Any = None) -> None:
    """Parquet files as pandas and polars write them: structs without a word on what they are."""
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split, count in (("train", 3), ("test", 1)):
        encoded = [photo(number) for number in range(2 * count)]
        images = pa.array(encoded) if image else pa.array([{"bytes": each, "path": None} for each in encoded], struct)
        labels = pa.array([ant] * count + [bee] * count, kind)
        root.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": images, "label": labels}), root / f"{split}.parquet")


def lines(folder: str, count: int, sep: str = ",", names: tuple[str, str] = ("ant", "bee")) -> str:
    rows = [f"{folder}/{name}/{number}.png{sep}{name}" for name in names for number in range(count)]
    return "\n".join([f"file{sep}kind", *rows]) + "\n"


def json_lines(root: Path) -> None:
    files(*GOOD, root=root / "pictures")
    for split, count in (("train", 3), ("test", 1)):
        rows = [row.split(",") for row in lines(f"pictures/{split}", count).splitlines()[1:]]
        (root / f"{split}.jsonl").write_text(
            "".join(f'{{"file": "{file}", "kind": "{kind}"}}\n' for file, kind in rows)
        )


def saved(root: Path) -> None:
    features = Features({"image": Image(), "label": Value("string")})
    rows = {n: [{"bytes": photo(i), "path": None} for i in range(2 * n)] for n in (3, 1)}
    splits = {"train": 3, "test": 1}
    DatasetDict(
        {
            split: Dataset.from_dict({"image": rows[n], "label": ["ant"] * n + ["bee"] * n}, features=features)
            for split, n in splits.items()
        }
    ).save_to_disk(str(root))


def linked(root: Path) -> None:
    files(*GOOD, root=root.parent / "pool")
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for name in ("ant", "bee"):
            (root / split / name).symlink_to(root.parent / "pool" / split / name)


def zipped(root: Path) -> None:
    root.mkdir()
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        archive.writestr("ant/1.png", photo(0))


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@dataclass(frozen=True)
class Case:
    """
    One kind of data set.

    Args:
        what (`str`): in words, for the page.
        make: writes it into a folder that does not exist yet.
        read (`dict`, *optional*): images by split and class, those held out counted with the others; None where it is
            refused.
        says (`str`): part of what is said of it, a note or the line with which it is refused; shown on the page.
        options (`dict`): of the data set.
    """

    what: str
    make: Make
    read: dict[str, dict[str, int]] | None = None
    says: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.what


HOLDOUT = {"holdout": 0.3}

CASES = [
    Case("`train/CLASS/1.jpg` and `test/CLASS/2.jpg`", tree(*GOOD), READ),
    Case(
        "a validation split in place of the test split (`val`, `valid`, `Validation`)",
        tree(*classes("Training/{}", "ant", "bee"), *classes("VALID/{}", "ant", "bee", count=1)),
        {"train": READ["train"], "validation": READ["test"]},
    ),
    Case(
        "a class called `train` or `test`",
        tree(*(name.replace("bee", "train") for name in GOOD)),
        {split: {"ant": count["ant"], "train": count["bee"]} for split, count in READ.items()},
    ),
    Case(
        "`CLASS/1.jpg` without splits",
        tree(*classes("{}", "ant", "bee")),
        None,
        "hold out a share of the images with --holdout 0.2",
    ),
    Case(
        "the same with `--holdout 0.3`",
        tree(*classes("{}", "ant", "bee", count=20)),
        {"train": {"ant": 20, "bee": 20}},
        options=HOLDOUT,
    ),
    Case(
        "one class",
        tree(*(name for name in GOOD if "ant" in name)),
        {split: {"ant": count["ant"]} for split, count in READ.items()},
    ),
    Case(
        "class names with accents in two Unicode forms",
        tree(*(name.replace("bee", COMPOSED if "train" in name else DECOMPOSED) for name in GOOD)),
        {split: {"ant": count["ant"], COMPOSED: count["bee"]} for split, count in READ.items()},
    ),
    Case(
        "names with brackets, `photos [2026]/train/cat [black]`",
        lambda root: files(*(name.replace("bee", "cat [black]") for name in GOOD), root=root),
        {split: {"ant": count["ant"], "cat [black]": count["bee"]} for split, count in READ.items()},
    ),
    Case("folders that are links", linked, READ),
    Case(
        "an image beside the folders of classes",
        tree(*GOOD, "train/sample.png"),
        READ,
        "Left out: 1 file(s) in the folder of a split, but of no class: train/sample.png",
    ),
    Case(
        "files that Pillow cannot read, as `.HEIC`",
        tree(*GOOD, **{"train/ant/x.HEIC": b"?"}),
        READ,
        "Left out: 1 file(s) of a kind that cannot be read (.HEIC): train/ant/x.HEIC",
    ),
    Case(
        "labelled `train` and `valid`, and a flat `test` as in competitions",
        tree(*(name.replace("test/", "valid/") for name in GOOD), "test/7.png"),
        {"train": READ["train"], "validation": READ["test"]},
        "Left out: 1 file(s) in the folder of a split, but of no class: test/7.png",
    ),
    Case(
        "a class without test images",
        tree(*(name for name in GOOD if name != "test/bee/0.png")),
        {"train": READ["train"], "test": {"ant": 1}},
        "Not measured, as they have no test image: 1 class(es), bee",
    ),
    Case(
        "a class with test images alone",
        tree(*GOOD, "test/cow/0.png"),
        None,
        "leave it out with --class_order and --num_classes, or add images",
    ),
    Case(
        "`labels.csv` that names image files and their classes, here with `;`",
        lambda root: files(
            *classes("p/{}", "ant", "bee", count=20), root=root, **{"labels.csv": "\ufeff" + lines("p", 20, sep=";")}
        ),
        {"train": {"ant": 20, "bee": 20}},
        options=HOLDOUT,
    ),
    Case(
        "`train.csv` and `test.csv` beside a folder of images",
        lambda root: files(
            *(f"img/{name}" for name in GOOD),
            root=root,
            **{f"{split}.csv": lines(f"img/{split}", count) for split, count in (("train", 3), ("test", 1))},
        ),
        READ,
    ),
    Case(
        "classes in CSV that look like numbers, or like nothing: `007`, `nan`",
        lambda root: files(
            *(f"img/{name.replace('ant', '007').replace('bee', 'nan')}" for name in GOOD),
            root=root,
            **{
                f"{split}.csv": lines(f"img/{split}", count, names=("007", "nan"))
                for split, count in (("train", 3), ("test", 1))
            },
        ),
        {split: {"007": count["ant"], "nan": count["bee"]} for split, count in READ.items()},
    ),
    Case("JSON Lines that name image files", json_lines, READ),
    Case(
        "a table that names an image elsewhere",
        tree("ant/0.png", **{"labels.csv": "file,kind\nant/0.png,ant\n../secret.png,ant\n"}),
        None,
        "move the image there",
        HOLDOUT,
    ),
    Case(
        "a table that names an image that is not there",
        tree("ant/0.png", **{"labels.csv": "file,kind\nant/0.png,ant\nant/9.png,ant\n"}),
        None,
        "names 'ant/9.png', which is not there: add it, or remove the row",
        HOLDOUT,
    ),
    Case(
        "`metadata.csv` beside the images of each split",
        lambda root: files(
            *(
                f"{split}/{name}_{n}.png"
                for split, count in (("train", 3), ("test", 1))
                for name in ("ant", "bee")
                for n in range(count)
            ),
            root=root,
            **{
                f"{split}/metadata.csv": "file_name,label\n"
                + "".join(f"{name}_{n}.png,{name}\n" for name in ("ant", "bee") for n in range(count))
                for split, count in (("train", 3), ("test", 1))
            },
        ),
        READ,
    ),
    Case("Parquet with images as bytes", partial(table, kind=pa.string(), ant="ant", bee="bee", image=True), READ),
    Case(
        "Parquet with images as structs, as pandas and polars write them",
        partial(table, kind=pa.large_string(), ant="ant", bee="bee"),
        READ,
    ),
    Case(
        "labels that are numbers, with gaps",
        partial(table, kind=pa.int64(), ant=100, bee=9),
        {split: {"9": count["bee"], "100": count["ant"]} for split, count in READ.items()},
    ),
    Case(
        "labels that are whole numbers written as floats",
        partial(table, kind=pa.float64(), ant=1.0, bee=0.0),
        {split: {"0": count["bee"], "1": count["ant"]} for split, count in READ.items()},
    ),
    Case(
        "labels that are fractions",
        partial(table, kind=pa.float64(), ant=0.5, bee=1.0),
        None,
        "--label_column label holds 0.5 in row 0: expected a name or an integer",
    ),
    Case(
        "labels that are true or false",
        partial(table, kind=pa.bool_(), ant=True, bee=False),
        {split: {"False": count["bee"], "True": count["ant"]} for split, count in READ.items()},
    ),
    Case(
        "a label that is missing, or -1",
        partial(table, kind=pa.int64(), ant=-1, bee=0),
        None,
        "Row 0 of the train split has no label in label (-1): remove it or give it a class",
    ),
    Case("a data set that `datasets` saved to disk", saved, READ),
    Case(
        "archives: `.zip`, `.7z`, `.rar`",
        zipped,
        None,
        "unpack it into folders of classes, remove it, and name their folder",
    ),
    Case(
        "a folder above one with splits",
        lambda root: files(*GOOD, root=root / "photos"),
        None,
        "name that one, or move its folder",
    ),
    Case(
        "transparent images",
        tree(*GOOD, **{"train/ant/icon.png": b"transparent"}),
        None,
        "has transparent pixels, whose hidden colours users of the model would see: convert a folder with "
        "`python -m training.convert_images FOLDER NEW_FOLDER`, or learn what they will see with --transparency drop",
    ),
    Case(
        "images with more than 8 bits a channel",
        tree(*GOOD, **{"train/ant/xray.png": b"16 bits"}),
        None,
        "which RGB cuts off: convert a folder with `python -m training.convert_images FOLDER NEW_FOLDER`",
    ),
    Case(
        "files that are broken",
        tree(*GOOD, **{"train/ant/empty.jpg": b"", "train/bee/404.jpg": b"<html>"}),
        None,
        "2 of 8 images cannot be used",
    ),
]


def make(case: Case, folder: Path) -> Path:
    """Writes a case, below a folder."""
    root = folder / "photos [2026]" if "brackets" in case.what else folder / "data"
    case.make(root)
    for path in root.rglob("*.png"):
        if path.read_bytes() in (b"transparent", b"16 bits"):
            mode = "RGBA" if path.read_bytes() == b"transparent" else "I;16"
            PILImage.new(mode, (8, 6)).save(path)
    return root


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_people_bring_is_read_as_they_mean_it_or_refused_with_what_to_do(case: Case, tmp_path: Path) -> None:
    found, words = outcome(case, make(case, tmp_path))
    assert found == case.read, words
    assert case.says in words


def outcome(case: Case, root: Path) -> tuple[dict[str, dict[str, int]] | None, str]:
    """Images by split and class with the notes, or nothing with the error."""
    arguments = DataArguments(dataset_name=str(root), **case.options)
    try:
        scenario = make_scenario(load_splits(arguments), arguments)
        check_images(scenario, Accelerator(cpu=True))
    except InputError as error:
        assert "\n" not in str(error)
        return None, str(error)
    splits = {scenario.train_split: scenario.train, scenario.test_split: scenario.test}
    if arguments.holdout:
        assert all(map(len, splits.values())), "some are held out, and some are not"
        splits = {"train": concatenate(list(splits.values()))}
    counts = {
        split: {
            name: count
            for label, name in enumerate(scenario.class_names)
            if (count := int((examples.labels == label).sum()))
        }
        for split, examples in splits.items()
    }
    return counts, "\n".join(scenario.describe())


def page_with_table(page: str) -> str:
    """The page with the table that these cases make."""
    rows = [
        f"| {case.what} | {'read' if case.read else 'refused'}{': ' * bool(case.says)}{case.says} |" for case in CASES
    ]
    table = "\n".join(["| What you bring | What happens |", "|---|---|", *rows])
    return re.sub(r"\| What you bring .*?\n\n", lambda _: f"{table}\n\n", page, flags=re.DOTALL)


def test_the_page_shows_these_cases() -> None:
    page = PAGE.read_text("utf-8")
    assert page == page_with_table(page), "write it anew with `python tests/training/data/test_what_is_read.py`"
    assert CASES[-1].what in page


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text("utf-8")), "utf-8")
