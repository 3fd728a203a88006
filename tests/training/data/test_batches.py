"""Batches: which examples come when, on which process, and how much they count."""

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from training.data.batches import Draw, PublishedBatches, Share, TrainingBatches


# Examples of an epoch, and images of a batch on a process.
SIZES = list(product((1, 2, 3, 7, 31, 64, 97, 200), (1, 2, 3, 8, 16)))
# Accumulation, processes, even sizes.
SHARES = list(product((1, 2, 3), (1, 2, 3), (False, True)))


def epoch_of_all(
    num_examples: int, batch_size: int, accumulation: int, num_processes: int, even: bool, seed: int = 0
) -> list[list[list[Draw]]]:
    """The epoch as it is shared out: for each optimizer step and process, its batches and their weights."""
    global_batch_size = batch_size * accumulation * num_processes
    of_process = [
        TrainingBatches(num_examples, Share(global_batch_size, accumulation, process, num_processes, even)).epoch(
            0, seed
        )
        for process in range(num_processes)
    ]
    return [list(step) for step in zip(*of_process, strict=True)]


def positions_of(step: list[list[Draw]]) -> list[int]:
    return [int(position) for batches in step for draw in batches for position in draw.positions]


@pytest.mark.parametrize(("accumulation", "num_processes", "even"), SHARES)
def test_an_epoch_uses_every_example_once(accumulation: int, num_processes: int, even: bool) -> None:
    smallest = (2 if even else 1) * accumulation * num_processes
    for num_examples, batch_size in SIZES:
        steps = epoch_of_all(num_examples, batch_size, accumulation, num_processes, even)
        counts = Counter(position for step in steps for position in positions_of(step))
        num_used = num_examples - (num_examples % 2 if even else 0)
        if num_used >= smallest:
            assert set(counts.values()) == {1}
            assert len(counts) == num_used
        else:
            # Too few for one batch everywhere: repeated, as evenly as can be.
            assert counts.total() == smallest
            times = [counts[position] for position in range(num_examples)]
            assert sum(times) == smallest
            assert max(times) - min(times) <= 1


@pytest.mark.parametrize(("accumulation", "num_processes", "even"), SHARES)
def test_no_batch_is_empty_and_all_are_of_nearly_one_size(accumulation: int, num_processes: int, even: bool) -> None:
    unit = 2 if even else 1
    for num_examples, batch_size in SIZES:
        steps = epoch_of_all(num_examples, batch_size, accumulation, num_processes, even)
        sizes = [[len(draw.positions) for batches in step for draw in batches] for step in steps]
        for step in sizes:
            assert len(step) == accumulation * num_processes
            assert min(step) >= unit
            assert max(step) - min(step) <= unit
            assert all(size % unit == 0 for size in step)
        totals = [sum(step) for step in sizes]
        assert max(totals) - min(totals) <= unit


@pytest.mark.parametrize(("accumulation", "num_processes", "even"), SHARES)
def test_an_optimizer_step_is_no_larger_than_the_global_batch(
    accumulation: int, num_processes: int, even: bool
) -> None:
    # Batches of one image, or of one pair, leave no room to share out a rest: those steps may be larger.
    for num_examples, batch_size in (sizes for sizes in SIZES if sizes[1] >= (4 if even else 2)):
        for step in epoch_of_all(num_examples, batch_size, accumulation, num_processes, even):
            assert len(positions_of(step)) <= batch_size * accumulation * num_processes


@pytest.mark.parametrize(("accumulation", "num_processes", "even"), SHARES)
def test_weighted_means_of_the_batches_make_the_mean_of_the_optimizer_step(
    accumulation: int, num_processes: int, even: bool
) -> None:
    for num_examples, batch_size in SIZES:
        losses = np.random.default_rng(1).normal(size=num_examples)
        for step in epoch_of_all(num_examples, batch_size, accumulation, num_processes, even):
            assert sum(draw.weight for batches in step for draw in batches) == pytest.approx(num_processes)
            accumulated = [sum(draw.weight * losses[draw.positions].mean() for draw in batches) for batches in step]
            # Processes average their gradients.
            assert np.mean(accumulated) == pytest.approx(losses[positions_of(step)].mean())


@pytest.mark.parametrize("num_examples", [24, 25, 47, 48, 100, 1000])
@pytest.mark.parametrize("even", [False, True])
def test_a_step_sees_the_same_images_on_any_number_of_processes_and_rounds(num_examples: int, even: bool) -> None:
    alone = epoch_of_all(num_examples, 24, 1, 1, even)
    expected = [Counter(positions_of(step)) for step in alone]
    for accumulation, num_processes in product((1, 2, 3), (1, 2, 3, 6)):
        batch_size, rest = divmod(24, accumulation * num_processes)
        if rest or batch_size < (4 if even else 2):
            continue
        steps = epoch_of_all(num_examples, batch_size, accumulation, num_processes, even)
        assert [Counter(positions_of(step)) for step in steps] == expected


