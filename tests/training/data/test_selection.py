"""Which images a phase learns from."""

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image as PILImage

from training.data.examples import Examples
from training.data.scenario import Step
from training.data.selection import select_examples


# Exemplars of two known classes, and images of two new ones, by number.
OLD, NEW = [0] * 10 + [1] * 8, [2] * 30 + [3] * 40
Select = Callable[..., Examples]


@pytest.fixture
def select(make_examples: Callable[..., Examples], marked_image: Callable[[int], PILImage.Image]) -> Select:
    """Selects among these images, with `updated` after the memory has got ten exemplars of the new classes."""
    images = [marked_image(number) for number in range(len(OLD) + len(NEW))]
    old, new = make_examples(images[:18], OLD), make_examples(images[18:], NEW, range(18, 88))
    grown = make_examples([*images[:18], *images[18:23], *images[48:53]], [*OLD, *[2] * 5, *[3] * 5])
    step = Step(2, ["c", "d"], (2, 4), new)
    everything: Any = SimpleNamespace(seen_train=lambda step: new)

    def run(data: Any, held_out: float = 0.0, seed: int = 0, memory: bool = True, updated: bool = False) -> Examples:
        kept: Any = SimpleNamespace(examples=grown if updated else old) if memory else None
        return select_examples(data, step, kept, everything, seed, held_out)

    return run


@pytest.fixture
def numbers_of(number_of: Callable[[PILImage.Image], int]) -> Callable[[Examples], list[int]]:
    """The numbers of images, in their order."""
    return lambda examples: [number_of(examples.image(place)) for place in range(len(examples))]


def test_new_and_memory_are_whole_and_in_order(select: Select, numbers_of: Any) -> None:
    old, new = list(range(18)), list(range(18, 88))
    assert numbers_of(select("new")) == numbers_of(select("new", memory=False)) == new
    assert numbers_of(select("memory")) == old and len(select("memory", updated=True)) == 28
    assert numbers_of(select("new+memory")) == numbers_of(select("new+memory", updated=True)) == new + old
    assert numbers_of(select("new+memory", memory=False)) == new


def test_balanced_has_as_many_images_of_each_class_as_the_smallest_has(select: Select, numbers_of: Any) -> None:
    for updated in (False, True):
        balanced = select("balanced", updated=updated)
        assert Counter(balanced.labels.tolist()) == dict.fromkeys(range(4), 8)
        assert set(numbers_of(balanced)) <= set(range(88))
    assert numbers_of(select("balanced")) == numbers_of(select("balanced")) != numbers_of(select("balanced", seed=1))
    assert Counter(select("balanced", memory=False).labels.tolist()) == {2: 30, 3: 30}


def test_what_is_held_out_is_learned_from_nowhere_else(select: Select, numbers_of: Any) -> None:
    held_out = select("held-out", 0.2)
    # A fifth of the ten exemplars of the largest known class, and as many of every other.
    assert Counter(held_out.labels.tolist()) == dict.fromkeys(range(4), 2)
    learned = numbers_of(select("new+memory", 0.2))
    assert sorted(learned + numbers_of(held_out)) == list(range(88))
    assert set(numbers_of(select("new", 0.2))) | set(numbers_of(select("memory", 0.2))) == set(learned)
    assert numbers_of(held_out) != numbers_of(select("held-out", 0.2, seed=1))
    assert Counter(select("held-out", 0.01).labels.tolist()) == dict.fromkeys(range(4), 1), "at least one of each"
    # The smallest class has eight exemplars: one is left to learn from.
    assert Counter(select("held-out", 0.8).labels.tolist()) == {0: 8, 1: 7, 2: 8, 3: 8}
    assert Counter(select("new+memory", 0.8).labels.tolist()) == {0: 2, 1: 1, 2: 22, 3: 32}


def test_new_images_of_an_old_class_and_its_exemplars_are_held_out_together(
    make_examples: Callable[..., Examples], marked_image: Callable[[int], PILImage.Image]
) -> None:
    images = [marked_image(number) for number in range(30)]
    old = make_examples(images[:10], [0] * 9 + [1])
    step = Step(2, ["c"], (2, 3), make_examples(images[10:], [0] * 10 + [2] * 10, range(10, 30)))
    memory: Any = SimpleNamespace(examples=old)
    held_out = select_examples("held-out", step, memory, None, 0, 0.3)  # type: ignore[arg-type]
    assert Counter(held_out.labels.tolist()) == {0: 3, 2: 3}, "the only image of class 1 is learned from"
