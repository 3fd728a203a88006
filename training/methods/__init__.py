"""Class-incremental methods, chosen by name with `--method`."""

from hub.run.errors import InputError
from training.arguments import DEFAULT_METHOD, Arguments
from training.methods.base import LossModule, Method, Phase
from training.methods.baselines import Finetune, Joint, Replay
from training.methods.dytox import DyTox


METHODS: dict[str, type[Method]] = {method.name: method for method in (DyTox, Replay, Finetune, Joint)}


def make_method(arguments: Arguments) -> Method:
    """
    The method that the options name.

    Args:
        arguments (`Arguments`): the options of the run.

    Returns:
        `Method`: with its options.

    Raises:
        InputError: there is no such method.
    """
    name = arguments.method.method or DEFAULT_METHOD
    if name not in METHODS:
        raise InputError(f"--method {name!r} is unknown: choose one of {', '.join(METHODS)}.")
    return METHODS[name](arguments.method, arguments.optimization)


__all__ = ["METHODS", "LossModule", "Method", "Phase", "make_method"]
