"""
Measures a published step again, and compares with what its results.json recorded.

    python -m training.evaluate --model org/name --revision step5 --dataset_name digits
    accelerate launch -q -m training.evaluate --model outputs/digits/step5 --dataset_name digits

Only the test images of the classes that the model knows are used; classes are matched by name. Where some of the
classes have no images, the accuracy is on the others alone, with all classes competing.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal


if not __package__:
    # Launched as a file: Python puts this folder first on the path, where this module would hide the package
    # `evaluate`.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate import Accelerator
from datasets import disable_progress_bars
from transformers.utils import logging

from hub.run.atomic import write_aside
from hub.run.errors import InputError, first_line, last_message
from hub.run.text import shorten
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
from training.data.examples import Examples
from training.data.scenario import select_by_name
from training.data.splits import load_test_split
from training.loop.evaluation import Evaluation, Evaluator, Predictions
from training.loop.malloc import keep_freed_pages
from training.option_parser import OptionParser
from training.run.checks import check_shared_memory
from training.run.comparison import ComparedMetric, RecordedStep, agreement, compare, conclusion, to_table
from training.run.model_source import ModelSource
from training.run.predictions import FORMATS, file_names, prediction_table, write_table


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
    predictions_file: str | None = option(
        "Parquet or CSV file (.parquet, .csv) to write the predictions to, a row for each test image. Columns: "
        "'file', the name of the image where the data set has one, else its row in the split; 'true' and 'predicted', "
        "names of classes; 'score_NAME' for each class, as the image-classification pipeline shows it. By default "
        "none is written."
    )

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
    check_files(arguments)
    return arguments


def check_files(arguments: EvaluationArguments) -> None:
    """
    Checks that the files to write can be written, before anything is measured.

    Raises:
        InputError: the folder of one does not exist, or it is a folder itself; the predictions are to be written in
            another format than those there are, or into the file of the numbers.
    """
    files = {"output_file": arguments.output_file, "predictions_file": arguments.predictions_file}
    paths = {name: Path(file).expanduser().absolute() for name, file in files.items() if file}
    for name, path in paths.items():
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(
                f"--{name} {path} is not a file in an existing folder: make the folder, or choose another."
            )
    if "predictions_file" in paths and paths["predictions_file"].suffix.lower() not in FORMATS:
        raise InputError(
            f"--predictions_file {arguments.predictions_file} must end in {' or '.join(FORMATS)}: name another file."
        )
    if len(set(paths.values())) < len(paths):
        raise InputError(
            f"--predictions_file {arguments.predictions_file} is the --output_file as well: name another file."
        )


def evaluate(arguments: EvaluationArguments, accelerator: Accelerator) -> None:
    """
    Measures a published step on all processes; the main one reports.

    Raises:
        InputError: the model or the images cannot be used, or a file cannot be written.
    """
    step = ModelSource(str(arguments.model), arguments.revision)
    model, processor = step.load()
    check_shared_memory(arguments.num_workers, arguments.batch_size, output_size(processor))
    record = RecordedStep.read(step, model.config)
    images, names, notes = load_test_split(arguments.data, arguments.seed)
    limit = arguments.max_eval_samples_per_class
    test = select_by_name(images, names, model.config.class_names, limit)
    evaluator = Evaluator(accelerator, processor, arguments.batch_size, arguments.num_workers)
    predictions = evaluator.predict(model.to(accelerator.device), test)
    measured = predictions.evaluation(arguments.task_aware_eval)
    if accelerator.is_main_process:
        known = f"{model.config.num_labels} classes in {len(model.config.step_class_ranges)} step(s)"
        subject = f"{step}: {known}, {len(test)} test images of {arguments.dataset_name}"
        recorded = record.comparable_with(measured, model.config.step_class_ranges)
        metrics = compare(measured, recorded)
        lines = [*notes, subject, *describe_gaps(model.config.class_names, measured.measured_labels)]
        lines += [to_table(metrics), last_line(record, metrics)]
        sys.stdout.writelines(f"{line}\n" for line in lines)
        if arguments.output_file:
            write_numbers(arguments, measured, recorded, agreement(metrics), len(test))
        if arguments.predictions_file:
            write_predictions(arguments, predictions, test)


def describe_gaps(class_names: Sequence[str], measured_labels: Sequence[int] | None) -> list[str]:
    """A line on the classes without test images; none where all have some."""
    if measured_labels is None:
        return []
    count, measured = len(class_names), set(measured_labels)
    lacking = shorten((name for label, name in enumerate(class_names) if label not in measured), 80)
    return [f"Test images of {len(measured)} of {count} classes, predicted among all {count}; none of {lacking}"]


def last_line(record: RecordedStep, metrics: Sequence[ComparedMetric]) -> str:
    """Whether the recorded numbers were found again, or why there are none."""
    if record.problem:
        return f"Nothing to compare with: {record.problem}"
    if agreement(metrics) is None:
        return "Nothing to compare with: the recorded numbers are over other classes."
    return conclusion(metrics)


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
    with writing_errors_named("output_file", path):
        write_aside(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_predictions(arguments: EvaluationArguments, predictions: Predictions, test: Examples) -> None:
    """
    Writes what the model says of each image to the predictions file, which is replaced as a whole.

    Args:
        arguments (`EvaluationArguments`): the options.
        predictions (`Predictions`): what the model says.
        test (`Examples`): the images.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(str(arguments.predictions_file)).expanduser()
    table = prediction_table(predictions, file_names(test, str(arguments.dataset_name)))
    with writing_errors_named("predictions_file", path):
        write_table(table, path)


@contextmanager
def writing_errors_named(name: str, path: Path) -> Iterator[None]:
    """
    Turns errors of the disk in the block into one line.

    Raises:
        InputError: the file that the option `name` gives cannot be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"--{name} {path} cannot be written ({reason}): choose another.") from error


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
