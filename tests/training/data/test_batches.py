"""Batches: which examples come when, on which process, and how much they count."""

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from training.data.batches import Batches, BatchIndices, BatchLayout, ReferenceBatches, TrainingBatches


# Examples of an epoch, and images of a batch on a process.
SIZES = list(product((1, 2, 3, 7, 31, 64, 97, 200), (1, 2, 3, 8, 16)))
SHARES = list(product((1, 2, 3), (1, 2, 3), (False, True)))
every_share = pytest.mark.parametrize(("accumulation", "num_processes", "even"), SHARES)

# The batches of an update, for each process.
Update = list[list[BatchIndices]]


def shares(batch_size: int, accumulation: int, num_processes: int, even: bool = False) -> list[BatchLayout]:
    """How the processes share the updates; `batch_size` images a batch."""
    global_batch_size = batch_size * accumulation * num_processes
    return [
        BatchLayout(global_batch_size, accumulation, process, num_processes, even) for process in range(num_processes)
    ]


def epoch_of_all(batches: list[Batches], number: int = 0, seed: int = 0) -> list[Update]:
    """An epoch as the processes share it."""
    return [list(update) for update in zip(*(each.epoch(number, seed) for each in batches), strict=True)]


def training_epoch(num_examples: int, *share: int, seed: int = 0) -> list[Update]:
    return epoch_of_all([TrainingBatches(num_examples, each) for each in shares(*share)], seed=seed)


def draws_of(update: Update) -> list[BatchIndices]:
    return [draw for batches in update for draw in batches]


def positions_of(update: Update) -> list[int]:
    return [int(position) for draw in draws_of(update) for position in draw.positions]


def images_of(update: Update) -> Counter[tuple[int, int]]:
    """The images with which of their copies."""
    return Counter(
        (int(position), int(copy))
        for draw in draws_of(update)
        for position, copy in zip(draw.positions, draw.copies, strict=True)
    )


@every_share
def test_an_epoch_uses_every_example_once_in_batches_of_nearly_one_size(
    accumulation: int, num_processes: int, even: bool
) -> None:
    unit, num_batches = (2 if even else 1), accumulation * num_processes
    for num_examples, batch_size in SIZES:
        updates = training_epoch(num_examples, batch_size, accumulation, num_processes, even)
        counts = Counter(position for update in updates for position in positions_of(update))
        times = [counts[position] for position in range(num_examples)]
        num_used = num_examples - num_examples % unit
        if num_used >= unit * num_batches:
            assert set(counts.values()) == {1} and len(counts) == num_used
        else:
            # Too few for one batch everywhere: repeated, as evenly as can be.
            assert sum(times) == unit * num_batches and max(times) - min(times) <= 1
        totals = [len(positions_of(update)) for update in updates]
        assert max(totals) - min(totals) <= unit
        for update in updates:
            sizes = [len(draw.positions) for draw in draws_of(update)]
            assert len(sizes) == num_batches and all(size % unit == 0 for size in sizes)
            assert unit <= min(sizes) and max(sizes) - min(sizes) <= unit
            # Batches of one image, or of one pair, leave no room to share a rest: those updates may be larger.
            assert sum(sizes) <= batch_size * num_batches or batch_size < 2 * unit


@every_share
def test_weighted_means_of_the_batches_make_the_mean_of_the_update(
    accumulation: int, num_processes: int, even: bool
) -> None:
    for num_examples, batch_size in SIZES:
        losses = np.random.default_rng(1).normal(size=num_examples)
        for update in training_epoch(num_examples, batch_size, accumulation, num_processes, even):
            accumulated = [sum(draw.weight * losses[draw.positions].mean() for draw in batches) for batches in update]
            # Processes average their gradients.
            assert np.mean(accumulated) == pytest.approx(losses[positions_of(update)].mean())


@pytest.mark.parametrize("num_examples", [24, 25, 47, 48, 100, 1000])
@pytest.mark.parametrize("even", [False, True])
def test_an_update_sees_the_same_images_on_any_number_of_processes_and_rounds(num_examples: int, even: bool) -> None:
    expected = [images_of(update) for update in training_epoch(num_examples, 24, 1, 1, even)]
    for accumulation, num_processes in product((1, 2, 3), (1, 2, 3, 6)):
        batch_size, rest = divmod(24, accumulation * num_processes)
        if rest or batch_size < (4 if even else 2):
            continue
        updates = training_epoch(num_examples, batch_size, accumulation, num_processes, even)
        assert [images_of(update) for update in updates] == expected


