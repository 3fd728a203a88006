"""Loads batches: images are decoded, augmented or processed, in worker processes or here."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import ViTImageProcessor

from training.data.augmentation import Normalizer
from training.data.batches import Batches, BatchIndices
from training.data.examples import Examples
from training.data.features import read_features
from training.seeding import derive_seed, isolated_randomness


# Makes `pixel_values` of shape `(B, 3, height, width)` from RGB images and their source indices.
Preprocess: TypeAlias = Callable[[list[Image.Image], np.ndarray], torch.Tensor]


class Batch(NamedTuple):
    """
    Images of one forward pass.

    Args:
        images (`torch.Tensor`): `(B, 3, height, width)`; uint8 pixels in training, `pixel_values` in evaluation. Or
            what a frozen encoder made of them, see [`training.data.features`].
        labels (`torch.Tensor`): `(B,)` label ids.
        weight (`float`): weight of this batch's mean loss within its update.
    """

    images: torch.Tensor
    labels: torch.Tensor
    weight: float = 1.0


class _EpochBatch(NamedTuple):
    """A batch of an epoch: what a worker needs to make it."""

    epoch: int
    indices: BatchIndices


class _AugmentedBatches(Dataset):
    """
    Batches of augmented images. An image's augmentation follows from its source index and the names of the draw, not
    from its place in the batch or the worker that makes it: it is the same on any number of processes.
    """

    def __init__(
        self, examples: Examples, transform: Callable[[Image.Image], torch.Tensor], seed: Sequence[int | str]
    ) -> None:
        self.examples = examples
        self.transform = transform
        self.seed = seed

    def __getitem__(self, item: _EpochBatch) -> Batch:
        positions, _, weight = item.indices
        labels = torch.from_numpy(self.examples.labels[positions])
        source = self.examples.features
        if source is None:
            images = augment(self.examples.images_at(positions), self.transform, self._seeds(item))
            return Batch(images, labels, weight)
        # With one view there is nothing to draw.
        seeds = self._seeds(item) if source.train.num_views > 1 else None
        return Batch(read_features(self.examples, positions, seeds), labels, weight)

    def _seeds(self, item: _EpochBatch) -> list[int]:
        positions, copies, _ = item.indices
        sources = self.examples.source_indices[positions]
        draw = (*self.seed, item.epoch)
        return [augmentation_seed(draw, source, copy) for source, copy in zip(sources, copies, strict=True)]


class _PixelValues(Dataset):
    """`pixel_values` of one batch an item, as `prepare` makes them from images and their source indices."""

    def __init__(self, examples: Examples, prepare: Preprocess) -> None:
        self.examples = examples
        self.prepare = prepare

    def __getitem__(self, positions: np.ndarray) -> Batch:
        if _reads_features(self.examples, self.prepare):
            features = read_features(self.examples, positions)
            return Batch(features, torch.from_numpy(self.examples.labels[positions]))
        pixel_values = self.prepare(self.examples.images_at(positions), self.examples.source_indices[positions])
        return Batch(pixel_values, torch.from_numpy(self.examples.labels[positions]))


def _reads_features(examples: Examples, prepare: Preprocess) -> bool:
    """Whether the model gets kept features of the images themselves."""
    return examples.features is not None and isinstance(prepare, EvalTransform)


class EvalTransform:
    """
    Images as users of the model will give them.

    Args:
        processor (`ViTImageProcessor`): of the model.
    """

    def __init__(self, processor: ViTImageProcessor) -> None:
        self.processor = processor

    def __call__(self, images: list[Image.Image], source_indices: np.ndarray) -> torch.Tensor:
        return self.processor(images=images, return_tensors="pt")["pixel_values"]


class TrainTransform:
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
        seeds = [augmentation_seed(self.seed, source_index) for source_index in source_indices]
        return self.normalize(augment(images, self.transform, seeds))


def augment(
    images: Sequence[Image.Image], transform: Callable[[Image.Image], torch.Tensor], seeds: Sequence[int]
) -> torch.Tensor:
    """Each image transformed with its own seed; `(B, 3, height, width)` uint8."""
    with isolated_randomness() as reseed:
        augmented = []
        for image, seed in zip(images, seeds, strict=True):
            reseed(seed)
            augmented.append(transform(image))
    return torch.stack(augmented)


def augmentation_seed(draw: Sequence[int | str], source_index: int, copy: int = 0) -> int:
    """The seed of an image's augmentation in the draw of this name; each further copy of the image has its own."""
    return derive_seed(*draw, "augmentation", int(source_index), *([int(copy)] if copy else []))


class TrainingLoader:
    """
    Loads the augmented batches of a phase.

    Args:
        examples (`Examples`): what to learn from.
        transform: the training augmentation, image to uint8 tensor.
        batches (`Batches`): how an epoch is cut.
        num_workers (`int`): processes that load images; kept features are read in this one.
    """

    def __init__(
        self,
        examples: Examples,
        transform: Callable[[Image.Image], torch.Tensor],
        batches: Batches,
        num_workers: int,
    ) -> None:
        self.examples = examples
        self.transform = transform
        self.batches = batches
        self.num_workers = num_workers

    def epochs(self, numbers: Sequence[int], *seed: int | str) -> Iterator[Iterator[list[Batch]]]:
        """
        Yields epochs; an epoch yields updates, an update is a list of batches. Exhaust an epoch before the next.

        The worker processes start once and load beyond the end of an epoch, so that the next does not begin with a
        wait.

        Args:
            numbers (`Sequence[int]`): the epochs, from 0.
            *seed: names the phase in random draws.
        """
        images = _AugmentedBatches(self.examples, self.transform, seed)
        # Kept features are read in less time than another process takes to hand them over.
        num_workers = 0 if self.examples.features is not None else self.num_workers
        loaded = iter(_load_batches(images, self._batches_of(numbers, seed), num_workers))
        for _ in numbers:
            yield self._updates(loaded)

    def _batches_of(self, numbers: Sequence[int], seed: Sequence[int | str]) -> Iterator[_EpochBatch]:
        for number in numbers:
            for update in self.batches.epoch(number, derive_seed(*seed, number, "order")):
                for indices in update:
                    yield _EpochBatch(number, indices)

    def _updates(self, loaded: Iterator[Batch]) -> Iterator[list[Batch]]:
        for _ in range(self.batches.num_updates):
            yield list(islice(loaded, self.batches.layout.accumulation))


def evaluation_batches(
    examples: Examples,
    prepare: Preprocess,
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
    own = batches[process_index::num_processes]
    # As in training.
    num_workers = 0 if _reads_features(examples, prepare) else min(num_workers, len(own))
    return _load_batches(_PixelValues(examples, prepare), own, num_workers)


def _load_batches(batches: Dataset, items: Iterable[Any], num_workers: int) -> DataLoader:
    """Loads whole batches, an item each; the streams of randomness of this process are left alone."""
    return DataLoader(
        batches,
        sampler=items,
        batch_size=None,
        num_workers=num_workers,
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
