"""Batches: which images, in which order, on which process, and their augmentation, all by name of the draw."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import ViTImageProcessor

from training.examples import Examples
from training.seeding import derive_seed, isolated_randomness


class Batch(NamedTuple):
    """
    Images of one forward pass.

    Args:
        images (`torch.Tensor`): `(B, 3, height, width)`; uint8 pixels in training, `pixel_values` in evaluation.
        labels (`torch.Tensor`): `(B,)` label ids.
        weight (`float`): what the mean loss of this batch counts in the mean loss of its optimizer step.
    """

    images: torch.Tensor
    labels: torch.Tensor
    weight: float = 1.0


class TrainingBatches:
    """
    The batches of one epoch for one process.

    A permutation of all examples, the same on every process, is cut into optimizer steps of nearly equal size (every
    example once an epoch), and each of those into one batch for each process and accumulation round. So a run at the
    same global batch sees the same images together, whatever the number of processes.

    Args:
        num_examples (`int`): examples to draw from.
        global_batch_size (`int`): at most so many examples an optimizer step.
        accumulation (`int`): batches of a process an optimizer step.
        process_index, num_processes (`int`): which of how many processes.
        even (`bool`): give every batch an even size, as MixUp needs; the odd examples of an epoch are left out.
    """

    def __init__(
        self,
        num_examples: int,
        global_batch_size: int,
        accumulation: int = 1,
        process_index: int = 0,
        num_processes: int = 1,
        even: bool = False,
    ) -> None:
        self.num_examples = num_examples
        self.accumulation = accumulation
        self.process_index = process_index
        self.num_processes = num_processes
        self.unit = 2 if even else 1
        smallest = self.unit * accumulation * num_processes
        # Too few examples for one batch everywhere: they are repeated.
        self.num_drawn = max(num_examples - num_examples % self.unit, smallest)
        self.num_optimizer_steps = max(1, min(-(-self.num_drawn // global_batch_size), self.num_drawn // smallest))

    def epoch(self, seed: int) -> list[list[tuple[np.ndarray, float]]]:
        """
        For each optimizer step, for each accumulation round: positions of the examples of this process, and the
        weight of their mean loss. Over all processes and rounds of a step, weights sum to the number of processes.
        """
        order = np.random.default_rng(seed).permutation(self.num_examples)
        drawn = np.resize(order, self.num_drawn).reshape(-1, self.unit)
        steps = []
        for step in np.array_split(drawn, self.num_optimizer_steps):
            parts = np.array_split(step, self.accumulation * self.num_processes)
            mine = parts[self.process_index :: self.num_processes]
            steps.append([(part.ravel(), self.num_processes * part.size / step.size) for part in mine])
        return steps


class _AugmentedImages(Dataset):
    """Images by `(position, seed of the augmentation)`, so that a draw does not depend on the worker that makes it."""

    def __init__(self, examples: Examples, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.examples = examples
        self.transform = transform

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        position, seed = key
        image = self.examples.image(position)
        with isolated_randomness(seed):
            return self.transform(image), int(self.examples.labels[position])


class _ProcessedImages(Dataset):
    """Images as the image processor of the model makes them, one batch an item."""

    def __init__(self, examples: Examples, processor: ViTImageProcessor) -> None:
        self.examples = examples
        self.processor = processor

    def __getitem__(self, positions: np.ndarray) -> Batch:
        images = [self.examples.image(int(position)) for position in positions]
        pixel_values = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return Batch(pixel_values, torch.from_numpy(self.examples.labels[positions]))


class TrainingLoader:
    """
    Loads the augmented batches of a phase, epoch by epoch; worker processes live as long as the phase.

    Args:
        examples (`Examples`): what to learn from.
        transform: the training augmentation, image to uint8 tensor.
        batches (`TrainingBatches`): how an epoch is cut.
        num_workers (`int`): processes that load.
    """

    def __init__(
        self,
        examples: Examples,
        transform: Callable[[Image.Image], torch.Tensor],
        batches: TrainingBatches,
        num_workers: int,
    ) -> None:
        self.examples = examples
        self.batches = batches
        self.keys = _EpochKeys()
        self.loader = DataLoader(
            _AugmentedImages(examples, transform),
            batch_sampler=self.keys,
            collate_fn=_stack,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_available(),
        )

    def epoch(self, *seed: int | str) -> Iterator[list[Batch]]:
        """The optimizer steps of the epoch that `seed` names, each a list of batches to accumulate."""
        steps = self.batches.epoch(derive_seed(*seed, "order"))
        self.keys.batches = [self._augmentation_keys(positions, seed) for step in steps for positions, _ in step]
        loaded = iter(self.loader)
        for step in steps:
            yield [next(loaded)._replace(weight=weight) for _, weight in step]

    def _augmentation_keys(self, positions: np.ndarray, seed: Sequence[int | str]) -> list[tuple[int, int]]:
        # Keyed by the image, not by its place in the batch: the same on any number of processes.
        sources = self.examples.source_indices[positions]
        return [
            (int(position), derive_seed(*seed, "augmentation", int(source)))
            for position, source in zip(positions, sources, strict=True)
        ]


class _EpochKeys:
    """The keys of the current epoch, batch by batch: the loader asks anew at each epoch."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _stack(samples: Sequence[tuple[torch.Tensor, int]]) -> Batch:
    images, labels = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels))


def evaluation_batches(
    examples: Examples,
    processor: ViTImageProcessor,
    batch_size: int,
    num_workers: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> DataLoader:
    """
    Un-augmented images in their order, every image exactly once over all processes. Batches are cut before they are
    dealt out, so that an image always shares its batch with the same others.
    """
    positions = np.arange(len(examples))
    batches = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
    mine = batches[process_index::num_processes]
    return DataLoader(
        _ProcessedImages(examples, processor),
        sampler=mine,
        batch_size=None,
        num_workers=min(num_workers, len(mine)),
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
