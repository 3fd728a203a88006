"""
Learns the classes of a data set step by step and publishes the model of each step.

    accelerate launch training/incremental.py --config training/recipes/digits.yaml --output_dir outputs/digits

The same command again resumes the run after the last complete step.
"""

import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path


if not __package__:
    # Launched as a file: Python puts this folder first on the path, where its modules would hide installed ones.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from datasets import disable_progress_bars
from transformers.utils import logging

from hub.errors import UserError
from hub.model_card import complete_step_folder
from hub.publish import preflight, publish_step
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from modeling_dytox.image_processing import make_image_processor
from training.arguments import Arguments, parse_arguments
from training.checks import check_images
from training.data import load_splits
from training.errors import InputError
from training.evaluation import Evaluator
from training.examples import Examples, concatenate
from training.logs import RunLog
from training.loop import PhaseTrainer
from training.memory import make_memory
from training.methods import Phase, make_method
from training.results import Results, StepResults
from training.run_folder import RunFolder, publishable, recipe_of
from training.scenario import Step, make_scenario
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
        self.arguments = arguments
        self.accelerator = accelerator
        self.seed = arguments.optimization.seed
        self.method = make_method(arguments)
        self.scenario = make_scenario(load_splits(arguments.data), arguments.data)
        num_classes = len(self.scenario.class_names)
        options = arguments.method
        self.memory = (
            make_memory(options.memory_size, num_classes, options.fixed_memory) if self.method.uses_memory else None
        )
        recipe = recipe_of(arguments, accelerator.num_processes, accelerator.mixed_precision)
        self.folder = RunFolder(Path(arguments.output.output_dir), recipe)
        self.num_published = 0
        self.processor = make_image_processor(arguments.model.image_size)
        self.log = RunLog(accelerator, self.folder.path)
        num_steps = len(self.scenario.steps)
        self.trainer = PhaseTrainer(accelerator, arguments, self.method, self.processor, self.log, num_steps)
        self.evaluator = Evaluator(
            accelerator,
            self.processor,
            arguments.optimization.per_device_eval_batch_size,
            arguments.optimization.num_workers,
        )

    def run(self) -> None:
        """Learns every step that is not complete yet; saves and publishes each as it is."""
        self.prepare()
        model, results = self.resume()
        for step in self.scenario.steps[len(results.steps) :]:
            started = time.perf_counter()
            model = self.learn(model, step)
            measured = self.evaluate(model, step, time.perf_counter() - started)
            results.steps.append(measured)
            self.log.write(asdict(measured))
            self.save(model, step, results)
            self.accelerator.print(f"\n{results.table()}\n")
            self.publish(step.number)

    def prepare(self) -> None:
        """
        Checks what only a look at the folder, the Hub and the images can tell, before anything is trained.

        Raises:
            InputError: the folder holds another run, or an image cannot be read.
            UserError: the Hub refuses.
        """
        output = self.arguments.output
        is_main = self.accelerator.is_main_process
        if is_main and output.push_to_hub and output.hub_model_id:
            preflight(output.hub_model_id, private=output.hub_private_repo)
        check_images(self.scenario, self.accelerator)
        if is_main:
            self.folder.open(overwrite=output.overwrite_output_dir)
        self.accelerator.wait_for_everyone()
        config = {name: str(value) for name, value in publishable(self.folder.recipe).items()}
        self.accelerator.init_trackers("dytox", config=config)

    def resume(self) -> tuple[DyToxForImageClassification | None, Results]:
        """The model, memory and results after the last complete step, or nothing learned yet."""
        last = self.folder.last_step()
        self.log.resume_after(last)
        if last == 0:
            return None, Results(
                dataset=publishable(self.folder.recipe)["dataset_name"],
                num_steps=len(self.scenario.steps),
                class_order=self.scenario.class_names,
                seed=self.seed,
                method=self.method.name,
            )
        self.accelerator.print(f"{self.folder.path} holds {last} of {len(self.scenario.steps)} steps.")
        if self.memory is not None:
            self.memory.load(self.folder.memory_file(last))
        model = self.folder.load_model(last, self.arguments.model.attn_implementation)
        model.to(self.accelerator.device)
        results = self.folder.results_after(last)
        if self.accelerator.is_main_process:
            self.folder.save_results(results)
        self.accelerator.print(f"\n{results.table()}\n")
        self.publish(last)
        return model, results

    def learn(self, model: DyToxForImageClassification | None, step: Step) -> DyToxForImageClassification:
        """Grows the model by a step, trains its phases and renews the memory."""
        seed_everything(self.seed, step.number, "grow")
        model = self.first_model(step) if model is None else self.method.grow(model, step)
        phases = self.method.phases(step)
        self.train(model, step, [phase for phase in phases if not phase.after_memory_update])
        if self.memory is not None:
            features = self.evaluator.features(model, step.train, self.method.herding_embedding)
            # Chosen once: whatever rounding differs between processes, the memory is one.
            (chosen,) = broadcast_object_list([self.memory.choose(step, features)])
            self.memory.update(step, chosen)
        self.train(model, step, [phase for phase in phases if phase.after_memory_update])
        self.method.after_step(model, step)
        return model

    def first_model(self, step: Step) -> DyToxForImageClassification:
        """A new model that knows the classes of the first step."""
        sizes = self.arguments.model
        config = DyToxConfig(
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            hidden_size=sizes.hidden_size,
            num_hidden_layers=sizes.num_hidden_layers,
            num_task_attention_layers=sizes.num_task_attention_layers,
            num_attention_heads=sizes.num_attention_heads,
            intermediate_size=sizes.intermediate_size or 4 * sizes.hidden_size,
            drop_path_rate=sizes.drop_path_rate,
            encoder_attention=sizes.encoder_attention,
            class_ranges=[list(step.class_range)],
            id2label=dict(enumerate(step.class_names)),
            label2id={name: label for label, name in enumerate(step.class_names)},
        )
        model = DyToxForImageClassification(config)
        model.set_attn_implementation(sizes.attn_implementation)
        return model

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
        evaluation = self.evaluator.evaluate(model, self.scenario.seen_test(step))
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
        """Writes the memory and then the step folder, whose appearance completes the step."""
        if self.accelerator.is_main_process:
            if self.memory is not None:
                self.memory.save(self.folder.memory_file(step.number), self.scenario.class_names)
            hub_model_id = self.arguments.output.hub_model_id
            self.folder.save_step(
                step.number,
                model,
                self.processor,
                results,
                finish=lambda folder: complete_step_folder(folder, hub_model_id),
            )
        self.accelerator.wait_for_everyone()

    def publish(self, last_step: int) -> None:
        """Publishes the steps that are not yet, in order; a failure is reported and never stops the training."""
        output = self.arguments.output
        if not output.push_to_hub or not self.accelerator.is_main_process or output.hub_model_id is None:
            return
        for step in range(self.num_published + 1, last_step + 1):
            try:
                published = publish_step(
                    self.folder.step_folder(step),
                    output.hub_model_id,
                    private=output.hub_private_repo,
                    overwrite_revisions=output.overwrite_revisions,
                )
            except UserError as error:
                logger.warning(
                    f"Step {step} is not published: {error}. Training goes on; the next step tries again, or: "
                    f"python -m hub.publish {self.folder.path} --hub_model_id {output.hub_model_id}"
                )
                return
            self.num_published = step
            self.accelerator.print(f"Step {step} is {output.hub_model_id} at revision {published.tag}.")


def make_accelerator(arguments: Arguments) -> Accelerator:
    """Processes, device, precision and tracker of the run."""
    trackers = None if arguments.output.report_to == "none" else arguments.output.report_to
    # Processes wait for the one that publishes, however slow the Hub is.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))
    return Accelerator(
        log_with=trackers,
        project_dir=arguments.output.output_dir,
        mixed_precision=arguments.optimization.mixed_precision,
        kwargs_handlers=[patience],
    )


def main() -> None:
    """Runs the script; bad input ends it with one line and exit status 2."""
    disable_progress_bars()
    logging.disable_progress_bar()
    try:
        arguments = parse_arguments()
        accelerator = make_accelerator(arguments)
        IncrementalRun(arguments, accelerator).run()
        accelerator.end_training()
    except (InputError, UserError, FloatingPointError) as error:
        # An error of a worker process comes with the worker's traceback: its last line is the error.
        message = str(error).splitlines()[-1].removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")
        sys.stderr.write(f"error: {message}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
