"""Files that are replaced as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


#: End of the name of a file that is being written. A killed writer leaves such a file behind.
PARTIAL = ".partial"


def write_aside(path: Path, content: str | bytes) -> None:
    """
    Replaces a file: a reader finds the old content or the new, never a part of it.

    Args:
        path (`Path`): the file; its folder exists.
        content (`str` or `bytes`): text is written as UTF-8.
    """
    with replaced(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """
    Yields a hidden path beside `path` to write to, and renames it to `path` if the block ends without an error.

    Each process has a name of its own, as two publishers may write the same card at once.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        # Free the space: the disk may be full.
        partial.unlink(missing_ok=True)
        raise
