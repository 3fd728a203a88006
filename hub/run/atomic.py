"""Files that are replaced as a whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from hub.run.errors import InputError, one_line


def write_aside(path: Path, content: str | bytes) -> None:
    """Writes `content` beside `path` and renames: a reader finds the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError:
        # What is left of it would take up a disk that may be full.
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """
    Turns what goes wrong with the disk while `path` is written into one line.

    Raises:
        InputError: the disk is full, or `path` cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(
            f"{path} cannot be written ({reason}): make room or see to the disk; the same command then goes on from "
            "the last state saved."
        ) from error
