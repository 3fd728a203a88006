"""`confusion.csv`: what is written is read, by others too, and what does not fit is named."""

import csv
import re
from pathlib import Path

import pytest

from hub.cards.model_card import render_card
from hub.run.confusion import Confusion
from hub.run.errors import StepFolderError
from hub.run.step_folder import StepFolder
from tests.hub.fake_run import make_ancestors, make_confusion, make_results, write_trained_files


NAMES = ['a,"b"', "a\nb", "a\rb", "a\r\nb", " a ", "", "\udcff", "=1+1", "日本語", "\u2028", "'", "true"]


def test_any_names_come_back_and_the_rows_are_in_the_order_of_label_ids(tmp_path: Path) -> None:
    results = make_results(3, 4, names=NAMES)
    folder, confusion = write_trained_files(tmp_path / "step3", results, 3), make_confusion(results)
    confusion.write(folder, results.class_names)
    assert StepFolder.read(folder).confusion == confusion
    with (folder / "confusion.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["true", "predicted", "images"]
    names = [name.replace("\udcff", "\\udcff") for name in NAMES]
    expected = [[names[true], names[predicted], str(images)] for (true, predicted), images in confusion.counts.items()]
    assert rows == expected and list(confusion.counts) == sorted(confusion.counts)


def test_only_measured_classes_have_rows(tmp_path: Path) -> None:
    results = make_results(4, 3, ancestors=make_ancestors(2))
    folder, confusion = write_trained_files(tmp_path / "step4", results, 4), make_confusion(results)
    confusion.write(folder, results.class_names)
    read = StepFolder.read(folder).confusion
    assert read is not None and [entry.label for entry in read.per_class()] == list(range(6, 12))
    Confusion(confusion.counts | {(0, 0): 1}).write(folder, results.class_names)
    with pytest.raises(StepFolderError, match="has images of 7 classes, but results.json says that 6 were measured"):
        StepFolder.read(folder)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("true,predicted,images", "a,b", ": begins with [['a', 'b']], expected true,predicted,images"),
        (r"(?s)(images\r\n).*", r"\1", ": has no rows, expected one for each pair"),
        (r"(?s).+", "", ": begins with []"),
        ("class 1,class 1,", "dog,class 1,", ", row 4: names 'dog', expected a class that the model knows"),
        ("(class 1,class 1),", r"\1,,", ", row 4: has 4 values, expected 3"),
        *((r"(class 1,class 1),\d+", rf"\1,{n}", ", row 4: images is ") for n in ("0", "-1", "1.0", "9" * 5000, "²")),
        (r"class 1,class 1,(\d+)", r"class 0,class 0,\1", ", row 4: repeats the classes of a row"),
        (r"(class 0,class 0,)\d+", r"\g<1>1", ": gives the accuracy 0."),
        ("class 0", '"class 0', ": is not CSV ("),
        ("class 0", "\udcff", ": is not CSV ("),
    ],
)
def test_a_file_that_does_not_fit_is_named_in_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    results = make_results(2)
    folder = write_trained_files(tmp_path / "step2", results, 2)
    make_confusion(results).write(folder, results.class_names)
    render_card(StepFolder.read(folder))
    file = folder / "confusion.csv"
    text = re.sub(old, new, file.read_bytes().decode(), count=1)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StepFolderError, match=f"^step2/confusion\\.csv{re.escape(expected)}") as caught:
        StepFolder.read(folder)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 250
