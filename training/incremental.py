"""
Learns the classes of a data set step by step and publishes the model of each step.

    accelerate launch -q training/incremental.py --config training/recipes/digits.yaml --output_dir outputs/digits

The same command again resumes after the last epoch that was completed.
"""

import gc
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any


if not __package__:
    # Launched as a file: Python puts this folder first on the path, where its modules would hide installed ones.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training.parsing import parse_options, parse_or_exit


# Before torch is imported, which takes seconds: help and errors in options come at once.
ARGUMENTS = parse_or_exit() if __name__ == "__main__" else None

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import disable_progress_bars
from transformers.utils import logging

from hub.cards.model_card import add_card_and_figures
from hub.publishing.background import BackgroundPublisher, is_publishing
from hub.publishing.client_errors import quiet_client
from hub.publishing.destination import Destination
from hub.run.confusion import Confusion
from hub.run.errors import UserError, last_message
from hub.run.results import RunResults, StepResults
from modeling_dytox import IncrementalModel
from training.arguments import Arguments
from training.data.loading import EvalTransform, Preprocess, TrainTransform
from training.data.scenario import Step
from training.loop.context import StepContext
from training.loop.disk import disk_errors_named
from training.loop.interruption import Interrupted, interruptible
from training.loop.logs import Stopwatch
from training.loop.malloc import keep_freed_pages
from training.loop.processes import make_accelerator, on_main_process
from training.run.plan import plan
from training.run.results import add_step, table
from training.run.resume import Progress, WithinStep, resume
from training.run.setup import Setup, check_folder, load_known_exemplars, prepare, set_up
from training.seeding import seed_everything


logger = logging.get_logger(__name__)


def learn_classes(**options: Any) -> Path:
    """
    What the command does, from Python: learns classes, in a new model or on top of a published one.

    Args:
        **options: those of the command line, by name, such as `dataset_name="photos"`.

    Returns:
        `Path`: the folder of the last step; with `dry_run` where it would be.

    Raises:
        UserError: something in the options, the data, the folder or the Hub cannot be used.

    Example:

    ```python
    >>> from training.incremental import learn_classes
    >>> learn_classes(model_name_or_path="org/name", model_revision="step5", dataset_name="photos")
    PosixPath('outputs/step6')
    ```
    """
    return run_to_its_end(parse_options(options))


def run_to_its_end(arguments: Arguments) -> Path:
    """Runs without the progress bars of libraries, and closes the trackers; see [`run`]."""
    disable_progress_bars()
    logging.disable_progress_bar()
    quiet_client()
    accelerator = make_accelerator(arguments)
    last_step = run(arguments, accelerator)
    accelerator.end_training()
    return last_step


def run(arguments: Arguments, accelerator: Accelerator) -> Path:
    """
    Learns every step that is not finished yet; saves and publishes each.

    Args:
        arguments (`Arguments`): the options of the run.
        accelerator (`Accelerator`): processes, device and precision.

    Returns:
        `Path`: the folder of the last step; with `--dry_run` where it would be.

    Raises:
        UserError: something in the options, the data, the folder or the Hub cannot be used.
    """
    setup = set_up(arguments, accelerator)
    last_step = setup.folder.step_folder(setup.scenario.num_steps)
    if arguments.output.dry_run:
        show_plan(setup)
        return last_step
    try:
        with make_publisher(setup) as publisher:
            setup = prepare(setup, lambda: check_hub(setup, publisher))
            progress = resume(setup)
            show_finished(setup, progress, publisher)
            learn(setup, progress, publisher)
    finally:
        setup.folder.close()
    return last_step


def show_plan(setup: Setup) -> None:
    """Prints what the run would do."""
    disk = check_folder(setup)
    load_known_exemplars(setup)
    model = setup.continuation.model.to(setup.accelerator.device) if setup.continuation else None
    first = begin_step(setup, setup.scenario.steps[0], model, None)
    first.model.to(setup.accelerator.device)
    setup.accelerator.print("\n".join(plan(setup, first, disk)))


def learn(setup: Setup, progress: Progress, publisher: BackgroundPublisher) -> None:
    """Algorithm 1 of the paper over all steps, with rehearsal memory, evaluation and publishing around it."""
    model, results, within = progress.model, progress.results, progress.within
    method = setup.method
    # Kept in `progress`, an old model and a saved state would stay in memory for the rest of the run.
    progress.model = progress.within = None
    for step in setup.scenario.steps_after(len(results.steps)):
        stopwatch = Stopwatch(within.state.train_seconds if within else 0.0)
        context = begin_step(setup, step, model, within)
        model = context.model

        memory_is_updated = within is not None and within.memory_is_updated
        for phase in method.phases(step):
            if phase.after_memory_update and not memory_is_updated:
                update_memory(setup, context)
                memory_is_updated = True
            if within is None or phase == within.phase:
                examples = method.examples(context, phase)
                setup.trainer.train(model, step, phase, examples, stopwatch, within.state if within else None)
                within = None
                seed_everything(setup.seed, step.number, "after", phase.name)
                method.after_phase(context, phase)
        if not memory_is_updated:
            update_memory(setup, context)
        method.after_step(context)

        measured, confusion = evaluate(setup, context, stopwatch)
        results = add_step(results, measured)
        setup.log.write(asdict(results.last))
        save(setup, model, step, results, confusion)
        setup.accelerator.print(f"\n{table(results)}\n")
        publisher.submit(step.number)
    # A run that was killed right after its last step was finished still holds the states of this step.
    on_main_process(setup.accelerator, setup.checkpoints.clear)