@every_share
@pytest.mark.parametrize(("num_examples", "num_updates"), [(100, 3), (100, 40), (5, 2), (1, 1)])
def test_an_epoch_of_so_many_updates_takes_full_ones_from_all_examples_in_turn(
    num_examples: int, num_updates: int, accumulation: int, num_processes: int, even: bool
) -> None:
    layouts = shares(4, accumulation, num_processes, even)
    batches: list[Batches] = [TrainingBatches(num_examples, layout, num_updates) for layout in layouts]
    updates = epoch_of_all(batches, seed=3)
    full = 4 * accumulation * num_processes
    assert [len(positions_of(update)) for update in updates] == [full] * num_updates
    assert batches[0].num_drawn == full * num_updates and batches[0].num_updates == num_updates
    counts = Counter(position for update in updates for position in positions_of(update))
    times = [counts[position] for position in range(num_examples)]
    assert max(times) - min(times) <= 1, "none comes again before all have come"


@pytest.mark.parametrize("even", [False, True])
def test_epochs_are_shuffled_by_their_seed_alone(even: bool) -> None:
    def order(seed: int) -> list[int]:
        return sum(map(positions_of, training_epoch(101, 8, 2, 2, even, seed=seed)), [])

    assert order(3) == order(3)
    assert order(3) != order(4)
    assert order(3) != sorted(order(3))


def test_under_even_every_example_is_left_out_at_some_time() -> None:
    used = [set(sum(map(positions_of, training_epoch(7, 4, 1, 1, True, seed=seed)), [])) for seed in range(60)]
    assert set().union(*(set(range(7)) - epoch for epoch in used)) == set(range(7))


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
    for process, share in enumerate(shares(128, 1, num_processes)):
        batches = ReferenceBatches(num_examples, share, repeats=3)
        updates = batches.epoch(number, seed=number + 5)
        name = f"dist{num_processes}/N{num_examples}/epoch{number}" + (f"/rank{process}" if num_processes > 1 else "")
        assert np.concatenate([draw.positions for (draw,) in updates]).tolist() == published[name].tolist()
        assert all(len(draw.positions) == 128 and draw.weight == 1 for (draw,) in updates)
        assert batches.num_drawn == num_processes * len(published[name])


def test_unshuffled_finetuning_walks_the_memory_and_misses_its_end() -> None:
    # 2,000 exemplars of 100 classes: the last four classes, the newest, never get into a batch of 128.
    labels = np.repeat(np.arange(100), 20)
    updates = ReferenceBatches(len(labels), BatchLayout(128), shuffle=False).epoch(4, 0)
    positions = np.concatenate([draw.positions for (draw,) in updates])
    assert positions.tolist() == list(range(15 * 128))
    assert set(labels) - set(labels[positions]) == {96, 97, 98, 99}


@pytest.mark.parametrize(("num_examples", "sizes"), [(200, [128, 72]), (195, [128, 67]), (255, [128, 127])])
def test_unshuffled_finetuning_on_fewer_than_256_exemplars_misses_none(num_examples: int, sizes: list[int]) -> None:
    batches = ReferenceBatches(num_examples, BatchLayout(128), shuffle=False)
    updates = batches.epoch(4, 0)
    assert [len(draw.positions) for (draw,) in updates] == sizes and batches.num_drawn == num_examples
    assert np.concatenate([draw.positions for (draw,) in updates]).tolist() == list(range(num_examples))
    # Two processes see the same images together.
    halves = [ReferenceBatches(num_examples, share, shuffle=False) for share in shares(64, 1, 2)]
    for together, (alone,) in zip(epoch_of_all(halves), updates, strict=True):
        assert set(positions_of(together)) >= set(alone.positions[: len(alone.positions) // 2 * 2].tolist())


@every_share
@pytest.mark.parametrize("repeats", [1, 3])
def test_published_batches_are_full_and_equal_for_every_size(
    accumulation: int, num_processes: int, even: bool, repeats: int
) -> None:
    for num_examples, batch_size in SIZES:
        of_process = [
            ReferenceBatches(num_examples, share, repeats=repeats)
            for share in shares(batch_size, accumulation, num_processes, even)
        ]
        updates = epoch_of_all(of_process, number=2)
        (size,) = {len(draw.positions) for update in updates for draw in draws_of(update)}
        assert size % (2 if even else 1) == 0
        for update in updates:
            assert {len(batches) for batches in update} == {accumulation}
            assert sum(draw.weight for draw in draws_of(update)) == pytest.approx(num_processes)


@pytest.mark.parametrize("repeats", [1, 3])
def test_published_batches_see_the_same_copies_on_any_number_of_processes(repeats: int) -> None:
    def images(accumulation: int, num_processes: int) -> list[Counter[tuple[int, int]]]:
        each_share = shares(48 // (accumulation * num_processes), accumulation, num_processes)
        of_process = [ReferenceBatches(1000, share, repeats=repeats) for share in each_share]
        return [images_of(update) for update in epoch_of_all(of_process, number=1)]

    expected = images(1, 1)
    for accumulation, num_processes in product((1, 2, 3), (1, 2, 4)):
        assert images(accumulation, num_processes) == expected
    drawn = sum(expected, Counter())
    # No copy comes twice, and all copies of an image come one after the other.
    assert set(drawn.values()) == {1} and {copy for _, copy in drawn} == set(range(repeats))
    assert len({position for position, _ in drawn}) == -(-len(drawn) // repeats)
