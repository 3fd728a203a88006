"""A published step to teach more classes: its model, image processor and results."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml
from transformers import ViTImageProcessor

from hub.run.errors import InputError
from hub.run.layout import RECIPE_FILE
from hub.run.results import Ancestor, RunResults
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from training.arguments import Arguments, ContinuationArguments, MethodArguments, ModelArguments
from training.data.scenario import LearnedClasses
from training.methods import METHODS
from training.run.model_source import ModelSource
from training.run.results import with_metrics


@dataclass(frozen=True)
class Continuation:
    """
    What a run that continues a published step starts from.

    Args:
        options (`ContinuationArguments`): what was asked for.
        source (`ModelSource`): the step.
        model (`DyToxForImageClassification`): its model.
        processor (`ViTImageProcessor`): its image processor.
        results (`RunResults`): what was measured up to it.
    """

    options: ContinuationArguments
    source: ModelSource
    model: DyToxForImageClassification
    processor: ViTImageProcessor
    results: RunResults

    @property
    def method(self) -> str:
        """The method that the model was learned with."""
        return self.results.method

    @property
    def num_steps(self) -> int:
        """Steps that are learned already."""
        return len(self.results.steps)

    @property
    def known(self) -> LearnedClasses:
        """The classes that are learned already, and what to do with further images of them."""
        names = tuple(self.model.config.class_names)
        return LearnedClasses(names, self.num_steps, self.options.known_classes)

    def options_in(self, arguments: Arguments) -> Arguments:
        """
        The options with the sizes and the method of the model, and the commit that its revision names now. The model
        is taught by the method it was learned with, unless another is asked for.

        Raises:
            InputError: an option asks for another size.
        """
        config = self.model.config
        sizes = _with_values_of(config, arguments.model, ModelArguments())
        method = _with_values_of(config, arguments.method, MethodArguments())
        method = replace(method, method=arguments.method.method or self.method)
        pinned = replace(self.options, model_revision=self.source.commit)
        return replace(arguments, continuation=pinned, model=sizes, method=method)

    def ancestors(self) -> tuple[Ancestor, ...]:
        """The published models that this run continues, the oldest first, as `results.json` lists them."""
        own = Ancestor(
            model=self.source.name if self.source.folder is None else self.source.folder.resolve().name,
            revision=self.source.revision,
            commit=self.source.commit,
            num_steps=self.num_steps,
            dataset=self.results.dataset,
            method=self.method,
        )
        return (*self.results.ancestors, own)

    def results_before(self, results: RunResults) -> RunResults:
        """`results` of a run without steps, with those of the steps that the model has learned already."""
        return with_metrics(replace(results, steps=self.results.steps, ancestors=self.ancestors()))

    def describe(self, method: str) -> str:
        """What is continued, and by another method if that is so, in a line for the user."""
        line = f"Continues {self.source} after step {self.num_steps}"
        if method == self.method:
            return f"{line}."
        return f"{line}, which was learned with {self.method}; the new steps are learned with {method}."


def load_continuation(arguments: Arguments) -> Continuation | None:
    """
    The published step that the options name, None if they name none.

    Raises:
        InputError: it does not exist, is damaged, is no step of a run, or cannot be continued by the method.
    """
    options = arguments.continuation
    if options.model_name_or_path is None:
        return None
    output_dir = Path(arguments.output.output_dir)
    commit = None if arguments.output.overwrite_output_dir else _commit_before(output_dir, options)
    names = ("--model_name_or_path", "--model_revision")
    source = ModelSource(options.model_name_or_path, options.model_revision, names, commit)
    _check_apart(source, output_dir)
    # Before the model is downloaded.
    results = source.results()
    _check_can_continue(arguments.method.method, results.method)
    model, processor = source.load()
    model.set_attn_implementation(arguments.model.attn_implementation)
    _check_same_classes(source, results, model.config)
    return Continuation(options, source, model, processor, results)


def _commit_before(output_dir: Path, options: ContinuationArguments) -> str | None:
    """The commit that the run in `output_dir` began with, if that was `main`, which may have moved meanwhile."""
    if options.model_revision not in (None, "main"):
        return None
    try:
        recipe = yaml.safe_load((output_dir / RECIPE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    same = isinstance(recipe, dict) and recipe.get("model_name_or_path") == options.model_name_or_path
    return recipe.get("model_revision") if same else None


def _check_apart(source: ModelSource, output_dir: Path) -> None:
    """What is continued must not lie where the new run is written, and may be deleted."""
    if source.folder is not None and source.folder.resolve().is_relative_to(output_dir.resolve()):
        raise InputError(
            f"--output_dir {output_dir} holds the step that is continued, {source}: choose another folder."
        )


def _check_can_continue(asked: str | None, learned: str) -> None:
    """Refuses a method, asked for or else the one that the model was learned with, that cannot add a step."""
    name = asked or learned
    if name in METHODS and METHODS[name].card.can_continue:
        return
    able = ", ".join(name for name, method in METHODS.items() if method.card.can_continue)
    problem = "cannot continue a model" if name in METHODS else "is unknown"
    subject = f"--method {name}" if asked else f"The method {name}, with which the model was learned,"
    raise InputError(f"{subject} {problem}: choose --method among {able}.")


def _check_same_classes(source: ModelSource, results: RunResults, config: DyToxConfig) -> None:
    names, num_steps = results.class_names, len(config.step_class_ranges)
    if names != config.class_names or len(results.steps) != num_steps:
        raise InputError(
            f"{source.option} {source}: results.json has {len(results.steps)} steps and {len(names)} classes, the "
            f"model {num_steps} and {config.num_labels}, or other names: give a step folder or a revision as it was "
            "published."
        )


def _with_values_of(config: DyToxConfig, options: Any, defaults: Any) -> Any:
    """`options` with the values that the config decides; another value is refused."""
    decided = {field.name for field in fields(options)} & {field.name for field in fields(type(config))}
    own = {name: _plain(getattr(config, name)) for name in sorted(decided)}
    for name, value in own.items():
        asked = getattr(options, name)
        if asked not in (getattr(defaults, name), value):
            raise InputError(
                f"--{name} {asked} contradicts the model that is continued, which has {value}: leave it out."
            )
    return replace(options, **own)


def _plain(size: Any) -> Any:
    """Sizes of square images as one number, as the options have them."""
    if isinstance(size, (list, tuple)):
        if len(set(size)) > 1:
            raise InputError(f"The model that is continued takes images of {size} pixels: give one for square images.")
        return size[0]
    return size
