"""Which images a phase learns from: the new classes, the memory, a balanced or a held-out part of both, or all."""

import numpy as np

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
            images of each new class, that `held-out` holds and the other data lack; at least one of a class, but not
            the only one that it has.
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
    largest = int(np.bincount((new if old is None else old).labels).max())
    per_class = max(1, round(fraction * largest))
    # Of all images of a class at once: new images may be of old classes, too.
    together = new if old is None else concatenate([new, old])
    drawn = []
    for label, count in zip(*np.unique(together.labels, return_counts=True), strict=True):
        # One image at least is left to learn from.
        drawn.append(_draw(together, label, min(per_class, count - 1), draws))
    kept = np.isin(np.arange(len(together)), np.concatenate(drawn)) == only
    of_new, of_old = np.flatnonzero(kept[: len(new)]), np.flatnonzero(kept[len(new) :])
    return new.select(of_new), None if old is None else old.select(of_old)


def _draw(examples: Examples, label: int, count: int, draws: np.random.Generator) -> np.ndarray:
    positions = np.flatnonzero(examples.labels == label)
    return draws.choice(positions, min(count, len(positions)), replace=False)
