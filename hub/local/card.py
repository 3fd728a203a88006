"""The metadata at the top of a card (`README.md`): reads it and reports what is wrong with it."""

from collections.abc import Iterator
from typing import Any

import yaml


_FENCE = "---"


def card_metadata(content: str) -> dict[str, Any]:
    """The metadata of a card, empty if it has none; raises `ValueError` if it is not a YAML mapping."""
    lines = content.lstrip("\ufeff").splitlines()
    fences = [number for number, line in enumerate(lines) if line.rstrip() == _FENCE]
    if fences[:1] != [0]:
        return {}
    if len(fences) == 1:
        raise ValueError(f"the metadata that begins with {_FENCE!r} has no closing {_FENCE!r}")
    try:
        metadata = yaml.safe_load("\n".join(lines[1 : fences[1]]))
    # PyYAML lets a ValueError through for an impossible date.
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"the metadata is not valid YAML: {' '.join(str(error).split())}") from None
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError(f"the metadata is a {type(metadata).__name__}, expected a mapping")
    return metadata or {}


def card_problems(content: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about the metadata of a card."""
    try:
        metadata = card_metadata(content)
    except ValueError as error:
        return [str(error)], []
    warnings = [] if metadata else ["empty or missing YAML metadata in the card"]
    return [*_field_errors(metadata), *_result_errors(metadata.get("model-index"))], warnings


def _field_errors(metadata: dict[str, Any]) -> Iterator[str]:
    for key in ("tags", "datasets", "metrics", "language", "base_model", "license"):
        value = metadata.get(key)
        values = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(item, str) for item in values):
            yield f'"{key}" must be a string or a list of strings'
    for key in ("library_name", "pipeline_tag", "license_name"):
        if metadata.get(key) is not None and not isinstance(metadata[key], str):
            yield f'"{key}" must be a string'


def _result_errors(index: Any) -> Iterator[str]:
    """What is wrong with a `model-index`: models with results, each naming a task, a data set and metrics."""
    for place, model in _members(index, '"model-index"'):
        if not isinstance(_get(model, "results"), list):
            yield f"{place}.results is required"
        for inner, result in _members(_get(model, "results"), f"{place}.results"):
            for key, name in (("task", "type"), ("dataset", "type"), ("dataset", "name")):
                if not isinstance(_get(_get(result, key), name), str):
                    yield f"{inner}.{key}.{name} is required"
            for metric_place, metric in _members(_get(result, "metrics"), f"{inner}.metrics"):
                if not isinstance(_get(metric, "type"), str) or _get(metric, "value") is None:
                    yield f"{metric_place} must have a type and a value"


def _members(value: Any, place: str) -> list[tuple[str, Any]]:
    return [(f"{place}[{number}]", item) for number, item in enumerate(value)] if isinstance(value, list) else []


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
