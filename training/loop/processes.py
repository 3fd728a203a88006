"""The processes of a run: how they are set up, and what the main one does while the others wait."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, broadcast_object_list, gather_object

from hub.run.errors import InputError
from hub.run.layout import TRACKER_FOLDER
from training.arguments import Arguments


def make_accelerator(arguments: Arguments) -> Accelerator:
    """Processes, device, precision and tracker of the run."""
    trackers = None if arguments.output.report_to == "none" else arguments.output.report_to
    # Processes wait for the main one to save, even where the disk is slow.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=1))
    return Accelerator(
        log_with=trackers,
        project_config=ProjectConfiguration(
            project_dir=arguments.output.output_dir,
            logging_dir=str(Path(arguments.output.output_dir) / TRACKER_FOLDER),
        ),
        mixed_precision=arguments.optimization.mixed_precision,
        # None leaves it to what accelerate is configured for.
        dynamo_backend="inductor" if arguments.optimization.torch_compile else None,
        kwargs_handlers=[patience],
    )


def on_main_process(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """
    Runs `action` on the main process; the others wait for it.

    Args:
        accelerator (`Accelerator`): the processes.
        action (`Callable`): what to run; its result is dropped.

    Raises:
        InputError: `action` failed. Every process raises, or the others would wait for ever; the main process raises
            the error of `action` itself.
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


def check_agreement(accelerator: Accelerator, found: object, what: str) -> None:
    """
    Makes sure that every process found the same in the output folder.

    Args:
        accelerator (`Accelerator`): the processes.
        found (`object`): what this process found; must compare equal.
        what (`str`): names it in the error.

    Raises:
        InputError: some processes found something else, e.g. on a disk that lags behind; raised on every process.
    """
    all_found = gather_object([found])
    if any(other != found for other in all_found):
        raise InputError(
            f"The processes find different {what} in --output_dir ({', '.join(map(str, all_found))}): make sure that "
            "all machines see the same disk, then start again."
        )
