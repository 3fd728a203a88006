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
from training.data.batches import Share, TrainingBatches
from training.data.examples import Examples
from training.data.loading import Batch, Processed, TrainingLoader, evaluation_batches


@pytest.fixture
def examples(make_examples: Callable[..., Examples], noise_image: Callable[..., PILImage.Image]) -> Examples:
    """Twenty-one images of noise; their rows in the data set are not their positions."""
    images = [noise_image(seed) for seed in range(21)]
    return make_examples(images, labels=[seed % 4 for seed in range(21)], source_indices=[7 * s for s in range(21)])


@pytest.fixture
def augment(make_arguments: Callable[..., Arguments]) -> Callable[[PILImage.Image], torch.Tensor]:
    """The default augmentation: crop, flip and RandAugment."""
    return make_train_transform(make_arguments().optimization, 16)


def load_epoch(
    examples: Examples,
    transform: Callable[[PILImage.Image], torch.Tensor],
    seed: tuple[int, int] = (0, 1),
    num_workers: int = 0,
    num_processes: int = 1,
    accumulation: int = 1,
    batch_size: int = 4,
) -> list[list[Batch]]:
    """The optimizer steps of an epoch, each with the batches of all processes."""
    of_process = []
    for process in range(num_processes):
        share = Share(batch_size * num_processes * accumulation, accumulation, process, num_processes)
        batches = TrainingBatches(len(examples), share)
        (steps,) = map(list, TrainingLoader(examples, transform, batches, num_workers).epochs([seed[-1]], *seed[:-1]))
        of_process.append(steps)
    return [[batch for batches in step for batch in batches] for step in zip(*of_process, strict=True)]


def images_of(batches: list[Batch]) -> dict[bytes, int]:
    """The images of the batches with their labels."""
    found: dict[bytes, int] = {}
    for batch in batches:
        for image, label in zip(batch.images, batch.labels, strict=True):
            found[image.numpy().tobytes()] = int(label)
    return found


def test_images_arrive_with_their_labels(
    examples: Examples, augment: Callable[[PILImage.Image], torch.Tensor]
) -> None:
    steps = load_epoch(examples, transforms.PILToTensor())
    expected = {
        np.asarray(examples.image(position)).transpose(2, 0, 1).tobytes(): int(examples.labels[position])
        for position in range(len(examples))
    }
    assert images_of(sum(steps, [])) == expected
    assert sum(len(batch.images) for step in steps for batch in step) == len(examples)
    assert all(batch.images.dtype == torch.uint8 for step in steps for batch in step)


def test_workers_make_the_same_batches(examples: Examples, augment: Callable[[PILImage.Image], torch.Tensor]) -> None:
    alone, with_workers = (load_epoch(examples, augment, num_workers=count) for count in (0, 2))
    assert len(alone) == len(with_workers)
    for mine, theirs in zip(alone, with_workers, strict=True):
        for batch, other in zip(mine, theirs, strict=True):
            assert torch.equal(batch.images, other.images)
            assert torch.equal(batch.labels, other.labels)
            assert batch.weight == other.weight


@pytest.mark.parametrize(("num_processes", "accumulation", "batch_size"), [(2, 1, 4), (1, 2, 4), (2, 2, 2), (4, 1, 2)])
def test_processes_and_rounds_augment_an_image_alike(
    examples: Examples,
    augment: Callable[[PILImage.Image], torch.Tensor],
    num_processes: int,
    accumulation: int,
    batch_size: int,
) -> None:
    alone = load_epoch(examples, augment, batch_size=8)
    shared = load_epoch(
        examples, augment, num_processes=num_processes, accumulation=accumulation, batch_size=batch_size
    )
    assert len(shared) == len(alone)
    for mine, theirs in zip(shared, alone, strict=True):
        assert images_of(mine) == images_of(theirs)


