"""What is compared: recipes that differ in their method or in other options, each under a name."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hub.run.errors import InputError, one_line
from hub.run.text import short_repr
from training.methods import METHODS


@dataclass(frozen=True)
class Variant:
    """
    What one row of a table was learned with.

    Args:
        name (`str`): of the row, and of the folder of its runs.
        options (`tuple[str, ...]`): words of the command line, beside those that all variants share.
    """

    name: str
    options: tuple[str, ...]


def read_variants(texts: Sequence[str], file: Path | None = None) -> list[Variant]:
    """
    The variants that the command line and a file name.

    Args:
        texts (`Sequence[str]`): each a method, or `NAME=METHOD --option value ...`. Without METHOD it is the method of
            this name; if there is none, the one of the recipe.
        file (`Path`, *optional*): YAML file of further ones, each a name with its options.

    Raises:
        InputError: there is none, one cannot be read, or two have the same name.
    """
    variants = [_from_text(text) for text in texts]
    if file is not None:
        variants += [_from_options(str(name), options, file) for name, options in _read_file(file).items()]
    if not variants:
        raise InputError(f"There are no variants: give --variants, e.g. {' '.join(list(METHODS)[:3])}.")
    names = [variant.name for variant in variants]
    for name in names:
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise InputError(f"The variant {short_repr(name)} is no name of a folder: use letters, digits, - and _.")
        if names.count(name) > 1:
            raise InputError(f"Two variants have the name {name}: give one another name, as in NAME={name}.")
    return variants


def _from_text(text: str) -> Variant:
    name, has_options, rest = text.partition("=")
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise InputError(f"The variant {name} cannot be read ({error}): quote it as a shell would.") from error
    method = None if has_options else name
    if words and not words[0].startswith("-"):
        method = words.pop(0)
    return _variant(name, method, words)


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--variants_file {path} cannot be read ({one_line(error)}): give a YAML file.") from error
    if not isinstance(content, dict):
        raise InputError(f"--variants_file {path} holds {type(content).__name__}: expected lines of 'name: options'.")
    return content


def _from_options(name: str, options: Any, file: Path) -> Variant:
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise InputError(f"{name} in {file} is {short_repr(options)}: expected options, such as 'method: wa'.")
    rest = {str(key): value for key, value in options.items() if key != "method"}
    return _variant(name, options.get("method"), list(_words(rest)))


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        if value is None:
            continue
        if len(values) == 1:
            # In one piece: a value such as -1e-4 alone would look like an option.
            yield f"--{name}={values[0]}"
        else:
            yield from (f"--{name}", *map(str, values))


def _variant(name: str, method: Any, words: Sequence[str]) -> Variant:
    if method is None and name in METHODS:
        method = name
    return Variant(name, (*(() if method is None else ("--method", str(method))), *words))
