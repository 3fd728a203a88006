"""Labelled images as rows of a data set: cheap to select and join, decoded only when they are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, concatenate_datasets
from PIL import Image as PILImage

from hub.run.errors import InputError, one_line


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
        The image at this position as RGB, see [`to_rgb`].

        Raises:
            InputError: the image cannot be read.
        """
        try:
            return to_rgb(self.images[position]["image"])
        except Exception as error:
            # Decoders raise errors of many kinds on broken bytes; all of them mean that the image cannot be used.
            raise InputError(
                f"The image in row {self.source_indices[position]} cannot be read ({one_line(error)}): "
                "repair or remove it."
            ) from error

    def images_at(self, positions: Sequence[int] | np.ndarray) -> list[PILImage.Image]:
        """
        The images at these positions as RGB, read together.

        Raises:
            InputError: an image cannot be read.
        """
        try:
            return [to_rgb(image) for image in self.images[positions]["image"]]
        except Exception:
            # One by one, to name the one that cannot be read.
            return [self.image(int(position)) for position in positions]


def to_rgb(image: PILImage.Image | None) -> PILImage.Image:
    """
    An image of any mode as RGB. Transparency shows white, as the image processor of the model has it; 16-bit grey is
    scaled to 8 bits.

    Raises:
        ValueError: there is no image, or its pixels are floats or larger than 16 bits.
    """
    if image is None:
        raise ValueError("it is missing")
    if image.mode.startswith(("I", "F")):
        return _scaled_to_8_bits(image).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = PILImage.new("RGBA", image.size, "white")
        image = PILImage.alpha_composite(white, image)
    return image.convert("RGB")


def _scaled_to_8_bits(image: PILImage.Image) -> PILImage.Image:
    # PIL would clip: all but the darkest pixels would turn white.
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode}, expected 8 or 16 bits")
    return PILImage.fromarray(np.rint(grey / 257).astype(np.uint8))


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All examples of `parts`, one part after the other; empty parts are skipped."""
    filled = [part for part in parts if len(part)] or list(parts[:1])
    if len(filled) == 1:
        return filled[0]
    return Examples(
        concatenate_datasets([part.images for part in filled]),
        np.concatenate([part.labels for part in filled]),
        np.concatenate([part.source_indices for part in filled]),
    )
