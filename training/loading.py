"""Loads batches: images are decoded, augmented or processed, in worker processes or here."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import ViTImageProcessor

from training.augmentation import Normalizer
from training.batches import Batches, Draw
from training.examples import Examples
from training.seeding import derive_seed, isolated_randomness


# Makes `pixel_values` of shape `(B, 3, height, width)` from RGB images and their source indices.
Prepare: TypeAlias = Callable[[list[Image.Image], np.ndarray], torch.Tensor]


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


class _PixelValues(Dataset):
    """`pixel_values` of one batch an item, as `prepare` makes them from images and their source indices."""

    def __init__(self, examples: Examples, prepare: Prepare) -> None:
        self.examples = examples
        self.prepare = prepare

    def __getitem__(self, positions: np.ndarray) -> Batch:
        images = [self.examples.image(int(position)) for position in positions]
        pixel_values = self.prepare(images, self.examples.source_indices[positions])
        return Batch(pixel_values, torch.from_numpy(self.examples.labels[positions]))


class Processed:
    """
    Images as users of the model will give them.

    Args:
        processor (`ViTImageProcessor`): of the model.
    """

    def __init__(self, processor: ViTImageProcessor) -> None:
        self.processor = processor

    def __call__(self, images: list[Image.Image], source_indices: np.ndarray) -> torch.Tensor:
        return self.processor(images=images, return_tensors="pt")["pixel_values"]


class Augmented:
    """
    Images as training sees them, each augmented once.

    Args:
        processor (`ViTImageProcessor`): gives the normalisation.
        transform: the training augmentation, image to uint8 tensor.
        seed: names the draw; an image's augmentation follows from it and from its source index.
    """

    def __init__(
        self, processor: ViTImageProcessor, transform: Callable[[Image.Image], torch.Tensor], *seed: int | str
    ) -> None:
        self.normalize = Normalizer(processor, torch.device("cpu"))
        self.transform = transform
        self.seed = seed

    def __call__(self, images: list[Image.Image], source_indices: np.ndarray) -> torch.Tensor:
        return self.normalize(torch.stack(list(map(self._augment, images, source_indices))))

    def _augment(self, image: Image.Image, source_index: int) -> torch.Tensor:
        with isolated_randomness(augmentation_seed(self.seed, source_index)):
            return self.transform(image)


class TrainingLoader:
    """
    Loads the augmented batches of a phase, epoch by epoch; worker processes live as long as the phase.

    Args:
        examples (`Examples`): what to learn from.
        transform: the training augmentation, image to uint8 tensor.
        batches (`Batches`): how an epoch is cut.
        num_workers (`int`): processes that load.
    """

    def __init__(
        self,
        examples: Examples,
        transform: Callable[[Image.Image], torch.Tensor],
        batches: Batches,
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

    def epoch(self, number: int, *seed: int | str) -> Iterator[list[Batch]]:
        """The optimizer steps of epoch `number` of the phase that `seed` names, each a list of batches."""
        steps = self.batches.epoch(number, derive_seed(*seed, number, "order"))
        self.keys.batches = [self._augmentation_keys(draw, (*seed, number)) for step in steps for draw in step]
        loaded = iter(self.loader)
        for step in steps:
            yield [next(loaded)._replace(weight=draw.weight) for draw in step]

    def _augmentation_keys(self, draw: Draw, seed: Sequence[int | str]) -> list[tuple[int, int]]:
        # Keyed by the image, not by its place in the batch: the same on any number of processes.
        sources = self.examples.source_indices[draw.positions]
        return [
            (int(position), augmentation_seed(seed, source, copy))
            for position, source, copy in zip(draw.positions, sources, draw.copies, strict=True)
        ]


def augmentation_seed(draw: Sequence[int | str], source_index: int, copy: int = 0) -> int:
    """The seed of an image's augmentation in the draw of this name; each further copy of the image has its own."""
    return derive_seed(*draw, "augmentation", int(source_index), *([int(copy)] if copy else []))


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
    prepare: Prepare,
    batch_size: int,
    num_workers: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> DataLoader:
    """
    Images in their order, every image exactly once over all processes. Batches are cut before they are dealt out, so
    that an image always shares its batch with the same others.
    """
    positions = np.arange(len(examples))
    batches = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
    mine = batches[process_index::num_processes]
    return DataLoader(
        _PixelValues(examples, prepare),
        sampler=mine,
        batch_size=None,
        num_workers=min(num_workers, len(mine)),
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
