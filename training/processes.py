"""The processes of a run: how they are set up, and what one does while the others wait."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, broadcast_object_list

from training.arguments import Arguments
from training.errors import InputError
from training.run_folder import TRACKER_FOLDER


def make_accelerator(arguments: Arguments) -> Accelerator:
    """Processes, device, precision and tracker of the run."""
    trackers = None if arguments.output.report_to == "none" else arguments.output.report_to
    # Processes wait for the one that publishes, however slow the Hub is.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))
    return Accelerator(
        log_with=trackers,
        project_config=ProjectConfiguration(
            project_dir=arguments.output.output_dir,
            logging_dir=str(Path(arguments.output.output_dir) / TRACKER_FOLDER),
        ),
        mixed_precision=arguments.optimization.mixed_precision,
        kwargs_handlers=[patience],
    )


def on_main_process(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """
    Runs `action` on the main process; the others wait for it.

    Raises:
        InputError: `action` failed. Every process raises, or the others would wait for ever; the main process raises
            what `action` raised.
    """
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            action()
        except Exception as error:
            failure = error
    (message,) = broadcast_object_list([None if failure is None else str(failure)])
    if failure is not None:
        raise failure
    if message is not None:
        raise InputError(message)
