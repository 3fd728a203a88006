"""
What a frozen encoder makes of images, computed once and kept on disk.

A table holds the features of a set of images in rows, computed in batches of fixed rows: the bytes do not depend on
processes, on the batch size of a run or on where a run was killed. Each batch has a digest; one that does not fit is
computed again.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from training.data.examples import Examples


#: Rows that are computed together.
BATCH_ROWS = 32
_DIGEST_BYTES = 16
# Rows of the three tables of a run, in one space of numbers.
_TEST_ROWS, _MEMORY_ROWS = 1 << 40, 1 << 41


class FeatureTable:
    """
    Features of a set of images, one file for each kind and view.

    Args:
        folder (`Path`): where the files are; made if needed.
        num_rows (`int`): images.
        shapes (`Mapping[str, tuple[int, ...]]`): of the features of an image, by kind: `tokens`, `pooled`.
        dtype (`np.dtype`): in which they are kept.
        num_views (`int`): views of each image.
        file_names (`Mapping[str, str]`, *optional*): what the files of a kind are called, by default as the kind.
    """

    def __init__(
        self,
        folder: Path,
        num_rows: int,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: str,
        num_views: int = 1,
        file_names: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.num_rows = num_rows
        self.num_views = num_views
        folder.mkdir(parents=True, exist_ok=True)
        names = {kind: kind for kind in shapes} | dict(file_names or {})
        self.arrays = {
            (kind, view): self._open(f"{names[kind]}{view}.bin", (num_rows, *shape), dtype)
            for kind, shape in shapes.items()
            for view in range(num_views)
        }
        self.digests = {
            (kind, view): self._open(f"{names[kind]}{view}.digests", (self.num_batches, _DIGEST_BYTES), "uint8")
            for kind, view in self.arrays
        }

    @property
    def num_batches(self) -> int:
        """Batches of rows of each view."""
        return -(-self.num_rows // BATCH_ROWS)

    def rows_of(self, batch: int) -> np.ndarray:
        """The rows of a batch."""
        return np.arange(batch * BATCH_ROWS, min((batch + 1) * BATCH_ROWS, self.num_rows))

    def is_done(self, batch: int, view: int) -> bool:
        """Whether all features of a batch are there and undamaged."""
        keys = [key for key in self.arrays if key[1] == view]
        return all(self.digests[key][batch].tobytes() == self._digest(key, batch) for key in keys)

    def write(self, batch: int, view: int, features: Mapping[str, np.ndarray]) -> None:
        """Keeps the features of a batch; kinds that the table does not keep are left out."""
        for kind, values in features.items():
            if (key := (kind, view)) in self.arrays:
                self.arrays[key][self.rows_of(batch)] = values
                self.digests[key][batch] = np.frombuffer(self._digest(key, batch), dtype=np.uint8)

    def flush(self) -> None:
        """Writes what is in memory to the disk."""
        for array in (*self.arrays.values(), *self.digests.values()):
            array.flush()

    def read(self, kind: str, rows: np.ndarray, views: np.ndarray | None = None) -> torch.Tensor:
        """
        Features of rows, as float32.

        Args:
            kind (`str`): which features.
            rows (`np.ndarray` of shape `(n,)`): the rows.
            views (`np.ndarray` of shape `(n,)`, *optional*): the view of each; by default the first.

        Returns:
            `torch.Tensor` of shape `(n, ...)`.
        """
        if views is None:
            return self._read(kind, rows, 0)
        values = torch.empty(len(rows), *self.arrays[kind, 0].shape[1:])
        for view in np.unique(views).tolist():
            chosen = np.flatnonzero(views == view)
            values[torch.from_numpy(chosen)] = self._read(kind, rows[chosen], view)
        return values

    def _read(self, kind: str, rows: np.ndarray, view: int) -> torch.Tensor:
        # NumPy takes twenty times as long to widen float16.
        return torch.from_numpy(np.asarray(self.arrays[kind, view])[rows]).float()

    def _digest(self, key: tuple[str, int], batch: int) -> bytes:
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        digest.update(np.ascontiguousarray(self.arrays[key][self.rows_of(batch)]).data)
        return digest.digest()

    def _open(self, name: str, shape: tuple[int, ...], dtype: str) -> np.memmap:
        path = self.folder / name
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with path.open("ab") as file:
            # Another run may do the same now; what is there stays.
            if file.tell() != size:
                file.truncate(size)
        return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


@dataclass(frozen=True)
class FeatureSource:
    """
    The features of all images of a run.

    Args:
        kind (`str`): which features its models read: `tokens` or `pooled`.
        train, test (`FeatureTable`): of the images of the data set; of the test images one view.
        train_sources (`np.ndarray`): source index of each training row, ascending or not.
        compute: gives the features of that kind of examples of other data, exactly and one by one, in float32.
    """

    kind: str
    train: FeatureTable
    test: FeatureTable
    train_sources: np.ndarray
    compute: Callable[[Examples], np.ndarray]

    def of_train(self, examples: Examples) -> Examples:
        """Training images of the data set with their rows, which their source indices tell."""
        return replace(examples, features=self, feature_rows=self._train_rows(examples.source_indices))

    def of_test(self, examples: Examples) -> Examples:
        """All test images with their rows."""
        return replace(examples, features=self, feature_rows=_TEST_ROWS + np.arange(len(examples)))

    def of_memory(self, examples: Examples, is_own: np.ndarray) -> Examples:
        """
        Exemplars with their rows.

        Args:
            examples (`Examples`): exemplars.
            is_own (`np.ndarray` of shape `(n,)`): which of them are of the data set of this run.
        """
        others = np.flatnonzero(~is_own)
        rows = self._train_rows(examples.source_indices)
        rows[others] = _MEMORY_ROWS + np.arange(len(others))
        kept = self.compute(examples.select(others)) if len(others) else None
        return replace(examples, features=self, feature_rows=rows, kept_features=kept)

    def _train_rows(self, sources: np.ndarray) -> np.ndarray:
        """The training row of each source index; any row for one that is of other data."""
        order = np.argsort(self.train_sources, kind="stable")
        places = np.searchsorted(self.train_sources[order], sources)
        rows: np.ndarray = order[np.minimum(places, len(order) - 1)]
        return rows


def read_features(examples: Examples, positions: np.ndarray, seeds: Sequence[int] | None = None) -> torch.Tensor:
    """
    Features of images that have some.

    Args:
        examples (`Examples`): their `features` say where these are.
        positions (`np.ndarray`): of the images.
        seeds (`Sequence[int]`, *optional*): draw the view of each image; without them all are as they are.

    Returns:
        `torch.Tensor` of shape `(n, N, E)` or `(n, P)`: what a model reads in place of `pixel_values`.
    """
    source, all_rows = examples.features, examples.feature_rows
    assert source is not None and all_rows is not None
    rows = all_rows[positions]
    views = None
    if seeds is not None:
        views = np.array([seed % source.train.num_views for seed in seeds], dtype=np.int64)
    tables = np.searchsorted((_TEST_ROWS, _MEMORY_ROWS), rows, side="right")
    found = [(table, np.flatnonzero(tables == table)) for table in np.unique(tables).tolist()]
    parts = [(places, _read_from(table, examples, rows, places, views)) for table, places in found]
    if len(parts) == 1:
        return parts[0][1]
    result = torch.empty(len(rows), *parts[0][1].shape[1:])
    for places, values in parts:
        result[torch.from_numpy(places)] = values
    return result


def _read_from(
    table: int, examples: Examples, rows: np.ndarray, places: np.ndarray, views: np.ndarray | None
) -> torch.Tensor:
    """Features of the rows at these places, all of the table of this number: training, test or memory."""
    source, kept = examples.features, examples.kept_features
    assert source is not None
    if table == 0:
        return source.train.read(source.kind, rows[places], None if views is None else views[places])
    if table == 1:
        return source.test.read(source.kind, rows[places] - _TEST_ROWS)
    assert kept is not None
    return torch.from_numpy(kept[rows[places] - _MEMORY_ROWS])
