"""
Learns the classes of a data set step by step and publishes the model of each step.

    accelerate launch training/incremental.py --config training/recipes/digits.yaml --output_dir outputs/digits

The same command again goes on after the last epoch that was completed.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path


if not __package__:
    # Launched as a file: Python puts this folder first on the path, where its modules would hide installed ones.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import disable_progress_bars
from transformers.utils import logging

from hub.cards.model_card import complete_step_folder
from hub.publishing.background import BackgroundPublisher, is_publishing
from hub.publishing.client_errors import quiet_client
from hub.publishing.destination import Destination
from hub.run.atomic import disk_errors_named
from hub.run.errors import InputError, UserError, last_message
from modeling_dytox import DyToxForImageClassification
from modeling_dytox.image_processing import make_image_processor
from training.arguments import Arguments, parse_arguments
from training.data.examples import Examples, concatenate
from training.data.loading import Augmented, Prepare, Processed
from training.data.memory import make_memory
from training.data.scenario import KnownClasses, Step, make_scenario
from training.data.splits import load_splits
from training.loop.checkpointing import Checkpoints, TrainingState
from training.loop.evaluation import Evaluator
from training.loop.interruption import Interrupted, interruptible
from training.loop.logs import RunLog, token_distances
from training.loop.malloc import keep_freed_memory
from training.loop.phase import PhaseTrainer
from training.loop.processes import check_agreement, make_accelerator, on_main_process
from training.methods import Phase, make_method
from training.run.checks import check_disk, check_images, check_no_memory_asked_for, check_precision, check_shared
from training.run.continuation import load_continuation
from training.run.model import make_model
from training.run.results import Results, StepResults
from training.run.run_folder import RunFolder, publishable, recipe_of
from training.seeding import seed_everything


logger = logging.get_logger(__name__)


class IncrementalRun:
    """
    A run over all steps of a scenario: Algorithm 1 of the paper, with memory, evaluation and publishing around it.

    Args:
        arguments (`Arguments`): the options.
        accelerator (`Accelerator`): processes, device and precision.

    Raises:
        InputError: something in the options or the data cannot be used.
    """

    def __init__(self, arguments: Arguments, accelerator: Accelerator) -> None:
        self.continuation = load_continuation(arguments)
        if self.continuation is not None:
            arguments = self.continuation.architecture_in(arguments)
        self.arguments = arguments
        self.accelerator = accelerator
        check_precision(arguments, accelerator)
        self.seed = arguments.optimization.seed
        self.method = make_method(arguments)
        known = self.continuation.known if self.continuation else KnownClasses()
        self.scenario = make_scenario(load_splits(arguments.data), arguments.data, known)
        num_classes = len(self.scenario.class_names)
        options = arguments.method
        if not self.method.uses_memory:
            check_no_memory_asked_for(arguments)
        self.memory = (
            make_memory(options.memory_size, num_classes, options.fixed_memory) if self.method.uses_memory else None
        )
        recipe = recipe_of(arguments, accelerator.num_processes, accelerator.mixed_precision)
        self.folder = RunFolder(Path(arguments.output.output_dir), recipe, known.num_steps)
        self.publisher = self.make_publisher()
        image_size = arguments.model.image_size
        self.processor = self.continuation.processor if self.continuation else make_image_processor(image_size)
        self.log = RunLog(accelerator, self.folder.path)
        self.checkpoints = Checkpoints(self.folder.checkpoints)
        self.trainer = PhaseTrainer(
            accelerator, arguments, self.method, self.processor, self.log, self.checkpoints, self.scenario.num_steps
        )
        self.evaluator = Evaluator(
            accelerator,
            self.processor,
            arguments.optimization.per_device_eval_batch_size,
            arguments.optimization.num_workers,
        )

    def run(self) -> None:
        """Learns every step that is not complete yet; saves and publishes each as it is."""
        try:
            self.prepare()
            self.learn_steps(*self.resume())
            self.publisher.finish()
        except BaseException:
            self.publisher.abandon()
            raise
        finally:
            self.folder.close()

    def learn_steps(self, model: DyToxForImageClassification | None, results: Results) -> None:
        """Learns, measures, saves and publishes the steps after those in `results`."""
        steps = [step for step in self.scenario.steps if step.number > len(results.steps)]
        if steps:
            self.trainer.state = self.resume_within(steps[0])
        for step in steps:
            self.trainer.start_step()
            model = self.learn(model, step)
            measured = self.evaluate(model, step, self.trainer.stopwatch.seconds)
            results.steps.append(measured)
            self.log.write(asdict(measured) | token_distances(model))
            self.save(model, step, results)
            self.accelerator.print(f"\n{results.table()}\n")
            self.publish(step.number)
        # Those of the last step, should the run have been killed right after it was complete.
        on_main_process(self.accelerator, self.checkpoints.clear)

    def prepare(self) -> None:
        """
        Checks what only a look at the folder, the disk, the Hub and the images can tell, before anything is trained.

        Raises:
            InputError: the Hub refuses, an image cannot be read, the disk is too small, there is no memory to
                continue with, or the folder holds another run.
        """
        output = self.arguments.output
        on_main_process(self.accelerator, self.check_folder)
        fingerprint = self.take_up_memory()
        on_main_process(self.accelerator, self.check_hub)
        fingerprint |= check_images(self.scenario, self.accelerator)
        on_main_process(self.accelerator, lambda: self.folder.open(fingerprint, overwrite=output.overwrite_output_dir))
        check_shared(self.folder.path, self.accelerator)
        config = {name: str(value) for name, value in publishable(self.folder.recipe).items()}
        self.accelerator.init_trackers("dytox", config=config)

    @property
    def is_anew(self) -> bool:
        """Whether no step of the run is complete, or none will be once the folder is cleared."""
        return self.arguments.output.overwrite_output_dir or self.folder.last_step() == self.scenario.known.num_steps

    def check_folder(self) -> None:
        """Looks whether the folder holds another run, and whether what is still to be learned has room there."""
        overwrite = self.arguments.output.overwrite_output_dir
        if not overwrite:
            self.folder.check_recipe()
        last_step = self.scenario.known.num_steps if self.is_anew else self.folder.last_step()
        memory_size = self.arguments.method.memory_size if self.method.uses_memory else 0
        released = self.folder.path if overwrite else self.folder.checkpoints
        check_disk(self.folder.path, self.scenario, self.arguments, last_step, memory_size, released)

    def take_up_memory(self) -> dict[str, str]:
        """The memory of the published step that is continued, as long as the run has none; returns its fingerprint."""
        if self.continuation is None or self.memory is None or not self.is_anew:
            return {}
        fingerprint = self.continuation.load_memory(self.memory)
        check_agreement(self.accelerator, fingerprint, "rehearsal memories")
        return {"memory": fingerprint}

    def make_publisher(self) -> BackgroundPublisher:
        """What publishes the run, if it is to be."""
        output = self.arguments.output
        destination = None
        if output.push_to_hub and output.hub_model_id is not None:
            destination = Destination(
                output.hub_model_id,
                private=output.hub_private_repo,
                push_memory=output.push_memory,
                overwrite_revisions=output.overwrite_revisions,
            )
        if not self.accelerator.is_main_process:
            destination = None
        return BackgroundPublisher(destination, self.folder.path, say=self.accelerator.print, warn=logger.warning)

    def check_hub(self) -> None:
        """Asks the Hub, if it will be needed, whether it would take what this run publishes."""
        overwrite = self.arguments.output.overwrite_output_dir
        earlier = [asdict(step) for step in self.continuation.results.steps] if self.continuation else None
        try:
            self.publisher.start(
                is_new=overwrite,
                has_begun=not overwrite and self.folder.is_run,
                first_own_step=self.scenario.known.num_steps + 1,
                earlier_steps=earlier,
            )
        except UserError as error:
            raise InputError(str(error)) from error

    def resume(self) -> tuple[DyToxForImageClassification | None, Results]:
        """The model, memory and results after the last complete step, or nothing learned yet."""
        last = self.folder.last_step()
        check_agreement(self.accelerator, last, "complete steps")
        if last == self.scenario.known.num_steps:
            return self.start()
        self.accelerator.print(f"{self.folder.path} holds {last} of {self.scenario.num_steps} steps.")
        if self.memory is not None:
            self.memory.load(self.folder.memory_file(last))
        model = self.folder.load_model(last, self.arguments.model.attn_implementation)
        model.to(self.accelerator.device)
        results = self.folder.results_after(last)
        on_main_process(self.accelerator, lambda: self.folder.save_results(results))
        self.accelerator.print(f"\n{results.table()}\n")
        for step in range(self.scenario.known.num_steps + 1, last + 1):
            self.publish(step)
        return model, results

    def start(self) -> tuple[DyToxForImageClassification | None, Results]:
        """Nothing learned yet; or the model, memory and results of the published step that is continued."""
        results = Results(
            dataset=publishable(self.folder.recipe)["dataset_name"],
            num_steps=self.scenario.num_steps,
            class_order=self.scenario.class_names,
            seed=self.seed,
            method=self.method.name,
        )
        if self.continuation is None:
            return None, results
        results.steps.extend(self.continuation.results.steps)
        results.ancestors.extend(self.continuation.ancestors())
        self.accelerator.print(f"Continues {self.continuation.source} after step {len(results.steps)}.")
        return self.continuation.model.to(self.accelerator.device), results

    def resume_within(self, step: Step) -> TrainingState | None:
        """The state within a step that the run goes on from, if there is one; the log goes on where it was saved."""
        state = self.state_within(step)
        check_agreement(self.accelerator, state and tuple(state.position), "states")
        if state is None:
            self.log.resume_after_step(step.number - 1)
            return None
        self.log.resume_after_record(state.num_log_records)
        phase = self.method.phases(step)[state.position.phase]
        self.accelerator.print(
            f"Step {step.number} goes on after {phase.name}, epoch {state.position.epoch} of {phase.epochs}."
        )
        return state

    def state_within(self, step: Step) -> TrainingState | None:
        """The newest state within a step that can be used; its memory, if the step renewed it by then, is taken up."""
        for state in self.checkpoints.newest_first(step.number):
            phase = self.method.phases(step)[state.position.phase]
            try:
                if self.memory is not None and phase.after_memory_update:
                    self.memory.load(self.folder.memory_file(step.number))
            except InputError as error:
                logger.warning(f"{error} The run goes back to a state that does not need it.")
                continue
            return state
        return None

    def learn(self, model: DyToxForImageClassification | None, step: Step) -> DyToxForImageClassification:
        """Grows the model by a step, trains its phases and renews the memory."""
        seed_everything(self.seed, step.number, "grow")
        model = make_model(self.arguments, step) if model is None else self.method.grow(model, step)
        phases = self.method.phases(step)
        self.train(model, step, [phase for phase in phases if not phase.after_memory_update])
        self.renew_memory(model, step)
        self.train(model, step, [phase for phase in phases if phase.after_memory_update])
        self.method.after_step(model, step)
        return model

    def renew_memory(self, model: DyToxForImageClassification, step: Step) -> None:
        """Herds exemplars of the new classes, cuts the old ones to their new share, and saves the memory."""
        if self.memory is None or self.trainer.state is not None:
            # Or the state to go on from lies after this, and its memory was taken up with it.
            return
        options = self.arguments
        prepare: Prepare = Processed(self.processor)
        if options.method.augmented_herding:
            prepare = Augmented(self.processor, self.trainer.transform, self.seed, step.number, "herding")
        features = self.evaluator.features(model, step.train, self.method.herding_embedding, prepare)
        # Chosen once: whatever rounding differs between processes, the memory is one.
        (chosen,) = broadcast_object_list([self.memory.choose(step, features)])
        self.memory.update(step, chosen)
        on_main_process(self.accelerator, lambda: self.save_memory(step))

    def save_memory(self, step: Step) -> None:
        """Writes the exemplars after a step."""
        if self.memory is not None:
            path = self.folder.memory_file(step.number)
            with disk_errors_named(path):
                self.memory.save(path, self.scenario.class_names)

    def train(self, model: DyToxForImageClassification, step: Step, phases: list[Phase]) -> None:
        """Trains the model in place, phase after phase."""
        for phase in phases:
            self.trainer.train(model, step, phase, self.examples_of(phase, step))

    def examples_of(self, phase: Phase, step: Step) -> Examples:
        """The images that a phase learns from."""
        if phase.data == "all":
            return self.scenario.seen_train(step)
        parts = [step.train] if phase.data in ("new", "new+memory") else []
        if phase.data in ("memory", "new+memory") and self.memory is not None and self.memory.examples is not None:
            parts.append(self.memory.examples)
        return concatenate(parts)

    def evaluate(self, model: DyToxForImageClassification, step: Step, train_seconds: float) -> StepResults:
        """Measures the model on the test images of all classes seen."""
        evaluation = self.evaluator.evaluate(
            model, self.scenario.seen_test(step), task_aware=self.arguments.output.task_aware_eval
        )
        return StepResults(
            step=step.number,
            classes=step.class_names,
            num_seen_classes=step.num_seen_classes,
            **asdict(evaluation),
            num_parameters=model.num_parameters(),
            memory_size=0 if self.memory is None else len(self.memory),
            train_seconds=train_seconds,
        )

    def save(self, model: DyToxForImageClassification, step: Step, results: Results) -> None:
        """Writes the step folder, whose appearance completes the step; states within the step are then of no use."""

        def save() -> None:
            hub_model_id = self.arguments.output.hub_model_id
            self.folder.save_step(
                step.number,
                model,
                self.processor,
                results,
                finish=lambda folder: complete_step_folder(folder, hub_model_id),
            )
            self.checkpoints.clear()

        on_main_process(self.accelerator, save)

    def publish(self, step: int) -> None:
        """Lets a step that is saved be published while training goes on."""
        self.publisher.submit(step)


def main() -> None:
    """
    Runs the script. Bad input ends it with one line and exit status 2, a signal with one line and 128 plus its number.
    """
    disable_progress_bars()
    logging.disable_progress_bar()
    quiet_client()
    try:
        with interruptible():
            arguments = parse_arguments()
            accelerator = make_accelerator(arguments)
            IncrementalRun(arguments, accelerator).run()
            accelerator.end_training()
    except Interrupted as signal:
        sys.stderr.write(f"stopped by {signal}: the same command goes on after the last epoch that was completed.\n")
        exit_now(signal.exit_status)
    except (InputError, UserError, FloatingPointError) as error:
        sys.stderr.write(f"error: {last_message(error)}\n")
        exit_now(2)


def exit_now(status: int) -> None:
    """Ends the script, and does not wait for what is on its way to the Hub: it can be sent again."""
    if is_publishing():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    keep_freed_memory()
    main()
