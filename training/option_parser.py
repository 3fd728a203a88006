"""The parser of the scripts' options: a bad value is one line, and help names each option once."""

from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Iterable
from typing import Any, NoReturn

from transformers import HfArgumentParser

from hub.run.errors import InputError


_TYPES = {int: "N", float: "X", str: "TEXT"}


class HelpFormatter(RawDescriptionHelpFormatter):
    """Each option under one spelling with the type of its value and its default, if its text does not name one."""

    def _format_action_invocation(self, action: Action) -> str:
        spelling = action.option_strings[0] if action.dest != "help" else ", ".join(action.option_strings)
        if action.nargs == 0:
            return spelling
        return f"{spelling} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        # What is neither of these is a truth value.
        kind: Any = action.type or str
        return _TYPES.get(kind, "true|false")

    def _get_help_string(self, action: Action) -> str:
        if action.const is False:
            return f"The same as --{action.dest} false."
        text = action.help or ""
        return text if action.default in (None, SUPPRESS) else f"{text} (default: %(default)s)"


class OptionParser(HfArgumentParser):
    """
    Makes options of the fields of dataclasses, and reports bad values in one line instead of the usage of all options.

    Args:
        groups (`Iterable[type]`): dataclasses whose fields were made by [`training.arguments.option`].
        **options: those of `ArgumentParser`.
    """

    def __init__(self, groups: Iterable[Any], **options: Any) -> None:
        # An abbreviation would change its meaning when an option is added.
        super().__init__(list(groups), **{"formatter_class": HelpFormatter, "allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:].rstrip('.')}; see --help for all options.")


def under_heading(heading: str, group: Any) -> Any:
    """The dataclass `group`, which help shows under a heading."""
    # By this name HfArgumentParser finds it.
    return type(group.__name__, (group,), {"_argument_group_name": heading})
