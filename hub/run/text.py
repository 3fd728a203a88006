"""Text of others (class names, data set names, values) made safe for a line of Markdown, a figure or a terminal."""

import re
import reprlib
from collections.abc import Iterable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any


# Needed inside words and emoji of many scripts; unlike the other invisible characters they reorder and hide nothing.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """`text` on one line: control, bidirectional and lone surrogate characters become escapes such as `\\n`."""
    return "".join(
        char if char.isprintable() or char in _JOINERS else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def short_repr(value: Any, width: int = 60) -> str:
    """A value for an error: its `repr` on one line, cut after `width` characters. It may be huge or deeply nested."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = width
    text = printable(brief.repr(value))
    return text if len(text) <= width else f"{text[: width - 1]}…"


def code_span(text: str) -> str:
    """`text` as a Markdown code span, inside which neither HTML, nor links, nor emphasis are interpreted."""
    body = printable(text) or '""'
    fence = "`" * (_longest_backtick_run(body) + 1)
    touches_fence = body.startswith("`") or body.endswith("`")
    would_be_trimmed = body.startswith(" ") and body.endswith(" ") and body.strip()
    padding = " " if touches_fence or would_be_trimmed else ""
    return f"{fence}{padding}{body}{padding}{fence}"


def table_span(text: str) -> str:
    """`text` as a Markdown code span in a cell of a table, which a bare `|` would end."""
    # Parsers disagree on a pipe behind a backslash, escaped or not: it is shown as an escape of its own.
    return code_span(re.sub(r"(?<=\\)\|", r"\\x7c", text)).replace("|", r"\|")


def code_fence(content: str) -> str:
    """A fence of backticks that `content` cannot close."""
    return "`" * max(3, _longest_backtick_run(content) + 1)


def _longest_backtick_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def shorten(names: Iterable[str], width: int) -> str:
    """The names joined by commas, cut after at most `width` characters with a count of those left out."""
    shown: list[str] = []
    names = [printable(name) for name in names]
    for name in names:
        if shown and len(", ".join([*shown, name])) > width:
            break
        shown.append(name if len(name) <= width else name[: width - 1] + "…")
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f", … ({rest} more)" if rest else "")


def duration(seconds: float) -> str:
    """A time for a reader: seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def without_local_path(text: str) -> str:
    """The last component of an absolute or home path; any other text as it is."""
    for path_type in (PurePosixPath, PureWindowsPath):
        if path_type(text).is_absolute() or (text.startswith("~") and len(path_type(text).parts) > 1):
            return path_type(text).name or "local folder"
    return text


def is_repo_id(text: str) -> bool:
    """
    Whether `text` has the form `namespace/name` of a repository on the Hub: two parts of at most 96 letters, digits,
    `-`, `_` and `.`, neither beginning nor ending with `-` or `.`; no `--` or `..`, no `.git` at the end.
    """
    part = r"(?=\w)[\w.-]{1,96}(?<=\w)"
    has_form = re.fullmatch(f"{part}/{part}", text, re.ASCII)
    return has_form is not None and re.search(r"--|\.\.|\.git$", text) is None
