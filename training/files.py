"""Files that are replaced as a whole or not at all."""

from pathlib import Path


def write_aside(path: Path, text: str) -> None:
    """Writes `text` beside `path` and renames: a reader finds the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
