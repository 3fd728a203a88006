"""The recipe of a run: the options that decide its result, kept as `training_config.yaml`."""

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from hub.run.errors import InputError
from hub.run.recipe import same_value
from hub.run.text import without_local_path
from training.arguments import GROUPS, Arguments
from training.methods import DEFAULT_METHOD, METHODS, method_named
from training.parsing import REMOVED, option_names, owners_of


# Options that may name a folder or a file.
_PATHS = ("dataset_name", "model_name_or_path", "memory_name_or_path", "encoder_name_or_path")


def recipe_of(arguments: Arguments, num_processes: int, mixed_precision: str) -> dict[str, Any]:
    """
    The options that decide the result, as they would be for one process: only the global batch size matters.

    Args:
        arguments (`Arguments`): the options of the run.
        num_processes (`int`): processes of the run.
        mixed_precision (`str`): the precision that accelerate uses.
    """
    decided = {"per_device_train_batch_size": arguments.global_batch_size(num_processes)}
    return arguments.recipe() | decided | {"gradient_accumulation_steps": 1, "mixed_precision": mixed_precision}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """
    In which options two recipes differ, each as `name was 1, is 2`.

    An option that one of them lacks counts as its default: it was written before the option existed, or does not need
    it. One value equals a list of this value. An option that this version no longer has is ignored at the value that
    changed nothing, and named otherwise.

    Args:
        before (`Mapping[str, Any]`): a recipe as YAML reads it, perhaps of another version.
        now (`Mapping[str, Any]`): a recipe of this version.
    """
    method = method_named(now["method"])
    own = option_names(method.Options) if before.get("method", DEFAULT_METHOD) == method.name else []
    defaults = {option.name: option.default for group in (*GROUPS, method.Options) for option in fields(group)}
    defaults["method"] = DEFAULT_METHOD
    found = []
    for name in sorted(before.keys() | now.keys(), key=str):
        if name in own or name in option_names():
            old, new = (_without_end_slash(name, recipe.get(name, defaults[name])) for recipe in (before, now))
            if not same_value(old, new):
                found.append(f"{name} was {old}, is {new}")
        elif name not in now and (problem := _missed(name, before[name], method.name)):
            found.append(f"{name} was {before[name]}, which {problem}")
    return found


def _without_end_slash(name: str, value: Any) -> Any:
    """A folder is the same with and without a slash at its end."""
    return value.rstrip("/") if name in _PATHS and isinstance(value, str) else value


def _missed(name: str, value: Any, method: str) -> str | None:
    """Why an option that a recipe has and its method does not would be missed; None where it changed nothing."""
    if name in REMOVED:
        removed = REMOVED[name]
        return None if same_value(value, removed.default) else f"this version no longer has: {removed.advice}"
    owners = owners_of(name)
    if not owners:
        return "this version does not have"
    is_default = any(same_value(value, getattr(METHODS[owner].Options(), name)) for owner in owners)
    return None if is_default else f"--method {method} no longer has"


def without_local_paths(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without paths of this machine: what is local keeps its last name alone."""
    published = dict(recipe)
    for name in _PATHS:
        if recipe.get(name):
            published[name] = _without_folders(recipe[name])
    order = recipe.get("class_order")
    if order and len(order) == 1:
        published["class_order"] = [_without_folders(order[0])]
    return published


def _without_folders(name: str) -> str:
    path = Path(name).expanduser()
    return without_local_path(os.path.abspath(path) if path.exists() else name)


def to_yaml(recipe: Mapping[str, Any]) -> str:
    """The content of `training_config.yaml`."""
    return yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)


_RESTORE = "restore it, or start again with --overwrite_output_dir."


def read_recipe(path: Path, what_to_do: str = _RESTORE) -> dict[str, Any]:
    """
    The recipe in a `training_config.yaml`.

    Args:
        path (`Path`): the file.
        what_to_do (`str`, *optional*): ends the error.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        recipe = None
    if not isinstance(recipe, dict):
        raise InputError(f"{path} is damaged: {what_to_do}")
    return recipe
