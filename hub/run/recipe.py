"""Recipes, the options in `training_config.yaml`: when two of them are the same."""

from collections.abc import Mapping
from typing import Any


#: Options that recipes of earlier versions lack, with the value that those versions amount to.
ADDED_OPTIONS: dict[str, object] = {"transparency": "refuse", "holdout": None}

_ABSENT = object()


def same_value(first: Any, second: Any) -> bool:
    """Whether two values of an option are the same; one value equals a list of this value."""
    first, second = (value if isinstance(value, list) else [value] for value in (first, second))
    return bool(first == second)


def differing_options(
    first: Mapping[str, Any], second: Mapping[str, Any], added: Mapping[str, object] = ADDED_OPTIONS
) -> list[str]:
    """
    The options in which two recipes differ.

    One value equals a list of this value. An option that a recipe lacks has its value in `added`; if it is not listed
    there, the recipes differ.

    Args:
        first, second (`Mapping[str, Any]`): recipes as YAML reads them.
        added (`Mapping[str, object]`, *optional*): see [`ADDED_OPTIONS`].

    Returns:
        `list[str]`: names of options, sorted.
    """

    def value(recipe: Mapping[str, Any], name: str) -> Any:
        return recipe.get(name, added.get(name, _ABSENT))

    names = first.keys() | second.keys()
    return sorted(name for name in names if not same_value(value(first, name), value(second, name)))
