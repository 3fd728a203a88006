"""
Reads the options of a run from a YAML recipe and from the command line, which wins.

Nothing here imports torch, which takes seconds: help and errors in options come at once.
"""

import difflib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hub.run.errors import InputError, last_message, one_line
from hub.run.recipe import same_value
from training.arguments import (
    GROUPS,
    Arguments,
    ContinuationArguments,
    EncoderArguments,
    ModelArguments,
    OptimizationArguments,
    check_bounds,
)
from training.data.steps_file import with_steps
from training.methods import DEFAULT_METHOD, METHODS, Method, method_named
from training.option_parser import OptionParser, under_heading
from training.run.model_source import source_to_continue


# What the paper cuts CIFAR-100 and ImageNet-100 into.
DEFAULT_CLASSES_PER_STEP = 10
# The options that take several values.
_LISTS = ("class_order", "classes_per_step", "updates_per_epoch")


class RemovedOption(NamedTuple):
    """
    An option that earlier versions had.

    Args:
        default: the value at which it changed nothing.
        advice (`str`): what to use instead.
    """

    default: Any
    advice: str


REMOVED: dict[str, RemovedOption] = {}


@dataclass(frozen=True)
class Recipe:
    """
    The content of a YAML file of options.

    Args:
        path (`Path`, *optional*): the file; None where there is none.
        options (`Mapping[str, Any]`): by name, without blocks.
        blocks (`Mapping[str, Mapping[str, Any]]`): options of single methods, by the name of the method.
    """

    path: Path | None
    options: Mapping[str, Any]
    blocks: Mapping[str, Mapping[str, Any]]


_NO_RECIPE = Recipe(None, {}, {})


def parse_arguments(command_line: Sequence[str] | None = None) -> Arguments:
    """
    Reads the options from the command line and from the YAML file that `--config` names; the command line wins.

    Raises:
        InputError: an option is unknown, has a bad value, or contradicts another.
        SystemExit: help was asked for, and has been printed.
    """
    command_line = list(sys.argv[1:] if command_line is None else command_line)
    path = _value_of("config", command_line)
    recipe = read_recipe_file(Path(path).expanduser()) if path else _NO_RECIPE
    shared = list(_words(_shared_options(recipe), recipe))
    if {"-h", "--help"} & set(command_line):
        _print_help(method_named(_value_of("method", [*shared, *command_line]) or DEFAULT_METHOD))
        raise SystemExit(0)

    *groups, _, remaining = _parse(_shared_parser(GROUPS, add_help=False), [*shared, *command_line])
    named = {field.name: group for field, group in zip(fields(Arguments), groups, strict=False)}
    arguments = Arguments(**named, options=None)
    name = _method_of(arguments)
    own = _own_options(recipe, name, _value_of("method", shared))
    arguments.options, unknown = _parse(_own_parser(name), [*_words(own, recipe), *remaining])
    if unknown:
        raise InputError(_unknown_option(unknown[0], name))
    arguments.given = frozenset(own) | {_name_in(word) for word in remaining if word.startswith("--")}
    arguments.method.method = name
    if arguments.data.steps is not None:
        arguments.data = with_steps(arguments.data)
    if arguments.continuation.model_name_or_path is None and arguments.data.classes_per_step is None:
        arguments.data.classes_per_step = [DEFAULT_CLASSES_PER_STEP]
    if arguments.continuation.model_name_or_path is None and arguments.encoder.is_own:
        arguments.model.image_size = arguments.model.side
    arguments.output.output_dir = str(Path(arguments.output.output_dir).expanduser())
    check_arguments(arguments)
    return arguments


def parse_options(options: Mapping[str, Any]) -> Arguments:
    """
    The same from Python.

    Args:
        options (`Mapping[str, Any]`): by the names that they have on the command line; None leaves an option out.

    Raises:
        InputError: an option is unknown, has a bad value, or contradicts another.
    """
    return parse_arguments(list(_words(options, _NO_RECIPE)))


def own_options(method: str, values: Mapping[str, Any], path: Path) -> Any:
    """
    The options of a method that a saved recipe holds.

    Args:
        method (`str`): its name.
        values (`Mapping[str, Any]`): its options alone, by name; the others have their defaults.
        path (`Path`): the recipe, for errors.

    Returns:
        an instance of its `Options`.

    Raises:
        InputError: a value is not of its type, or out of its bounds.
    """
    words = list(_words(values, Recipe(path, values, {})))
    options, _ = _parse(_own_parser(method), words)
    check_bounds(options)
    return options


