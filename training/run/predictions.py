"""A table of what a model predicts: a row for each test image, for pandas and the like."""

from collections.abc import Sequence
from os.path import abspath
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from hub.run.atomic import replaced
from hub.run.text import without_local_path
from training.data.examples import Examples
from training.loop.evaluation import Predictions
from training.metrics import scores_of


#: Ends of the names of files that can be written.
FORMATS = (".parquet", ".csv")


def prediction_table(predictions: Predictions, files: Sequence[str]) -> pa.Table:
    """
    The predictions as a table: columns `file`, `true`, `predicted`, and for each class `score_<class>`, in the order
    of learning.

    Args:
        predictions (`Predictions`): what the model says of the images.
        files (`Sequence[str]`): names each image.
    """
    names = [_as_utf8(name) for name in predictions.config.class_names]
    scores = scores_of(predictions.logits, predictions.config.problem_type)
    columns = {
        "file": pa.array(map(_as_utf8, files), pa.string()),
        "true": pa.array((names[label] for label in predictions.labels), pa.string()),
        "predicted": pa.array((names[label] for label in predictions.predicted), pa.string()),
    }
    columns |= {f"score_{name}": pa.array(scores[:, label]) for label, name in enumerate(names)}
    return pa.table(columns)


def write_table(table: pa.Table, path: Path) -> None:
    """
    Replaces a Parquet or CSV file as a whole.

    Args:
        table (`pa.Table`): its content.
        path (`Path`): the file, whose name ends as one of `FORMATS`; its folder exists.

    Raises:
        OSError: the file cannot be written.
    """
    write = pyarrow.csv.write_csv if path.suffix.lower() == ".csv" else pyarrow.parquet.write_table
    with replaced(path) as partial:
        write(table, str(partial))


def file_names(examples: Examples, dataset_name: str) -> list[str]:
    """
    What to call each image: its file, or its row in the split where the data set names none. Nothing tells where on
    this machine the files are: they are named within the folder of the data set, or by their last part alone.

    Args:
        examples (`Examples`): the images.
        dataset_name (`str`): the data set as the user names it, which may be a folder.
    """
    root = Path(dataset_name).expanduser()
    roots = [root, Path(abspath(root)), root.resolve()]
    rows = examples.source_indices.tolist()
    return [_within(path, roots) if path else str(row) for path, row in zip(examples.paths(), rows, strict=True)]


def _within(path: str, roots: Sequence[PurePath]) -> str:
    # In an archive, `datasets` names a file like `zip://rose/1.jpg::/where/the/archive.zip`.
    inner, separator, _ = path.partition("::")
    path = inner.partition("://")[2] if separator else path
    for root in roots:
        if PurePath(path).is_relative_to(root):
            return PurePath(path).relative_to(root).as_posix()
    return without_local_path(path)


def _as_utf8(text: str) -> str:
    """A name of a file may have bytes that are no UTF-8: they are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