@pytest.mark.parametrize("even", [False, True])
def test_epochs_are_shuffled_by_their_seed_alone(even: bool) -> None:
    def order(seed: int) -> list[int]:
        return [position for step in epoch_of_all(101, 8, 2, 2, even, seed) for position in positions_of(step)]

    assert order(3) == order(3)
    assert order(3) != order(4)
    assert order(3) != sorted(order(3))


def test_under_even_every_example_is_left_out_at_some_time() -> None:
    used = [
        {position for step in epoch_of_all(7, 4, 1, 1, True, seed) for position in positions_of(step)}
        for seed in range(60)
    ]
    left_out = set().union(*(set(range(7)) - epoch for epoch in used))
    assert left_out == set(range(7))


# As the authors' code cuts them.


@pytest.fixture(scope="module")
def published(root: Path) -> dict[str, np.ndarray]:
    """Index streams of the authors' samplers, `dist{processes}/N{images}/epoch{number}[/rank{process}]`."""
    with np.load(root / "tests" / "fixtures" / "samplers.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("number", [0, 1, 7])
@pytest.mark.parametrize("num_examples", [1000, 5000, 6990])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_repeated_augmentation_draws_as_the_authors_do(
    published: dict[str, np.ndarray], num_examples: int, number: int, num_processes: int
) -> None:
    for process in range(num_processes):
        batches = PublishedBatches(num_examples, Share(128 * num_processes, 1, process, num_processes), repeats=3)
        steps = batches.epoch(number, seed=number + 5)
        name = f"dist{num_processes}/N{num_examples}/epoch{number}" + (f"/rank{process}" if num_processes > 1 else "")
        assert np.concatenate([draw.positions for (draw,) in steps]).tolist() == published[name].tolist()
        assert all(len(draw.positions) == 128 and draw.weight == 1 for (draw,) in steps)
        assert batches.num_drawn == num_processes * len(published[name])


def test_the_copies_of_an_image_are_told_apart() -> None:
    drawn = [
        (int(position), int(copy))
        for process in range(2)
        for step in PublishedBatches(1000, Share(128, 2, process, 2), repeats=3).epoch(3, 0)
        for draw in step
        for position, copy in zip(draw.positions, draw.copies, strict=True)
    ]
    assert len(drawn) == len(set(drawn)) == 768
    assert {copy for _, copy in drawn} == {0, 1, 2}
    assert len({position for position, _ in drawn}) == 256


def test_unshuffled_finetuning_walks_the_memory_and_misses_its_end() -> None:
    # 2,000 exemplars of 100 classes: the last four classes, the newest, never get into a batch of 128.
    labels = np.repeat(np.arange(100), 20)
    steps = PublishedBatches(len(labels), Share(128), shuffle=False).epoch(4, 0)
    positions = np.concatenate([draw.positions for (draw,) in steps])
    assert positions.tolist() == list(range(15 * 128))
    assert set(labels) - set(labels[positions]) == {96, 97, 98, 99}


@pytest.mark.parametrize(("accumulation", "num_processes", "even"), SHARES)
@pytest.mark.parametrize("repeats", [1, 3])
def test_published_batches_are_full_and_equal_whatever_the_size(
    accumulation: int, num_processes: int, even: bool, repeats: int
) -> None:
    for num_examples, batch_size in SIZES:
        global_batch_size = batch_size * accumulation * num_processes
        shares = [
            Share(global_batch_size, accumulation, process, num_processes, even) for process in range(num_processes)
        ]
        of_process = [PublishedBatches(num_examples, share, repeats=repeats).epoch(2, 0) for share in shares]
        draws = [draw for process in of_process for step in process for draw in step]
        sizes = {len(draw.positions) for draw in draws}
        assert len(sizes) == 1 and sizes.pop() % (2 if even else 1) == 0
        assert {len(step) for process in of_process for step in process} == {accumulation}
        for step in zip(*of_process, strict=True):
            assert sum(draw.weight for process in step for draw in process) == pytest.approx(num_processes)


@pytest.mark.parametrize("repeats", [1, 3])
def test_published_batches_see_the_same_images_on_any_number_of_processes(repeats: int) -> None:
    def step_images(accumulation: int, num_processes: int) -> list[Counter[tuple[int, int]]]:
        of_process = [
            PublishedBatches(1000, Share(48, accumulation, process, num_processes), repeats=repeats).epoch(1, 0)
            for process in range(num_processes)
        ]
        return [
            Counter(
                (int(position), int(copy))
                for process in step
                for draw in process
                for position, copy in zip(draw.positions, draw.copies, strict=True)
            )
            for step in zip(*of_process, strict=True)
        ]

    expected = step_images(1, 1)
    for accumulation, num_processes in product((1, 2, 3), (1, 2, 4)):
        assert step_images(accumulation, num_processes) == expected