def test_the_augmentation_follows_from_seed_epoch_and_row_alone(
    examples: Examples, augment: Callable[[PILImage.Image], torch.Tensor]
) -> None:
    whole = images_of(sum(load_epoch(examples, augment, (5, 2)), []))
    assert images_of(sum(load_epoch(examples, augment, (5, 2)), [])) == whole
    # The place of an image among others does not matter.
    some = examples.select([17, 3, 4])
    assert images_of(sum(load_epoch(some, augment, (5, 2)), [])).keys() <= whole.keys()
    for other in ((6, 2), (5, 3)):
        assert len(images_of(sum(load_epoch(examples, augment, other), [])).keys() & whole.keys()) < 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_serves_one_epoch_after_another(
    examples: Examples, augment: Callable[[PILImage.Image], torch.Tensor], num_workers: int
) -> None:
    loader = TrainingLoader(examples, augment, TrainingBatches(len(examples), Share(8)), num_workers)
    served = 0
    # As a run that goes on after its fourth epoch.
    for epoch, steps in zip(range(4, 7), loader.epochs(range(4, 7), 0), strict=True):
        expected = load_epoch(examples, augment, (0, epoch), batch_size=8)
        for mine, theirs in zip(steps, expected, strict=True):
            assert torch.equal(mine[0].images, theirs[0].images)
            served += 1
    assert served == 3 * len(expected)


def test_the_next_epoch_is_loaded_before_this_one_ends(
    examples: Examples, augment: Callable[[PILImage.Image], torch.Tensor], tmp_path: Path
) -> None:
    def note(image: PILImage.Image) -> torch.Tensor:
        # One byte an image, from whatever process augments it.
        with (tmp_path / "augmented").open("ab") as file:
            file.write(b".")
        return augment(image)

    loader = TrainingLoader(examples, note, TrainingBatches(len(examples), Share(8)), 2)
    epochs = loader.epochs(range(2), 0)
    assert len(list(next(epochs))) == 3
    deadline = time.monotonic() + 60
    while (tmp_path / "augmented").stat().st_size <= len(examples):
        assert time.monotonic() < deadline, "nothing was loaded ahead"
        time.sleep(0.01)


@pytest.mark.parametrize("stopped_within", [False, True])
def test_workers_end_with_the_epochs(
    examples: Examples, augment: Callable[[PILImage.Image], torch.Tensor], stopped_within: bool
) -> None:
    before = set(multiprocessing.active_children())
    loader = TrainingLoader(examples, augment, TrainingBatches(len(examples), Share(8)), 2)
    epochs = loader.epochs(range(2), 0)
    steps = next(epochs)
    assert next(steps)
    assert len(set(multiprocessing.active_children()) - before) == 2
    if stopped_within:
        del steps, epochs
    else:
        assert [len(list(each)) for each in (steps, *epochs)] == [2, 3]
    # At once, not when Python comes to collect garbage: a phase follows a phase.
    assert set(multiprocessing.active_children()) <= before


@pytest.fixture
def random_streams() -> Callable[[], dict[str, int]]:
    """Reads where the random streams that training draws from are."""
    return lambda: {
        "python": hash(random.getstate()),
        "numpy": hash(str(np.random.get_state())),
        "torch": hash(torch.get_rng_state().numpy().tobytes()),
    }


def test_loading_leaves_the_random_streams_of_the_process_alone(
    examples: Examples,
    augment: Callable[[PILImage.Image], torch.Tensor],
    random_streams: Callable[[], dict[str, int]],
) -> None:
    before = random_streams()
    assert load_epoch(examples, augment)
    assert list(evaluation_batches(examples, Processed(make_image_processor(16)), 4, 0))
    assert random_streams() == before


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 30])
def test_evaluation_reads_every_image_once_over_all_processes(
    examples: Examples, num_processes: int, batch_size: int
) -> None:
    processor = make_image_processor(16)
    rounds = [
        list(evaluation_batches(examples, Processed(processor), batch_size, 0, process, num_processes))
        for process in range(num_processes)
    ]
    dealt = [
        rounds[process][turn]
        for turn in range(max(map(len, rounds)))
        for process in range(num_processes)
        if turn < len(rounds[process])
    ]
    images = torch.cat([batch.images for batch in dealt])
    expected = processor(images=[examples.image(i) for i in range(len(examples))], return_tensors="pt")["pixel_values"]
    assert torch.equal(images, expected)
    assert torch.cat([batch.labels for batch in dealt]).tolist() == examples.labels.tolist()


def test_evaluation_with_workers_is_the_same(examples: Examples) -> None:
    processor = make_image_processor(16)
    alone, with_workers = (list(evaluation_batches(examples, Processed(processor), 5, count)) for count in (0, 2))
    for batch, other in zip(alone, with_workers, strict=True):
        assert torch.equal(batch.images, other.images)
        assert torch.equal(batch.labels, other.labels)
