"""Which images a phase learns from: the new classes, the memory, a balanced or a held-out part of both, or all."""

import numpy as np

from hub.run.errors import InputError
from training.data.examples import Examples, concatenate
from training.data.memory import RehearsalMemory
from training.data.scenario import Scenario, Step
from training.methods import PhaseData
from training.seeding import derive_seed


def select_examples(
    data: PhaseData,
    step: Step,
    memory: RehearsalMemory | None,
    scenario: Scenario,
    seed: int,
    held_out: float = 0.0,
) -> Examples:
    """
    The images that a phase learns from, the new classes first.

    Args:
        data (`PhaseData`): which images.
        step (`Step`): the step that is learned.
        memory (`RehearsalMemory`, *optional*): as it is when the phase begins.
        scenario (`Scenario`): all steps of the run.
        seed (`int`): of the run; decides which images of the new classes a balanced or held-out part has.
        held_out (`float`, *optional*, defaults to 0): fraction of the exemplars of each known class, and as many
            images of each new class, that `held-out` holds and the other data lack; at least one of a class.

    Raises:
        InputError: so much is held out that a class has no image left.
    """
    if data == "all":
        return scenario.seen_train(step)
    new, exemplars = step.train, None if memory is None else memory.examples
    if data == "memory" and not held_out:
        return concatenate([] if exemplars is None else [exemplars])
    # Once the memory is updated, its exemplars of the new classes are among their images.
    old = None if exemplars is None or not step.num_old_classes else exemplars.of_classes(0, step.num_old_classes)
    draws = np.random.default_rng(derive_seed(seed, step.number, "selection"))
    if held_out:
        new, old = _without_or_only(new, old, held_out, draws, only=data == "held-out")
    parts = [*([] if data == "memory" else [new]), *([] if data == "new" or old is None else [old])]
    chosen = concatenate(parts)
    return _balanced(chosen, draws) if data == "balanced" else chosen


def _balanced(examples: Examples, draws: np.random.Generator) -> Examples:
    """As many images of each class as the smallest class has, drawn at random; in their order."""
    labels, counts = np.unique(examples.labels, return_counts=True)
    kept = [_draw(examples, label, int(counts.min()), draws) for label in labels]
    return examples.select(np.sort(np.concatenate(kept)))


def _without_or_only(
    new: Examples, old: Examples | None, fraction: float, draws: np.random.Generator, only: bool
) -> tuple[Examples, Examples | None]:
    """New images and exemplars without, or only, those that are held out."""
    per_class = max(1, round(fraction * _largest_class(new if old is None else old)))
    old_part = None if old is None else _without_or_only_drawn(old, per_class, draws, only)
    return _without_or_only_drawn(new, per_class, draws, only), old_part


def _without_or_only_drawn(part: Examples, per_class: int, draws: np.random.Generator, only: bool) -> Examples:
    labels = np.unique(part.labels)
    drawn = np.concatenate([_draw(part, label, per_class, draws) for label in labels])
    held_out = np.isin(np.arange(len(part)), drawn)
    left = part.select(np.flatnonzero(~held_out))
    if len(np.unique(left.labels)) < len(labels):
        raise InputError(
            f"{per_class} image(s) of each class are held out, and some classes have no more: give more images or a "
            "larger --memory_size."
        )
    return part.select(np.flatnonzero(held_out)) if only else left


def _draw(examples: Examples, label: int, count: int, draws: np.random.Generator) -> np.ndarray:
    positions = np.flatnonzero(examples.labels == label)
    return draws.choice(positions, min(count, len(positions)), replace=False)


def _largest_class(examples: Examples) -> int:
    return int(np.bincount(examples.labels).max())
