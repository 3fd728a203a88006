"""Loading: who gets which image when, and how it is augmented."""

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torchvision import transforms

from modeling_dytox.image_processing import make_image_processor
from training.arguments import Arguments
from training.data.augmentation import make_train_transform
from training.data.batches import BatchLayout, TrainingBatches
from training.data.examples import Examples
from training.data.loading import Batch, EvalTransform, TrainingLoader, evaluation_batches


Transform = Callable[[PILImage.Image], torch.Tensor]


@pytest.fixture
def examples(make_examples: Callable[..., Examples], noise_image: Callable[..., PILImage.Image]) -> Examples:
    """Twenty-one images of noise; their rows in the data set are not their positions."""
    images = [noise_image(seed) for seed in range(21)]
    return make_examples(images, labels=[seed % 4 for seed in range(21)], source_indices=[7 * s for s in range(21)])


@pytest.fixture
def augment(make_arguments: Callable[..., Arguments]) -> Transform:
    """The default augmentation: crop, flip and RandAugment."""
    return make_train_transform(make_arguments().optimization, make_image_processor(16))


def make_loader(examples: Examples, transform: Transform, num_workers: int = 0) -> TrainingLoader:
    return TrainingLoader(examples, transform, TrainingBatches(len(examples), BatchLayout(8)), num_workers)


def load_epoch(
    examples: Examples, transform: Transform, seed: int = 0, epoch: int = 1, num_processes: int = 1, rounds: int = 1
) -> list[list[Batch]]:
    """The updates of an epoch, of eight images each, with the batches of all processes and rounds."""
    of_process = []
    for process in range(num_processes):
        batches = TrainingBatches(len(examples), BatchLayout(8, rounds, process, num_processes))
        (updates,) = map(list, TrainingLoader(examples, transform, batches, 0).epochs([epoch], seed))
        of_process.append(updates)
    return [[batch for batches in update for batch in batches] for update in zip(*of_process, strict=True)]


def images_of(batches: list[Batch]) -> dict[bytes, int]:
    """The images of the batches with their labels."""
    return {
        image.numpy().tobytes(): int(label)
        for batch in batches
        for image, label in zip(batch.images, batch.labels, strict=True)
    }


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    for batch, other in zip(batches, others, strict=True):
        assert torch.equal(batch.images, other.images)
        assert torch.equal(batch.labels, other.labels)
        assert batch.weight == other.weight


def test_images_arrive_with_their_labels(examples: Examples) -> None:
    batches = sum(load_epoch(examples, transforms.PILToTensor()), [])
    expected = {
        np.asarray(examples.image(position)).transpose(2, 0, 1).tobytes(): int(examples.labels[position])
        for position in range(len(examples))
    }
    assert images_of(batches) == expected
    assert sum(len(batch.images) for batch in batches) == len(examples)
    assert all(batch.images.dtype == torch.uint8 for batch in batches)


@pytest.mark.parametrize(("num_processes", "rounds"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_rounds_augment_an_image_alike(
    examples: Examples, augment: Transform, num_processes: int, rounds: int
) -> None:
    alone = load_epoch(examples, augment)
    shared = load_epoch(examples, augment, num_processes=num_processes, rounds=rounds)
    assert [images_of(update) for update in shared] == [images_of(update) for update in alone]


def test_the_augmentation_follows_from_seed_epoch_and_row_alone(examples: Examples, augment: Transform) -> None:
    whole = images_of(sum(load_epoch(examples, augment, 5, 2), []))
    assert images_of(sum(load_epoch(examples, augment, 5, 2), [])) == whole
    # The place of an image among others does not matter.
    some = examples.select([17, 3, 4])
    assert images_of(sum(load_epoch(some, augment, 5, 2), [])).keys() <= whole.keys()
    for seed, epoch in ((6, 2), (5, 3)):
        assert len(images_of(sum(load_epoch(examples, augment, seed, epoch), [])).keys() & whole.keys()) < 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_serves_one_epoch_after_another(examples: Examples, augment: Transform, num_workers: int) -> None:
    # As a run that resumes after its fourth epoch.
    loader = make_loader(examples, augment, num_workers)
    for epoch, updates in zip(range(4, 7), loader.epochs(range(4, 7), 0), strict=True):
        assert_same(sum(updates, []), sum(load_epoch(examples, augment, 0, epoch), []))


def test_the_next_epoch_is_loaded_before_this_one_ends(examples: Examples, augment: Transform, tmp_path: Path) -> None:
    def note(image: PILImage.Image) -> torch.Tensor:
        # One byte an image, from the process that augments it.
        with (tmp_path / "augmented").open("ab") as file:
            file.write(b".")
        return augment(image)

    epochs = make_loader(examples, note, 2).epochs(range(2), 0)
    assert len(list(next(epochs))) == 3
    deadline = time.monotonic() + 60
    while (tmp_path / "augmented").stat().st_size <= len(examples):
        assert time.monotonic() < deadline, "nothing was loaded ahead"
        time.sleep(0.01)


@pytest.mark.parametrize("stopped_within", [False, True])
def test_workers_end_with_the_epochs(examples: Examples, augment: Transform, stopped_within: bool) -> None:
    before = set(multiprocessing.active_children())
    epochs = make_loader(examples, augment, 2).epochs(range(2), 0)
    updates = next(epochs)
    assert next(updates)
    assert len(set(multiprocessing.active_children()) - before) == 2
    if stopped_within:
        del updates, epochs
    else:
        assert [len(list(each)) for each in (updates, *epochs)] == [2, 3]
    # At once, not when Python comes to collect garbage: a phase follows a phase.
    assert set(multiprocessing.active_children()) <= before


def test_loading_leaves_the_random_streams_of_the_process_alone(examples: Examples, augment: Transform) -> None:
    def streams() -> tuple[object, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().numpy().tobytes()

    before = streams()
    assert load_epoch(examples, augment)
    assert list(evaluation_batches(examples, EvalTransform(make_image_processor(16)), 4, 0))
    assert streams() == before


@pytest.mark.parametrize(("num_processes", "num_workers"), [(1, 0), (1, 2), (2, 0), (3, 0), (5, 0)])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 30])
def test_evaluation_reads_every_image_once_over_all_processes(
    examples: Examples, num_processes: int, num_workers: int, batch_size: int
) -> None:
    processor = make_image_processor(16)
    of_process = [
        list(evaluation_batches(examples, EvalTransform(processor), batch_size, num_workers, process, num_processes))
        for process in range(num_processes)
    ]
    # Dealt out in turns.
    dealt = [of_process[turn % num_processes][turn // num_processes] for turn in range(sum(map(len, of_process)))]
    images = [examples.image(position) for position in range(len(examples))]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(torch.cat([batch.images for batch in dealt]), expected)
    assert torch.cat([batch.labels for batch in dealt]).tolist() == examples.labels.tolist()