def parse_or_exit() -> Arguments:
    """Reads the options; where one is bad, ends the process with one line and exit status 2."""
    try:
        return parse_arguments()
    except InputError as error:
        sys.stderr.write(f"error: {last_message(error)}\n")
        sys.exit(2)


def read_recipe_file(path: Path) -> Recipe:
    """
    The options of a YAML file. A block under the name of a method holds options of this method alone.

    Raises:
        InputError: the file is missing, is not a mapping, or holds an unknown option.
    """
    if not path.is_file():
        raise InputError(f"--config {path} does not exist: give the path of a YAML file, see training/recipes/.")
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) or {}
        # Classes as they are written: YAML would read yes as true, and 010 as a number.
        written = yaml.load(text, Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path} is not valid YAML ({one_line(error)}).") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds {type(content).__name__}: expected lines of 'option: value'.")
    if isinstance(content.get("class_order"), list):
        content["class_order"] = written["class_order"]
    blocks = {name: {} if value is None else value for name, value in content.items() if name in METHODS}
    for method, block in blocks.items():
        _check_block(path, method, block)
    options = {str(name): value for name, value in content.items() if name not in METHODS}
    return Recipe(path, options, blocks)


def _check_block(path: Path, method: str, block: Any) -> None:
    """A block is read only by its own method; a typing error in it is found all the same."""
    if not isinstance(block, dict):
        raise InputError(f"{method} in {path} is {block!r}: expected a block of options of --method {method}.")
    own = option_names(METHODS[method].Options)
    for name in block:
        if name in own:
            continue
        if name in option_names():
            advice = "all methods share it, write it outside of the blocks."
        else:
            advice = f"--method {method} has {', '.join(own) or 'no options of its own'}."
        raise InputError(f"Unknown option {name} in the block {method} of {path}: {advice}")


def option_names(*groups: Any) -> list[str]:
    """Names of the options in some dataclasses, by default in all groups that methods share; in the order of help."""
    return [option.name for group in groups or GROUPS for option in fields(group)]


def owners_of(name: str) -> list[str]:
    """The methods that have an option of this name of their own."""
    return [method for method, kind in METHODS.items() if name in option_names(kind.Options)]


def _shared_parser(groups: Iterable[Any], **options: Any) -> OptionParser:
    parser = OptionParser(groups, **options)
    help = "YAML file of these options, such as those in training/recipes/; the command line wins."
    parser.add_argument("--config", metavar="FILE", help=help)
    return parser


def _own_parser(method: str) -> OptionParser:
    return OptionParser([METHODS[method].Options], add_help=False)


def _parse(parser: OptionParser, words: Sequence[str]) -> Any:
    """The dataclasses of a parser from words of a command line, then the words that it does not know."""
    return parser.parse_args_into_dataclasses(words, return_remaining_strings=True, look_for_args_file=False)


def _print_help(method: type[Method]) -> None:
    """Help on the options that all methods share and on those of one method, with a line on each method."""
    own = under_heading(f"options of --method {method.name}", method.Options)
    lines = [f"  {name:<10} {other.summary}" for name, other in METHODS.items()]
    if not option_names(method.Options):
        lines.append(f"\n--method {method.name} has no options of its own.")
    parser = _shared_parser(
        # The first line of its docstring says what a group is about.
        [
            *(under_heading(inspect.cleandoc(group.__doc__).splitlines()[0].rstrip("."), group) for group in GROUPS),
            own,
        ],
        usage="accelerate launch -q training/incremental.py [--config RECIPE.yaml] [--OPTION VALUE ...]",
        description="Learns the classes of a data set step by step; each step is a model of its own.",
        epilog="\n".join(["methods; `--method NAME --help` shows the options of one:", *lines]),
    )
    parser.print_help()


def _value_of(name: str, command_line: Sequence[str]) -> str | None:
    """The value of one option, found before the others are read."""
    parser = OptionParser([], add_help=False)
    parser.add_argument(f"--{name}")
    value: str | None = getattr(parser.parse_known_args(command_line)[0], name)
    return value


def _method_of(arguments: Arguments) -> str:
    """The method that is asked for, else that of the model to continue, else the default."""
    asked = arguments.method.method
    if arguments.continuation.model_name_or_path is None:
        return method_named(DEFAULT_METHOD if asked is None else asked).name
    name = source_to_continue(arguments).results().method if asked is None else asked
    if name not in METHODS or not METHODS[name].card.can_continue:
        able = ", ".join(name for name, method in METHODS.items() if method.card.can_continue)
        problem = "cannot continue a model" if name in METHODS else "is unknown"
        subject = f"--method {name}" if asked is not None else f"The method {name}, with which the model was learned,"
        raise InputError(f"{subject} {problem}: choose --method among {able}.")
    return name


