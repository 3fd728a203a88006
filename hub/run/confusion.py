"""`confusion.csv`: how many test images of each class were predicted as which, after the step of its folder."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from hub.run.atomic import write_aside
from hub.run.errors import StepFolderError
from hub.run.layout import CONFUSION_FILE
from hub.run.results import StepResults
from hub.run.schema import short_name
from hub.run.text import short_repr


_COLUMNS = ["true", "predicted", "images"]
_COUNT = re.compile("[1-9][0-9]{0,14}")
# Results of other tools may be rounded.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ClassAccuracy:
    """
    How well one class is recognised.

    Args:
        label (`int`): its label id.
        correct (`int`): test images of the class that were predicted as it.
        images (`int`): all its test images, at least one.
    """

    label: int
    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """The share of the images that is correct, in 0..1."""
        return self.correct / self.images


@dataclass(frozen=True)
class Confusion:
    """
    The confusion matrix of a step, predicted among all classes seen.

    Args:
        counts (`Mapping[tuple[int, int], int]`): test images by label id and predicted label id, in the order of
            these. Pairs without images are left out.
    """

    counts: Mapping[tuple[int, int], int]

    @property
    def accuracy(self) -> float:
        """The share of all test images that is correct, in 0..1."""
        return sum(entry.correct for entry in self.per_class()) / sum(self.counts.values())

    def per_class(self) -> list[ClassAccuracy]:
        """The accuracy on each class that has test images, by label id."""
        images: dict[int, int] = {}
        for (true, _), count in self.counts.items():
            images[true] = images.get(true, 0) + count
        return [ClassAccuracy(label, self.counts.get((label, label), 0), images[label]) for label in sorted(images)]

    def write(self, folder: Path, class_names: Sequence[str]) -> None:
        """
        Writes the `confusion.csv` of a step folder.

        Args:
            folder (`Path`): the step folder.
            class_names (`Sequence[str]`): all classes seen, by label id.
        """
        names = [_as_written(name) for name in class_names]
        text = StringIO(newline="")
        # Lines end as RFC 4180 has it: with other ends, some versions of `csv` leave a `\r` in a name unquoted.
        writer = csv.writer(text)
        writer.writerow(_COLUMNS)
        writer.writerows((names[true], names[predicted], count) for (true, predicted), count in self.counts.items())
        write_aside(folder / CONFUSION_FILE, text.getvalue())

    @classmethod
    def read(cls, folder: Path, class_names: Sequence[str], step: StepResults) -> "Confusion | None":
        """
        Reads the `confusion.csv` of a step folder; None where there is no such file, as in those of earlier versions.

        Args:
            folder (`Path`): the step folder.
            class_names (`Sequence[str]`): all classes seen, by label id.
            step (`StepResults`): what `results.json` records of the step.

        Raises:
            StepFolderError: the file cannot be read, breaks the schema, or is not of the images of `results.json`.
        """
        path = folder / CONFUSION_FILE
        if not path.exists():
            return None
        source = short_name(path)
        confusion = cls(_parse(_read_rows(path, source), class_names, source))
        _check_same_images(confusion, class_names, step, source)
        return confusion


def _as_written(name: str) -> str:
    """A name of a file may have bytes that are no UTF-8: they are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _read_rows(path: Path, source: str) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, strict=True))
    except OSError as error:
        raise StepFolderError(f"{source}: cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise StepFolderError(f"{source}: is not CSV ({error})") from error
    if rows[:1] != [_COLUMNS]:
        raise StepFolderError(f"{source}: begins with {short_repr(rows[:1])}, expected {','.join(_COLUMNS)}")
    if len(rows) == 1:
        raise StepFolderError(f"{source}: has no rows, expected one for each pair of classes with images")
    return rows[1:]


def _parse(rows: Sequence[Sequence[str]], class_names: Sequence[str], source: str) -> dict[tuple[int, int], int]:
    labels = {_as_written(name): label for label, name in enumerate(class_names)}
    counts: dict[tuple[int, int], int] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{source}, row {number}"
        if len(row) != len(_COLUMNS):
            raise StepFolderError(f"{where}: has {len(row)} values, expected {len(_COLUMNS)}")
        unknown = [name for name in row[:2] if name not in labels]
        if unknown:
            raise StepFolderError(f"{where}: names {short_repr(unknown[0])}, expected a class that the model knows")
        if not _COUNT.fullmatch(row[2]):
            raise StepFolderError(f"{where}: images is {short_repr(row[2])}, expected a whole number from 1")
        pair = labels[row[0]], labels[row[1]]
        if pair in counts:
            raise StepFolderError(f"{where}: repeats the classes of a row before it, expected each pair once")
        counts[pair] = int(row[2])
    return dict(sorted(counts.items()))


def _check_same_images(confusion: Confusion, class_names: Sequence[str], step: StepResults, source: str) -> None:
    """The card shows numbers of both files."""
    recorded = step.accuracy_of_measured if step.accuracy is None else step.accuracy
    expected = set(class_names if step.measured_classes is None else step.measured_classes)
    found = {class_names[entry.label] for entry in confusion.per_class()}
    if found != expected:
        raise StepFolderError(
            f"{source}: has images of {len(found)} classes, but results.json says that {len(expected)} were measured"
        )
    if recorded is None or abs(confusion.accuracy - recorded) > _TOLERANCE:
        raise StepFolderError(f"{source}: gives the accuracy {confusion.accuracy:.4f}, but results.json {recorded}")
