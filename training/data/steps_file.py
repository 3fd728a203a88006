"""A file that says which classes each step adds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hub.run.errors import InputError, one_line
from training.arguments import DataArguments


_STANDS_FOR = ("class_order", "num_classes", "initial_classes", "classes_per_step")


def with_steps(arguments: DataArguments) -> DataArguments:
    """
    The options with the order and the number of classes that the file `--steps` gives.

    Raises:
        InputError: the file cannot be read, is no list of steps, or contradicts another option.
    """
    for name in _STANDS_FOR:
        if getattr(arguments, name) is not None:
            raise InputError(f"--steps {arguments.steps} says what --{name} does: leave one of the two out.")
    steps = read_steps(Path(str(arguments.steps)).expanduser())
    order = [name for step in steps for name in step]
    sizes = [len(step) for step in steps]
    return replace(arguments, class_order=order, num_classes=len(order), classes_per_step=sizes)


def read_steps(path: Path) -> list[list[str]]:
    """
    The class names of each step.

    Args:
        path (`Path`): a YAML file: a list of steps, or names of steps with their classes.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        # As text: YAML would read 010 as a number, and yes as true.
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--steps {path} cannot be read ({one_line(error)}): give a YAML file.") from error
    steps: Any = list(content.values()) if isinstance(content, dict) else content
    are_steps = isinstance(steps, list) and all(isinstance(step, list) and step for step in steps)
    if not are_steps or not steps or not all(isinstance(name, str) for step in steps for name in step):
        raise InputError(
            f"--steps {path} is no list of steps: give each step a line, such as 'spring: [rose, tulip]'."
        )
    return [list(step) for step in steps]
