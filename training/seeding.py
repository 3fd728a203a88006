"""Randomness by name: a draw follows from the seed and from its purpose, never from what ran before."""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import set_seed


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**32) for the draw that `parts` name, e.g. the run's seed, a step, a phase and an epoch."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def seed_everything(*parts: int | str, process_index: int = 0) -> None:
    """
    Seeds Python, NumPy and torch from `parts`. Only torch's stream, which drop path uses, differs between processes:
    NumPy draws the MixUp ratio, which is the same for the whole batch.
    """
    set_seed(derive_seed(*parts))
    torch.manual_seed(derive_seed(*parts, "process", process_index))


@contextmanager
def isolated_randomness() -> Iterator[Callable[[int], None]]:
    """
    Yields a function that seeds Python, NumPy and torch (CPU); restores their streams on exit. Open it once for many
    draws: saving the streams takes longer than most draws.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield _reseed
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _reseed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
