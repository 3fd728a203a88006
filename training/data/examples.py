"""Labelled images as rows of a data set: cheap to select and join, decoded only when they are read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from datasets import Dataset, Image, concatenate_datasets
from PIL import Image as PILImage
from transformers.image_utils import load_image

from hub.run.errors import InputError, one_line


if TYPE_CHECKING:
    from training.data.features import FeatureSource


class UnfitImageError(ValueError):
    """An image that can be read, but that its users will see otherwise than it is."""


Transparency: TypeAlias = Literal["refuse", "drop"]
CONVERT = "convert a folder with `python -m training.convert_images FOLDER NEW_FOLDER`"


@dataclass(frozen=True)
class Examples:
    """
    Images with label ids.

    Args:
        images (`Dataset`): one column, `image`.
        labels (`np.ndarray` of shape `(n,)`, int64): label ids, in the order of learning.
        source_indices (`np.ndarray` of shape `(n,)`, int64): row of each image in the split it comes from.
        transparency: what to do with pixels that are not opaque, see [`to_rgb`].
        features (`FeatureSource`, *optional*): has what a frozen encoder makes of the images.
        feature_rows (`np.ndarray` of shape `(n,)`, int64, *optional*): where it has those of each image.
        kept_features (`np.ndarray`, *optional*): those of images of other data, which are in no table.
    """

    images: Dataset
    labels: np.ndarray
    source_indices: np.ndarray
    transparency: Transparency = "refuse"
    features: "FeatureSource | None" = None
    feature_rows: np.ndarray | None = None
    kept_features: np.ndarray | None = None

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
        return replace(
            self,
            images=self.images.select(positions),
            labels=self.labels[positions],
            source_indices=self.source_indices[positions],
            feature_rows=None if self.feature_rows is None else self.feature_rows[positions],
        )

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
            return to_rgb(self.images[position]["image"], self.transparency)
        except UnfitImageError as error:
            raise InputError(f"{self.name(position)} {error}.") from error
        except Exception as error:
            # Decoders raise errors of many kinds on broken bytes; all of them mean that the image cannot be read.
            raise InputError(
                f"{self.name(position)} cannot be read ({one_line(error)}): repair or remove it."
            ) from error

    def name(self, position: int) -> str:
        """The file of the image at this position, or its row where it is in no file of its own."""
        path = _path(self.encoded()[position]["image"])
        return f"The image {path}" if path else f"The image in row {self.source_indices[position]}"

    def paths(self) -> list[str | None]:
        """The file of each image as the data set names it; None where it is in no file of its own."""
        return [_path(row["image"]) for row in self.encoded()]

    def encoded(self) -> Dataset:
        """The images as they are stored, as `{"image": {"bytes": ..., "path": ...}}`."""
        return self.images.cast_column("image", Image(decode=False))

    def images_at(self, positions: Sequence[int] | np.ndarray) -> list[PILImage.Image]:
        """
        The images at these positions as RGB, read together.

        Raises:
            InputError: an image cannot be read.
        """
        try:
            return [to_rgb(image, self.transparency) for image in self.images[positions]["image"]]
        except Exception:
            # One by one, to name the one that cannot be read.
            return [self.image(int(position)) for position in positions]


def _path(encoded: dict[str, Any] | None) -> str | None:
    return None if encoded is None else encoded.get("path")


def to_rgb(image: PILImage.Image | None, transparency: Transparency = "refuse") -> PILImage.Image:
    """
    An image as every user of the model will see it: turned as its EXIF says and converted to RGB, by the function
    that pipelines call. Images that this would spoil are refused.

    Args:
        image (`PIL.Image.Image`, *optional*): as it was decoded.
        transparency: whether to `refuse` pixels that are not opaque, or to `drop` their transparency, which shows
            colours that were hidden.

    Raises:
        UnfitImageError: it has more than 8 bits a channel, or transparency is refused.
        ValueError: there is no image, or its mode has no RGB form.
    """
    if image is None:
        raise ValueError("it is missing")
    if image.mode.startswith(("I", "F")):
        raise UnfitImageError(f"has more than 8 bits a channel (mode {image.mode}), which RGB cuts off: {CONVERT}")
    if transparency == "refuse" and not _is_opaque(image):
        raise UnfitImageError(
            f"has transparent pixels, whose hidden colours users of the model would see: {CONVERT}, or learn what "
            "they will see with --transparency drop"
        )
    return load_image(image)


def _is_opaque(image: PILImage.Image) -> bool:
    if "A" not in image.getbands() and "a" not in image.getbands() and "transparency" not in image.info:
        return True
    darkest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return darkest == 255


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All examples of `parts`, one part after the other; empty parts are skipped."""
    filled = [part for part in parts if len(part)] or list(parts[:1])
    if len(filled) == 1:
        return filled[0]
    return replace(
        filled[0],
        images=concatenate_datasets([part.images for part in filled]),
        labels=np.concatenate([part.labels for part in filled]),
        source_indices=np.concatenate([part.source_indices for part in filled]),
        feature_rows=_joined([part.feature_rows for part in filled]),
        kept_features=next((part.kept_features for part in filled if part.kept_features is not None), None),
    )


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
