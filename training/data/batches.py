"""How an epoch is cut into batches: which images, in which order, on which process."""

from typing import NamedTuple, Protocol

import numpy as np
from timm.data.distributed_sampler import RepeatAugSampler


class Draw(NamedTuple):
    """
    The examples of one batch.

    Args:
        positions (`np.ndarray` of shape `(B,)`): where they are among the examples of the phase.
        copies (`np.ndarray` of shape `(B,)`): the how-manieth augmented copy of its image each is, from 0.
        weight (`float`): what the mean loss of the batch counts in the mean loss of its optimizer step. Over all
            processes and rounds of a step, weights sum to the number of processes.
    """

    positions: np.ndarray
    copies: np.ndarray
    weight: float


class Share(NamedTuple):
    """
    How optimizer steps are shared out, and which share is this process's.

    Args:
        global_batch_size (`int`): at most so many examples an optimizer step.
        accumulation (`int`): batches of a process an optimizer step.
        process_index, num_processes (`int`): which of how many processes.
        even (`bool`): give every batch an even size, as MixUp needs.
    """

    global_batch_size: int
    accumulation: int = 1
    process_index: int = 0
    num_processes: int = 1
    even: bool = False

    @property
    def num_batches(self) -> int:
        """Batches of an optimizer step, over all processes and rounds."""
        return self.accumulation * self.num_processes

    @property
    def unit(self) -> int:
        """What the size of a batch is a multiple of."""
        return 2 if self.even else 1


class Batches(Protocol):
    """The batches of one phase for one process."""

    share: Share
    num_optimizer_steps: int
    num_drawn: int
    """Images of an epoch, over all processes; copies count."""

    def epoch(self, number: int, seed: int) -> list[list[Draw]]:
        """The batches of epoch `number`, from 0: for each optimizer step, for each accumulation round."""


class TrainingBatches:
    """
    The batches of one epoch for one process.

    A permutation of all examples, the same on every process, is cut into optimizer steps of nearly equal size (every
    example once an epoch, but for the odd ones where batches have even sizes), and each of those into one batch for
    each process and accumulation round. So a run at the same global batch sees the same images together, whatever the
    number of processes.

    Args:
        num_examples (`int`): examples to draw from.
        share (`Share`): how they are shared out.
    """

    def __init__(self, num_examples: int, share: Share) -> None:
        self.num_examples = num_examples
        self.share = share
        smallest = share.unit * share.num_batches
        # Too few examples for one batch everywhere: they are repeated.
        self.num_drawn = max(num_examples - num_examples % share.unit, smallest)
        full_steps = -(-self.num_drawn // share.global_batch_size)
        self.num_optimizer_steps = max(1, min(full_steps, self.num_drawn // smallest))

    def epoch(self, number: int, seed: int) -> list[list[Draw]]:
        """The batches of the epoch; the order follows from `seed` alone."""
        order = np.random.default_rng(seed).permutation(self.num_examples)
        drawn = np.resize(order, self.num_drawn).reshape(-1, self.share.unit)
        steps = []
        for step in np.array_split(drawn, self.num_optimizer_steps):
            parts = np.array_split(step, self.share.num_batches)
            mine = parts[self.share.process_index :: self.share.num_processes]
            steps.append([self._draw(part.ravel(), step.size) for part in mine])
        return steps

    def _draw(self, positions: np.ndarray, step_size: int) -> Draw:
        return Draw(positions, np.zeros_like(positions), self.share.num_processes * positions.size / step_size)


class PublishedBatches:
    """
    The batches of one epoch as the authors' code cuts them, to reproduce what was published: full batches alone (the
    rest of an epoch is dropped), each dealt out example by example.

    Either with repeated augmentation (Hoffer et al., CVPR 2020): every image of a random order that follows from the
    number of the epoch alone stands there `repeats` times in a row, and the epoch ends after as many draws as there
    are images, rounded down to a multiple of 256. Or in stored order.

    Args:
        num_examples (`int`): examples to draw from.
        share (`Share`): how they are shared out.
        repeats (`int`): augmented copies of an image.
        shuffle (`bool`): whether to draw at random; else the examples follow in stored order.
    """

    def __init__(self, num_examples: int, share: Share, *, repeats: int = 1, shuffle: bool = True) -> None:
        self.share = share
        self.repeats = repeats
        self.sampler = RepeatAugSampler(
            range(num_examples),
            num_replicas=1,
            rank=0,
            shuffle=shuffle,
            num_repeats=repeats,
            # Older versions of timm would draw nothing from fewer images than a round.
            selected_round=256 if repeats > 1 and num_examples >= 256 else 0,
        )
        unit = share.num_batches * share.unit
        # An epoch shorter than a batch is one batch, in equal shares; one shorter than a share for each is repeated.
        self.step_size = max(min(share.global_batch_size, len(self.sampler)) // unit, 1) * unit
        self.num_optimizer_steps = max(1, len(self.sampler) // self.step_size)
        self.num_drawn = self.num_optimizer_steps * self.step_size

    def epoch(self, number: int, seed: int) -> list[list[Draw]]:
        """The batches of the epoch; the order follows from `number` alone."""
        self.sampler.set_epoch(number)
        positions = np.resize(np.array(list(self.sampler)), (self.num_optimizer_steps, self.step_size))
        copies = np.resize(np.arange(self.repeats), positions.size).reshape(positions.shape)
        return [self._shares(positions[step], copies[step]) for step in range(self.num_optimizer_steps)]

    def _shares(self, positions: np.ndarray, copies: np.ndarray) -> list[Draw]:
        num_batches = self.share.num_batches
        mine = range(self.share.process_index, num_batches, self.share.num_processes)
        weight = self.share.num_processes / num_batches
        return [Draw(positions[first::num_batches], copies[first::num_batches], weight) for first in mine]
