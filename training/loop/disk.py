"""Errors of the disk, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from hub.run.errors import InputError, one_line


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """
    Turns errors of the disk in the block into one line.

    Args:
        path (`Path`): what is written.

    Raises:
        InputError: the disk is full, or `path` cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(
            f"{path} cannot be written ({reason}): free some space or check the disk; the same command then resumes "
            "from the last state saved."
        ) from error