def begin_step(setup: Setup, step: Step, model: IncrementalModel | None, within: WithinStep | None) -> StepContext:
    """A step with its model: as it was saved within the step, new, or that of the step before, grown."""
    method = setup.method
    seed_everything(setup.seed, step.number, "grow")
    if model is None:
        context = setup.context(step, within.model if within else method.build(step))
    else:
        context = setup.context(step, model)
        method.before_growth(context)
        context.model = within.model if within else method.grow(context)
    if within is not None:
        method.load_state(within.state.method_tensors, context.model)
    return context


def update_memory(setup: Setup, context: StepContext) -> None:
    """Herds exemplars of the new classes, cuts old classes to their new share, and saves the memory."""
    memory, step, model = context.memory, context.step, context.model
    if memory is None:
        return
    prepare_images: Preprocess = EvalTransform(setup.processor)
    if setup.arguments.memory.augmented_herding:
        prepare_images = TrainTransform(setup.processor, setup.trainer.transform, setup.seed, step.number, "herding")
    features = setup.evaluator.features(model, step.train, setup.method.embed, prepare_images)
    # The main process decides: rounding may differ between processes, but there is one memory.
    (chosen,) = broadcast_object_list([memory.choose(step, features)])
    memory.update(step, chosen)

    def save_memory() -> None:
        path = setup.folder.memory_file(step.number)
        with disk_errors_named(path):
            memory.save(path, model.config.class_names)

    on_main_process(setup.accelerator, save_memory)
    setup.method.after_memory(context)


def evaluate(setup: Setup, context: StepContext, stopwatch: Stopwatch) -> tuple[StepResults, Confusion]:
    """Measures the model on the test images of all classes seen."""
    train_seconds = stopwatch.seconds
    step, model, memory = context.step, context.model, context.memory
    test = setup.scenario.seen_test(step)
    predictions = setup.evaluator.predict(model, test)
    evaluation = predictions.evaluation(task_aware=setup.arguments.output.task_aware_eval)
    measured = evaluation.step_results(
        model.config.class_names,
        step=step.number,
        classes=tuple(step.class_names),
        num_seen_classes=step.num_seen_classes,
        num_parameters=model.num_parameters(),
        memory_size=0 if memory is None else len(memory),
        train_seconds=train_seconds,
    )
    return measured, predictions.confusion()


def save(setup: Setup, model: IncrementalModel, step: Step, results: RunResults, confusion: Confusion) -> None:
    """Writes the step folder, which marks the step finished, and deletes its checkpoints."""
    output = setup.arguments.output
    if output.license is not None:
        model.config.license = output.license

    def write() -> None:
        hub_model_id = output.hub_model_id
        setup.folder.save_step(
            step.number,
            model,
            setup.processor,
            results,
            finish=lambda folder: add_card_and_figures(folder, hub_model_id),
            confusion=confusion,
            statistics=setup.method.statistics(),
        )
        setup.checkpoints.clear()

    on_main_process(setup.accelerator, write)


def show_finished(setup: Setup, progress: Progress, publisher: BackgroundPublisher) -> None:
    """Prints the results of the steps that are finished, and submits these steps: some may not be published yet."""
    own = [step.step for step in progress.results.steps if step.step > setup.num_known_steps]
    if own:
        setup.accelerator.print(f"\n{table(progress.results)}\n")
    for step in own:
        publisher.submit(step)


def make_publisher(setup: Setup) -> BackgroundPublisher:
    """A publisher of the finished steps on the main process; without `--push_to_hub` it does nothing."""
    output = setup.arguments.output
    destination = None
    if output.push_to_hub and output.hub_model_id is not None:
        # On every process, as it checks the name.
        destination = Destination(
            output.hub_model_id,
            private=output.hub_private_repo,
            push_memory=output.push_memory,
            overwrite_revisions=output.overwrite_revisions,
        )
    if not setup.accelerator.is_main_process:
        destination = None
    return BackgroundPublisher(destination, setup.folder.path, say=setup.accelerator.print, warn=logger.warning)


def check_hub(setup: Setup, publisher: BackgroundPublisher) -> None:
    """Asks the Hub whether it would accept the run, if the run is to be published."""
    overwrite = setup.arguments.output.overwrite_output_dir
    earlier = setup.continuation.results.steps if setup.continuation else ()
    publisher.start(
        is_new=overwrite,
        has_begun=not overwrite and setup.folder.is_run,
        first_own_step=setup.num_known_steps + 1,
        earlier_steps=[asdict(step) for step in earlier] or None,
    )


def main(arguments: Arguments | None = None) -> None:
    """
    Runs the script. Bad input ends it with one line and exit status 2; a signal with one line and 128 plus its number.

    Args:
        arguments (`Arguments`, *optional*): the options; read from the command line if they are not given.
    """
    arguments = arguments or parse_or_exit()
    try:
        with interruptible():
            run_to_its_end(arguments)
    except Interrupted as signal:
        sys.stderr.write(f"stopped by {signal}: the same command resumes after the last epoch that was completed.\n")
        exit_now(signal.exit_status)
    except (UserError, FloatingPointError) as error:
        sys.stderr.write(f"error: {last_message(error)}\n")
        exit_now(2)


def exit_now(status: int) -> None:
    """Ends the script without waiting for an upload to the Hub, which can be repeated."""
    if is_publishing():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if ARGUMENTS is not None:
    keep_freed_pages()
    # Each phase ends with a collection of garbage; what was imported is none.
    gc.freeze()
    main(ARGUMENTS)
