"""
Measures a published step again, and compares with what its results.json recorded.

    python -m training.evaluate --model org/name --revision step5 --dataset_name digits
    accelerate launch -q -m training.evaluate --model outputs/digits/step5 --dataset_name digits

Only the test images of the classes that the model knows are used; classes are matched by name. A step of a continued
run that was measured without images of earlier steps can be measured the same way again.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal


if not __package__:
    # Launched as a file: Python puts this folder first on the path, where this module would hide the package
    # `evaluate`.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate import Accelerator
from datasets import disable_progress_bars
from transformers import PreTrainedConfig
from transformers.utils import logging

from hub.run.atomic import write_aside
from hub.run.errors import InputError, last_message
from training.arguments import (
    DataArguments,
    NonNegativeInt,
    OpenFraction,
    OutputArguments,
    PositiveInt,
    check_bounds,
    option,
)
from training.data.augmentation import output_size
from training.data.scenario import select_by_name
from training.data.splits import load_test_split
from training.loop.evaluation import Evaluation, Evaluator
from training.loop.malloc import keep_freed_pages
from training.option_parser import OptionParser
from training.run.checks import check_shared_memory
from training.run.comparison import RecordedStep, agreement, compare, conclusion, to_table
from training.run.model_source import ModelSource


DESCRIPTION = "Measures a published step again on the test images of its classes, and compares with its results.json."


def same_option(name: str, group: Any = DataArguments) -> Any:
    """The option that training has under this name, with its help and default."""
    (original,) = (entry for entry in fields(group) if entry.name == name)
    return option(original.metadata["help"], original.default)


@dataclass
class EvaluationArguments:
    """Which model, and which images."""

    model: str | None = option("Step to evaluate: a step folder, or a repository 'org/name' on the Hub. Required.")
    revision: str | None = option("Revision of the repository, e.g. 'step5'. By default its main branch.")
    dataset_name: str | None = same_option("dataset_name")
    dataset_config_name: str | None = same_option("dataset_config_name")
    test_split: str | None = same_option("test_split")
    holdout: OpenFraction | None = same_option("holdout")
    seed: NonNegativeInt = option("Seed of the run, which decides with --holdout which images are held out.", 0)
    image_column: str | None = same_option("image_column")
    label_column: str | None = same_option("label_column")
    transparency: Literal["refuse", "drop"] = same_option("transparency")
    max_eval_samples_per_class: PositiveInt | None = same_option("max_eval_samples_per_class")
    batch_size: PositiveInt = option("Images of a batch, on each process.", 256)
    num_workers: NonNegativeInt = option("Processes that load images, for each process; 0 loads in the process.", 2)
    task_aware_eval: bool = same_option("task_aware_eval", OutputArguments)
    output_file: str | None = option("JSON file to write the numbers to. By default they are only shown.")

    @property
    def data(self) -> DataArguments:
        """The options of the data set."""
        shared = {entry.name for entry in fields(DataArguments)} & {entry.name for entry in fields(self)}
        return DataArguments(**{name: getattr(self, name) for name in shared})


def parse_arguments(command_line: Sequence[str] | None = None) -> EvaluationArguments:
    """
    Reads the options from the command line.

    Raises:
        InputError: an option is unknown, missing or has a bad value.
    """
    parser = OptionParser([EvaluationArguments], description=DESCRIPTION)
    arguments = EvaluationArguments(**vars(parser.parse_args(command_line)))
    if not arguments.model:
        raise InputError("--model is missing: give a step folder, or a repository 'org/name' on the Hub.")
    if not arguments.dataset_name:
        raise InputError("--dataset_name is missing: give a Hub id, a folder or 'digits'.")
    check_bounds(arguments)
    if arguments.output_file:
        check_output_file(Path(arguments.output_file))
    return arguments


def check_output_file(path: Path) -> None:
    """
    Checks that the file can be written, before anything is measured.

    Raises:
        InputError: its folder does not exist, or it is a folder itself.
    """
    path = path.expanduser().absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(
            f"--output_file {path} is not a file in an existing folder: make the folder, or choose another."
        )


def evaluate(arguments: EvaluationArguments, accelerator: Accelerator) -> None:
    """
    Measures a published step on all processes; the main one reports.

    Raises:
        InputError: the model or the images cannot be used, or the output file cannot be written.
    """
    step = ModelSource(str(arguments.model), arguments.revision)
    model, processor = step.load()
    check_shared_memory(arguments.num_workers, arguments.batch_size, output_size(processor))
    record = RecordedStep.read(step, model.config)
    images, names, notes = load_test_split(arguments.data, arguments.seed)
    limit = arguments.max_eval_samples_per_class
    test = select_by_name(images, names, model.config.class_names, limit, may_lack=record.classes_without_images)
    evaluator = Evaluator(accelerator, processor, arguments.batch_size, arguments.num_workers)
    measured = evaluator.evaluate(model.to(accelerator.device), test, arguments.task_aware_eval)
    if accelerator.is_main_process:
        subject = f"{step}: {describe(model.config, measured)}, {len(test)} test images of {arguments.dataset_name}"
        recorded = record.comparable_with(measured, model.config.step_class_ranges)
        metrics = compare(measured, recorded)
        last_line = f"Nothing to compare with: {record.problem}" if record.problem else conclusion(metrics)
        sys.stdout.writelines(f"{line}\n" for line in notes)
        sys.stdout.write(f"{subject}\n{to_table(metrics)}\n{last_line}\n")
        if arguments.output_file:
            write_numbers(arguments, measured, recorded, agreement(metrics), len(test))


def describe(config: PreTrainedConfig, measured: Evaluation) -> str:
    """What the model knows, and the steps of which there was no image."""
    num_steps = len(config.step_class_ranges)
    lacking = [str(step) for step, value in enumerate(measured.accuracy_per_step, start=1) if value is None]
    known = f"{config.num_labels} classes in {num_steps} step(s)"
    return f"{known}, no image of those of step(s) {', '.join(lacking)}" if lacking else known


def write_numbers(
    arguments: EvaluationArguments,
    measured: Evaluation,
    recorded: Mapping[str, Any],
    agrees: bool | None,
    num_images: int,
) -> None:
    """
    Writes the numbers to the output file, which is replaced as a whole.

    Args:
        arguments (`EvaluationArguments`): the options.
        measured (`Evaluation`): what was measured now.
        recorded (`Mapping[str, Any]`): the recorded numbers to compare with; empty where there are none.
        agrees (`bool`, *optional*): whether they were found again.
        num_images (`int`): test images that were measured.

    Raises:
        InputError: the file cannot be written.
    """
    content = {
        "model": arguments.model,
        "revision": arguments.revision,
        "dataset": arguments.dataset_name,
        "step": len(measured.accuracy_per_step),
        "num_images": num_images,
        "measured": asdict(measured),
        "recorded": {name: recorded.get(name) for name in asdict(measured)} if recorded else None,
        "agrees": agrees,
    }
    path = Path(str(arguments.output_file)).expanduser()
    try:
        write_aside(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"--output_file {path} cannot be written ({error.strerror}): choose another.") from error


def main() -> None:
    """Runs the script; bad input ends it with one line and exit status 2."""
    disable_progress_bars()
    logging.disable_progress_bar()
    try:
        arguments = parse_arguments()
        accelerator = Accelerator()
        evaluate(arguments, accelerator)
        accelerator.end_training()
    except (InputError, FloatingPointError) as error:
        sys.stderr.write(f"error: {last_message(error)}\n")
        sys.exit(2)


if __name__ == "__main__":
    keep_freed_pages()
    main()