def _shared_options(recipe: Recipe) -> dict[str, Any]:
    """The options in a recipe that all methods share."""
    shared = option_names()
    for name, value in recipe.options.items():
        known = name in shared or owners_of(name)
        changes_nothing = name in REMOVED and (value is None or same_value(value, REMOVED[name].default))
        if not known and not changes_nothing:
            raise InputError(_unknown_option(name, None, f" in {recipe.path}"))
    return {name: value for name, value in recipe.options.items() if name in shared}


def _own_options(recipe: Recipe, method: str, written_for: str | None) -> dict[str, Any]:
    """
    The options of a method in a recipe: those of its block, and those outside of blocks, as a saved recipe has them.

    Args:
        recipe (`Recipe`): the recipe.
        method (`str`): the method of the run.
        written_for (`str`, *optional*): the method that the recipe names, whose options are those outside of blocks:
            what another method has under the same name may have another default.
    """
    found: dict[str, Any] = {}
    for name, value in recipe.options.items():
        owners = owners_of(name)
        if written_for in owners and written_for != method:
            _check_default(name, value, [written_for], method, recipe)
        elif method in owners:
            found[name] = value
        elif owners:
            _check_default(name, value, owners, method, recipe)
    return found | dict(recipe.blocks.get(method, {}))


def _check_default(name: str, value: Any, owners: Sequence[str], method: str, recipe: Recipe) -> None:
    """An option of other methods changes nothing at its default; at another value somebody expects it to."""
    words = list(_words({name: value}, recipe))
    if not any(_parse(_own_parser(owner), words)[0] == METHODS[owner].Options() for owner in owners):
        raise InputError(
            f"{name} {value} in {recipe.path} is for --method {' and '.join(owners)}, not for {method}: leave it out, "
            f"or put it into a block '{owners[0]}:'."
        )


def _words(options: Mapping[str, Any], recipe: Recipe) -> Iterable[str]:
    """Options as words of a command line; none where an entry leaves the default."""
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        if name in _LISTS and value is not None:
            yield from (f"--{name}", *map(str, values))
        elif len(values) != 1:
            where = f" in {recipe.path}" if recipe.path else ""
            raise InputError(f"{name}{where} is the list {value}: give one value.")
        elif values != [None]:
            # YAML reads a bare `no` as false.
            text = "no" if name == "mixed_precision" and values == [False] else values[0]
            # In one piece: a value such as -1e-4 alone would look like an option.
            yield f"--{name}={text}"


def check_arguments(arguments: Arguments) -> None:
    """
    Checks each option on its own and against the others, before anything is loaded.

    Raises:
        InputError: with the first contradiction.
    """
    if not arguments.data.dataset_name:
        raise InputError(
            "--dataset_name is missing: give a Hub id, a folder or 'digits', or a recipe such as "
            "--config training/recipes/digits.yaml."
        )
    for name, group in vars(arguments).items():
        if name != "given":
            check_bounds(group)
    _check_sizes(arguments.model, arguments.encoder.is_own)
    _check_encoder(arguments.encoder, arguments.continuation)
    _check_frozen_encoder(arguments)
    _check_tracker(arguments.output.report_to)
    _check_continuation(arguments.continuation)
    if arguments.output.push_to_hub and not arguments.output.hub_model_id:
        raise InputError("--push_to_hub needs a repository: add --hub_model_id org/name.")
    _check_license(arguments.output.license)
    _check_epochs(arguments.optimization)
    if arguments.output.push_memory and not arguments.output.push_to_hub:
        raise InputError("--push_memory publishes beside the model: add --push_to_hub, or leave it out.")
    _check_memory(arguments)


def _check_epochs(optimization: OptimizationArguments) -> None:
    if optimization.updates_per_epoch and optimization.repeated_augmentation > 1:
        counts = " ".join(map(str, optimization.updates_per_epoch))
        raise InputError(
            f"--updates_per_epoch {counts}: --repeated_augmentation {optimization.repeated_augmentation} decides how "
            "long an epoch is: give one of them."
        )


def _check_sizes(model: ModelArguments, has_own_encoder: bool) -> None:
    if has_own_encoder and model.image_size is not None and model.image_size % model.patch_size:
        raise InputError(
            f"--image_size {model.image_size} is not a multiple of --patch_size {model.patch_size}: change one."
        )
    if model.hidden_size % model.num_attention_heads:
        raise InputError(
            f"--hidden_size {model.hidden_size} is not a multiple of --num_attention_heads "
            f"{model.num_attention_heads}: change one."
        )


