"""Holds out a share of the training images as test images, where a data set has none."""

import hashlib
from pathlib import Path

import numpy as np

from training.data.examples import Examples


def hold_out(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """
    Splits training images into some to learn from and some to test on. What an image becomes follows from its bytes
    and the seed alone: images that are added later move no other, and equal images stay together.

    Args:
        examples (`Examples`): all of them.
        fraction (`float`): share of them to hold out, in (0, 1).
        seed (`int`): decides which.

    Returns:
        `tuple[Examples, Examples]`: those to learn from, and those held out, both in their order.
    """
    is_held_out = np.array([_draw(content, seed) < fraction for content in _contents(examples)], dtype=bool)
    return examples.select(np.flatnonzero(~is_held_out)), examples.select(np.flatnonzero(is_held_out))


def _draw(content: bytes, seed: int) -> float:
    """A number in [0, 1) that an image and a seed give."""
    digest = hashlib.blake2b(content, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def _contents(examples: Examples) -> list[bytes]:
    """The encoded bytes of each image; none where it cannot be read, which is found out when it is needed."""
    return [_content(row["image"]) for row in examples.encoded()]


def _content(encoded: dict[str, object] | None) -> bytes:
    if encoded is None:
        return b""
    if isinstance(encoded["bytes"], bytes):
        return encoded["bytes"]
    try:
        return Path(str(encoded["path"])).read_bytes()
    except OSError:
        return b""
