"""Typed dataclasses from JSON files: a value that does not fit is named, with what was expected."""

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from hub.run.errors import StepFolderError
from hub.run.text import short_repr


T = TypeVar("T")


class Range(NamedTuple):
    """The smallest and the largest value of a number."""

    low: int
    high: int


Fraction = Annotated[float, Range(0, 1)]
Difference = Annotated[float, Range(-1, 1)]
#: Of 64 bits, as seeds may be.
Count = Annotated[int, Range(0, 2**64 - 1)]
Seconds = Annotated[float, Range(0, 10**9)]

_NAMES = {str: "a string", bool: "true or false", list: "a list", dict: "an object", int: "a whole number"}


def read_json(path: Path) -> Any:
    """
    The content of a JSON file.

    Raises:
        StepFolderError: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StepFolderError(f"{short_name(path)}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise StepFolderError(f"{short_name(path)}: is not JSON ({error})") from error


def short_name(path: Path) -> str:
    """A file as errors name it: by its folder and its own name."""
    return f"{path.absolute().parent.name}/{path.name}"


def decode(kind: type[T], raw: Any, source: str) -> T:
    """
    A dataclass from a JSON object. Keys that the class does not have are ignored: later versions may write more.

    Args:
        kind (`type`): a dataclass of strings, truth values, numbers with a range, tuples and dictionaries of these,
            and other such dataclasses. A field may be optional.
        raw (`Any`): the parsed JSON.
        source (`str`): names the file in errors.

    Returns:
        `T`: an instance of `kind`.

    Raises:
        StepFolderError: a key is missing, or its value is of another type or out of range.
    """
    decoded: T = _decode(kind, raw, source, "")
    return decoded


def _decode(kind: Any, value: Any, source: str, key: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _decode_object(kind, _checked(dict, value, source, key), source, key)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _decode(inner, value, source, key)
    if origin is tuple:
        items = enumerate(_checked(list, value, source, key))
        return tuple(_decode(arguments[0], item, source, f"{key}[{index}]") for index, item in items)
    if origin is dict:
        entries = _checked(dict, value, source, key).items()
        return {name: _decode(arguments[1], item, source, f"{key}[{short_repr(name)}]") for name, item in entries}
    if origin is Annotated:
        return _decode_number(arguments[0], arguments[1], value, source, key)
    return _checked(kind, value, source, key)


def _decode_object(kind: Any, value: dict[str, Any], source: str, key: str) -> Any:
    types_of_fields = get_type_hints(kind, include_extras=True)
    given: dict[str, Any] = {}
    for field in fields(kind):
        name = f"{key}.{field.name}" if key else field.name
        if field.name in value:
            given[field.name] = _decode(types_of_fields[field.name], value[field.name], source, name)
        elif field.default is MISSING:
            raise StepFolderError(f"{source}: {name} is missing")
    return kind(**given)


def _decode_number(kind: type, allowed: Range, value: Any, source: str, key: str) -> Any:
    fits = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not fits or not allowed.low <= value <= allowed.high:
        expected = f"{_NAMES.get(kind, 'a number')} in {allowed.low}..{allowed.high}"
        raise _error(source, key, value, expected)
    return kind(value)


def _checked(kind: type[T], value: Any, source: str, key: str) -> T:
    if not isinstance(value, kind):
        raise _error(source, key, value, _NAMES[kind])
    return value


def _error(source: str, key: str, value: Any, expected: str) -> StepFolderError:
    return StepFolderError(f"{source}: {key or 'the content'} is {short_repr(value)}, expected {expected}")