def _check_encoder(encoder: EncoderArguments, continuation: ContinuationArguments) -> None:
    name, kind = encoder.encoder_name_or_path, encoder.encoder_type
    if name is not None and kind is not None:
        raise InputError(
            f"--encoder_name_or_path {name} is pretrained and --encoder_type {kind} is learned from scratch: give one."
        )
    if not encoder.is_own and continuation.model_name_or_path is not None:
        raise InputError(
            f"--model_name_or_path {continuation.model_name_or_path} has an encoder already: leave "
            f"{'--encoder_name_or_path' if name else '--encoder_type'} out."
        )
    if kind is not None and encoder.freeze_encoder:
        raise InputError(f"--freeze_encoder with --encoder_type {kind} would keep random weights: leave it out.")
    needs = {
        "encoder_revision": name,
        "encoder_options": kind,
        "encoder_output": name or kind,
        "freeze_encoder": name or kind or continuation.model_name_or_path,
        "cached_views": name or continuation.model_name_or_path,
    }
    for option, owner in needs.items():
        value = getattr(encoder, option)
        if value is not None and owner is None:
            raise InputError(
                f"--{option} {value} needs {'--encoder_type' if option == 'encoder_options' else 'an encoder'}: add "
                f"{'it' if option == 'encoder_options' else '--encoder_name_or_path'}, or leave it out."
            )


def _check_frozen_encoder(arguments: Arguments) -> None:
    """Refuses a method that works on a frozen encoder alone without one."""
    encoder, name = arguments.encoder, arguments.method.method
    if not method_named(name or DEFAULT_METHOD).needs_frozen_encoder:
        return
    if encoder.freeze_encoder is False:
        raise InputError(f"--freeze_encoder false: --method {name} needs an encoder that never trains; leave it out.")
    if encoder.encoder_name_or_path is None and arguments.continuation.model_name_or_path is None:
        raise InputError(
            f"--method {name} needs a pretrained encoder, which it does not train: add --encoder_name_or_path "
            "google/vit-base-patch16-224-in21k or another, or choose another method."
        )


def _check_tracker(name: str) -> None:
    # accelerate would leave it out without a word.
    packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
    if name != "none" and not any(map(importlib.util.find_spec, packages)):
        raise InputError(f"--report_to {name} is not installed: pip install {name}, or choose --report_to none.")


def _check_continuation(options: ContinuationArguments) -> None:
    if options.model_name_or_path is None:
        for name, default in asdict(ContinuationArguments()).items():
            value = getattr(options, name)
            if value != default:
                raise InputError(f"--{name} {value} needs --model_name_or_path, the published model to continue.")


def _check_license(name: str | None) -> None:
    # As the Hub checks it, which would refuse the card only after the first step.
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", name):
        raise InputError(
            f"--license {name!r} is no name of a licence on the Hub: give one such as apache-2.0, cc-by-nc-4.0 or "
            "other."
        )


def _check_memory(arguments: Arguments) -> None:
    """Refuses what only a rehearsal memory gives a meaning, for a method that keeps none."""
    if method_named(arguments.method.method or DEFAULT_METHOD).uses_memory:
        return
    options = {
        "push_memory": arguments.output.push_memory,
        "memory_name_or_path": arguments.continuation.memory_name_or_path,
    }
    for name, value in options.items():
        if value:
            raise InputError(
                f"--{name}: --method {arguments.method.method} keeps no rehearsal memory; leave it out, or choose "
                "another method."
            )


def _name_in(word: str) -> str:
    """The option that a word of a command line names."""
    return word.lstrip("-").partition("=")[0].replace("-", "_").removeprefix("no_")


def _unknown_option(word: str, method: str | None, where: str = "") -> str:
    """
    Says of a word that is no option what was probably meant.

    Args:
        word (`str`): the word, as it was written.
        method (`str`, *optional*): the method whose options are known; None where it can be any.
        where (`str`, *optional*): completes "Option ...".
    """
    name = _name_in(word)
    if (removed := REMOVED.get(name)) is not None:
        return f"Option {word}{where} was removed: {removed.advice}"
    if method is not None and (owners := owners_of(name)):
        return (
            f"Option {word}{where} belongs to --method {' and '.join(owners)}, not to {method}: leave it out, or "
            "choose another method."
        )
    kinds = [METHODS[method]] if method else METHODS.values()
    own = [option for kind in kinds for option in option_names(kind.Options)]
    close = difflib.get_close_matches(name, [*option_names(), *own], n=1)
    hint = f"did you mean --{close[0]}?" if close else "see --help for all options."
    return f"Unknown option {word}{where}: {hint}"
