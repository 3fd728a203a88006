"""How an epoch is cut into batches: which images, in which order, on which process."""

from typing import NamedTuple, Protocol

import numpy as np


class BatchIndices(NamedTuple):
    """
    The examples of one batch.

    Args:
        positions (`np.ndarray` of shape `(B,)`): positions among the examples of the phase.
        copies (`np.ndarray` of shape `(B,)`): index of the augmented copy of its image, from 0.
        weight (`float`): weight of this batch's mean loss within its update. Over all processes and accumulation
            rounds of an update, weights sum to the number of processes.
    """

    positions: np.ndarray
    copies: np.ndarray
    weight: float


class BatchLayout(NamedTuple):
    """
    How an update is cut into batches, and which of them are this process's.

    Args:
        global_batch_size (`int`): examples of an update, at most.
        accumulation (`int`): batches of a process in an update.
        process_index, num_processes (`int`): index of this process, and how many there are.
        even (`bool`): whether every batch has an even size, as MixUp needs.
    """

    global_batch_size: int
    accumulation: int = 1
    process_index: int = 0
    num_processes: int = 1
    even: bool = False

    @property
    def num_batches(self) -> int:
        """Batches of an update, over all processes and rounds."""
        return self.accumulation * self.num_processes

    @property
    def unit(self) -> int:
        """The size of a batch is a multiple of this."""
        return 2 if self.even else 1


class Batches(Protocol):
    """The batches of one phase for one process."""

    layout: BatchLayout
    num_updates: int
    num_drawn: int
    """Images of an epoch, over all processes; copies count."""

    def epoch(self, number: int, seed: int) -> list[list[BatchIndices]]:
        """The batches of epoch `number`, from 0, as a list of updates, each a list of accumulation rounds."""


class TrainingBatches:
    """
    The batches of one epoch for one process.

    A permutation of all examples, the same on every process, is cut into updates of nearly equal size (every
    example once an epoch, but for the odd ones where batches have even sizes), and each of those into one batch for
    each process and accumulation round. So a run at the same global batch sees the same images together, whatever the
    number of processes.

    Args:
        num_examples (`int`): examples to draw from.
        layout (`BatchLayout`): how they are dealt out to the processes.
        num_updates (`int`, *optional*): of an epoch, each as large as it may be: the permutation is cut off, or
            begins again.
    """

    def __init__(self, num_examples: int, layout: BatchLayout, num_updates: int | None = None) -> None:
        self.num_examples = num_examples
        self.layout = layout
        smallest = layout.unit * layout.num_batches
        if num_updates is not None:
            self.num_updates = num_updates
            self.num_drawn = num_updates * max(layout.global_batch_size // layout.unit * layout.unit, smallest)
            return
        # Too few examples for one batch everywhere: they are repeated.
        self.num_drawn = max(num_examples - num_examples % layout.unit, smallest)
        full_updates = -(-self.num_drawn // layout.global_batch_size)
        self.num_updates = max(1, min(full_updates, self.num_drawn // smallest))

    def epoch(self, number: int, seed: int) -> list[list[BatchIndices]]:
        """The batches of the epoch; the order follows from `seed` alone."""
        order = np.random.default_rng(seed).permutation(self.num_examples)
        drawn = np.resize(order, self.num_drawn).reshape(-1, self.layout.unit)
        updates = []
        for update in np.array_split(drawn, self.num_updates):
            batches = np.array_split(update, self.layout.num_batches)
            own = batches[self.layout.process_index :: self.layout.num_processes]
            updates.append([self._indices(batch.ravel(), update.size) for batch in own])
        return updates

    def _indices(self, positions: np.ndarray, update_size: int) -> BatchIndices:
        return BatchIndices(
            positions, np.zeros_like(positions), self.layout.num_processes * positions.size / update_size
        )


class ReferenceBatches:
    """
    The batches of one epoch as the authors' code cuts them, to reproduce their numbers: full batches alone (the rest
    of an epoch is dropped), dealt out example by example.

    Either with repeated augmentation (Hoffer et al., CVPR 2020): the order is random and depends on the number of the
    epoch alone, every image comes `repeats` times in a row, and the epoch ends after as many draws as there are
    images, rounded down to a multiple of 256. Or in stored order: then the rest of an epoch is kept where so rounded
    there are no more images than in a batch, fewer than 256, say.

    Args:
        num_examples (`int`): examples to draw from.
        layout (`BatchLayout`): how they are dealt out to the processes.
        repeats (`int`): augmented copies of an image.
        shuffle (`bool`): whether to draw at random; else the examples follow in stored order.
    """

    def __init__(self, num_examples: int, layout: BatchLayout, *, repeats: int = 1, shuffle: bool = True) -> None:
        from timm.data.distributed_sampler import RepeatAugSampler

        self.layout = layout
        self.repeats = repeats
        self.sampler = RepeatAugSampler(
            range(num_examples),
            num_replicas=1,
            rank=0,
            shuffle=shuffle,
            num_repeats=repeats,
            # Older versions of timm draw nothing from fewer images than a round.
            selected_round=256 if repeats > 1 and num_examples >= 256 else 0,
        )
        unit = layout.num_batches * layout.unit
        # An epoch shorter than a batch is one batch, in equal shares; one shorter than a share for each is repeated.
        size = max(min(layout.global_batch_size, len(self.sampler)) // unit, 1) * unit
        self.update_sizes = [size] * max(1, len(self.sampler) // size)
        rest = (len(self.sampler) - sum(self.update_sizes)) // unit * unit
        if not shuffle and rest > 0 and num_examples // 256 * 256 <= layout.global_batch_size:
            self.update_sizes.append(rest)
        self.num_updates, self.num_drawn = len(self.update_sizes), sum(self.update_sizes)

    def epoch(self, number: int, seed: int) -> list[list[BatchIndices]]:
        """The batches of the epoch; the order follows from `number` alone."""
        self.sampler.set_epoch(number)
        positions = np.resize(np.array(list(self.sampler)), self.num_drawn)
        copies = np.resize(np.arange(self.repeats), self.num_drawn)
        ends = np.cumsum(self.update_sizes)[:-1]
        return [self._deal(*update) for update in zip(np.split(positions, ends), np.split(copies, ends), strict=True)]

    def _deal(self, positions: np.ndarray, copies: np.ndarray) -> list[BatchIndices]:
        num_batches = self.layout.num_batches
        own = range(self.layout.process_index, num_batches, self.layout.num_processes)
        weight = self.layout.num_processes / num_batches
        return [BatchIndices(positions[first::num_batches], copies[first::num_batches], weight) for first in own]
