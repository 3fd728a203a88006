"""The plan of a run, for `--dry_run`: what each step learns from, and about how long it takes."""

import numpy as np

from hub.run.text import duration
from training.data.scenario import Step
from training.loop.context import StepContext
from training.methods import Phase
from training.run.checks import check_images
from training.run.setup import Setup, describe


def plan(setup: Setup, first: StepContext, disk: str) -> list[str]:
    """
    The plan in lines. Images are read as before a run, and a few updates of the first step are timed.

    Args:
        setup (`Setup`): the run.
        first (`StepContext`): its first step, with the model that learns it; the model is changed.
        disk (`str`): what it needs, in words, see [`check_folder`].

    Raises:
        UserError: the run would be refused.
    """
    lines = describe(setup)
    check_images(setup.scenario, setup.accelerator)
    seconds = _seconds_per_update(setup, first)
    steps = [_step_line(setup, step, seconds) for step in setup.scenario.steps]
    return [
        *lines,
        *steps,
        *_notes_on_time(setup, seconds, first.step),
        f"Disk: {disk}.",
        "Nothing was written; the Hub was not asked. Without --dry_run the run begins.",
    ]


def _seconds_per_update(setup: Setup, first: StepContext) -> float | None:
    """Of the first phase; None where the method has none."""
    phases = setup.method.phases(first.step)
    if not phases:
        return None
    examples = setup.method.examples(first, phases[0])
    return setup.trainer.seconds_per_update(first.model, first.step, phases[0], examples)


def _notes_on_time(setup: Setup, seconds_per_update: float | None, step: Step) -> list[str]:
    if seconds_per_update is None:
        return ["No updates: the encoder sees each image once, and the weights are solved for."]
    time = (
        f"{seconds_per_update:.2g} s an update: the mean of ten updates of step {step.number} on this machine. Later "
        "steps take longer where the model grows or has a teacher; evaluation is not counted."
    )
    # The features of a run are not computed for a plan.
    faster = "These updates ran the frozen encoder; the run keeps what it makes of each image, and is faster by that."
    return [time, faster] if setup.arguments.encoder.cached_views else [time]


def _step_line(setup: Setup, step: Step, seconds_per_update: float | None) -> str:
    updates = sum(
        setup.trainer.num_updates(_num_images(setup, step, phase), phase) for phase in setup.method.phases(step)
    )
    classes = len(step.class_names)
    exemplars = _num_exemplars(setup, step.num_old_classes)
    test = len(setup.scenario.seen_test(step))
    time = "" if seconds_per_update is None else f", about {duration(updates * seconds_per_update)}"
    return (
        f"Step {step.number}: {classes} class(es), {len(step.train):,} new images and {exemplars:,} exemplars to "
        f"learn from, {test:,} to test on; {updates:,} updates{time}"
    )


def _num_images(setup: Setup, step: Step, phase: Phase) -> int:
    """About how many images a phase learns from."""
    old = _num_exemplars(setup, step.num_old_classes)
    seen = _num_exemplars(setup, step.num_seen_classes)
    smallest = int(np.bincount(step.train.labels)[step.num_old_classes :].min())
    if old:
        smallest = min(smallest, old // step.num_old_classes)
    counts = {
        "new": len(step.train),
        "memory": seen if phase.after_memory_update else old,
        "new+memory": len(step.train) + old,
        "balanced": min(smallest * step.num_seen_classes, len(step.train) + old),
        "held-out": round(phase.held_out * (len(step.train) + old)),
        "all": len(setup.scenario.seen_train(step)),
    }
    return max(1, counts[phase.data])


def _num_exemplars(setup: Setup, num_classes: int) -> int:
    """The most exemplars that are kept of the first classes."""
    if setup.memory is None or not num_classes:
        return 0
    quota = setup.memory.quota(num_classes)
    counts = np.bincount(setup.scenario.train.labels, minlength=num_classes)[:num_classes]
    # The images of classes that a continued model knows are not here.
    known = len(setup.scenario.known.names)
    return int(np.minimum(counts[known:], quota).sum()) + quota * min(known, num_classes)
