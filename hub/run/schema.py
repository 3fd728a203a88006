"""JSON files as typed dataclasses: a value that breaks its type is named with what was expected."""

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from hub.run.errors import StepFolderError


T = TypeVar("T")

_MAX_SHOWN = 60


class Range(NamedTuple):
    """The smallest and the largest value of a number."""

    low: float
    high: float


Fraction = Annotated[float, Range(0, 1)]
Difference = Annotated[float, Range(-1, 1)]
Count = Annotated[int, Range(0, math.inf)]
Seconds = Annotated[float, Range(0, math.inf)]


def read_json(path: Path) -> dict[str, Any]:
    """
    The JSON object in a file.

    Raises:
        StepFolderError: there is none.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StepFolderError(f"{name}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise StepFolderError(f"{name}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise StepFolderError(f"{name}: holds a {type(content).__name__}, expected a JSON object")
    return content


def decode(kind: type[T], raw: Any, source: str) -> T:
    """
    A dataclass from a JSON object. Keys that the class does not have are ignored: later versions may write more.

    Args:
        kind (`type`): a dataclass of strings, truth values, numbers, tuples of these, and other such dataclasses.
        raw: the parsed JSON.
        source (`str`): names the file in errors.

    Raises:
        StepFolderError: a key is missing, or its value is of another type or out of range.
    """
    decoded: T = _decode(kind, raw, source, "")
    return decoded


def _decode(kind: Any, value: Any, source: str, key: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _decode_object(kind, value, source, key)
    if origin in (Union, types.UnionType):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _decode(inner, value, source, key)
    if origin is tuple:
        if not isinstance(value, list):
            raise _error(source, key, value, "a list")
        return tuple(_decode(arguments[0], item, source, f"{key}[{place}]") for place, item in enumerate(value))
    if origin is Annotated:
        return _number(arguments[0], value, source, key, arguments[1])
    if kind in (int, float):
        return _number(kind, value, source, key, Range(-math.inf, math.inf))
    if not isinstance(value, kind):
        raise _error(source, key, value, {str: "a string", bool: "true or false"}[kind])
    return value


def _decode_object(kind: Any, value: Any, source: str, key: str) -> Any:
    if not isinstance(value, dict):
        raise _error(source, key or "the content", value, "an object")
    types_of_fields = get_type_hints(kind, include_extras=True)
    given: dict[str, Any] = {}
    for field in fields(kind):
        name = f"{key}.{field.name}" if key else field.name
        if field.name in value:
            given[field.name] = _decode(types_of_fields[field.name], value[field.name], source, name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise StepFolderError(f"{source}: {name} is missing")
    return kind(**given)


def _number(kind: type, value: Any, source: str, key: str, allowed: Range) -> Any:
    fits = isinstance(value, int) if kind is int else isinstance(value, int | float)
    if not fits or isinstance(value, bool) or not allowed.low <= value <= allowed.high:
        name = "a whole number" if kind is int else "a number"
        limits = f" in {allowed.low:g}..{allowed.high:g}" if math.isfinite(allowed.high) else ", 0 or more"
        raise _error(source, key, value, name + limits * math.isfinite(allowed.low))
    return kind(value)


def _error(source: str, key: str, value: Any, expected: str) -> StepFolderError:
    shown = repr(value)
    shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"
    return StepFolderError(f"{source}: {key} is {shown}, expected {expected}")
