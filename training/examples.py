"""Labelled images as rows of a data set: cheap to select and join, decoded only when they are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, Image, concatenate_datasets
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from training.errors import InputError


@dataclass(frozen=True)
class Examples:
    """
    Images with label ids.

    Args:
        images (`Dataset`): one column, `image`.
        labels (`np.ndarray` of shape `(n,)`, int64): label ids, in the order of learning.
        source_indices (`np.ndarray` of shape `(n,)`, int64): row of each image in the split it comes from.
    """

    images: Dataset
    labels: np.ndarray
    source_indices: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) == len(self.source_indices):
            raise ValueError(
                f"{len(self.images)} images, {len(self.labels)} labels and {len(self.source_indices)} source indices: "
                "expected one label and one source index an image."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, positions: Sequence[int] | np.ndarray) -> "Examples":
        """The examples at these positions, in this order."""
        positions = np.asarray(positions, dtype=np.int64)
        return Examples(self.images.select(positions), self.labels[positions], self.source_indices[positions])

    def of_classes(self, start: int, stop: int) -> "Examples":
        """The examples whose label id is in `[start, stop)`."""
        return self.select(np.flatnonzero((self.labels >= start) & (self.labels < stop)))

    def image(self, position: int) -> PILImage.Image:
        """
        The image at this position as RGB; grey, palette, 1-bit and transparent images are converted.

        Raises:
            InputError: the image cannot be read.
        """
        try:
            image = self.images[position]["image"]
            image.load()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise InputError(
                f"The image in row {self.source_indices[position]} cannot be read ({' '.join(str(error).split())}): "
                "repair or remove it."
            ) from error
        return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All examples of `parts`, one part after the other; empty parts are skipped."""
    filled = [part for part in parts if len(part)] or list(parts[:1])
    if len(filled) == 1:
        return filled[0]
    return Examples(
        concatenate_datasets([part.images.cast_column("image", Image()) for part in filled]),
        np.concatenate([part.labels for part in filled]),
        np.concatenate([part.source_indices for part in filled]),
    )
