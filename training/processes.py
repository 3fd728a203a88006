"""What one process does while the others wait."""

from collections.abc import Callable

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from training.errors import InputError


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
