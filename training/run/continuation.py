"""A published step to teach more classes: its model, image processor and results."""

import copy
from dataclasses import dataclass, fields, replace
from typing import Any

from transformers import PreTrainedConfig, ViTImageProcessor

from hub.run.errors import InputError
from hub.run.layout import RECIPE_FILE
from hub.run.results import Ancestor, RunResults
from modeling_dytox import IncrementalModel
from training.arguments import Arguments, ContinuationArguments, EncoderArguments, ModelArguments
from training.data.scenario import LearnedClasses
from training.methods import METHODS, Method, method_named
from training.methods.building import set_attention
from training.parsing import option_names, own_options
from training.run.model_source import ModelSource, source_to_continue
from training.run.recipe import read_recipe
from training.run.results import with_metrics


@dataclass(frozen=True)
class Continuation:
    """
    What a run that continues a published step starts from.

    Args:
        options (`ContinuationArguments`): what was asked for.
        source (`ModelSource`): the step.
        model (`IncrementalModel`): its model.
        processor (`ViTImageProcessor`): its image processor.
        results (`RunResults`): what was measured up to it.
    """

    options: ContinuationArguments
    source: ModelSource
    model: IncrementalModel
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
        The options with the sizes of the model, the commit that its revision names now, and the options of the method
        that the model was learned with, where others are not given.

        Raises:
            InputError: an option asks for another size, or the recipe of the step is damaged.
        """
        config = self.model.config
        sizes = _with_values_of(config, arguments.model, ModelArguments())
        encoder = arguments.encoder
        if config.encoder_config is not None:
            encoder = _with_values_of(config, encoder, EncoderArguments())
        if encoder.cached_views is None and config.freeze_encoder:
            encoder = replace(encoder, cached_views=1)
        own = self._own_options(arguments)
        own = _with_values_of(config, own, type(own)())
        pinned = replace(self.options, model_revision=self.source.commit)
        return replace(arguments, continuation=pinned, model=sizes, encoder=encoder, options=own)

    def _own_options(self, arguments: Arguments) -> Any:
        """The options of the method; those that are not given are as in the recipe of the step, if it is the same."""
        options, path = arguments.options, self.source.file(RECIPE_FILE)
        if arguments.method.method != self.method or not path.is_file():
            return options
        recipe = read_recipe(path, "give a step as it was published.")
        names = set(option_names(type(options))) & recipe.keys() - arguments.given
        kept = {name: recipe[name] for name in sorted(names)}
        learned_with = own_options(self.method, kept, path)
        return replace(options, **{name: getattr(learned_with, name) for name in kept})

    def empty_model(self) -> IncrementalModel:
        """A model of the same shape, with weights of its own."""
        return type(self.model)(copy.deepcopy(self.model.config))

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

    def describe(self, method: Method) -> list[str]:
        """What is continued, by another method if that is so, and with which options of it: lines for the user."""
        line = f"Continues {self.source} after step {self.num_steps}"
        if method.name != self.method:
            line += f", which was learned with {self.method}; the new steps are learned with {method.name}"
        defaults = type(method.options)()
        own = [f"--{name} {value}" for name, value in vars(method.options).items() if value != getattr(defaults, name)]
        return [f"{line}.", *([f"Options of {method.name} beside the defaults: {', '.join(own)}."] if own else [])]


def load_continuation(arguments: Arguments) -> Continuation | None:
    """
    The published step that the options name, None if they name none.

    Raises:
        InputError: it does not exist, is damaged, is no step of a run, or cannot be continued by the method.
    """
    options = arguments.continuation
    if options.model_name_or_path is None:
        return None
    source = source_to_continue(arguments)
    # Before the model is downloaded.
    results = source.results()
    model, processor = source.load()
    _check_architecture(method_named(str(arguments.method.method)), model.config)
    set_attention(model, arguments.model.attn_implementation)
    _check_same_classes(source, results, model.config)
    return Continuation(options, source, model, processor, results)


def _check_architecture(method: type[Method], config: PreTrainedConfig) -> None:
    """Refuses a method that cannot teach models of this architecture, or with these parts."""
    reason = _why_not(method, config)
    if reason is not None:
        able = [kind for kind in METHODS.values() if kind.card.can_continue and _why_not(kind, config) is None]
        names = ", ".join(kind.name for kind in able)
        raise InputError(f"--method {method.name} {reason}: choose --method among {names}.")


def _why_not(method: type[Method], config: PreTrainedConfig) -> str | None:
    """Why the method cannot continue a model with this config; None if it can."""
    if config.model_type != method.architecture and not method.continues_any:
        return f"teaches models of type {method.architecture!r}, the model that is continued is {config.model_type!r}"
    for name, value in method.needs_fields.items():
        if (found := getattr(config, name)) != value:
            return f"teaches models with {name} {value!r}, the model that is continued has {found!r}"
    if getattr(config, "bias_correction", False) and not method.needs_fields.get("bias_correction"):
        return "would keep the correction of old logits, of which it knows nothing"
    has_prototypes = getattr(config, "keeps_prototypes", False) or getattr(config, "prediction", "") == "nearest_mean"
    if has_prototypes and not method.uses_memory:
        return "has no exemplars, from which the model that is continued makes a prototype of each class"
    return None


def _check_same_classes(source: ModelSource, results: RunResults, config: PreTrainedConfig) -> None:
    names, num_steps = results.class_names, len(config.step_class_ranges)
    if names != config.class_names or len(results.steps) != num_steps:
        raise InputError(
            f"{source.option} {source}: results.json has {len(results.steps)} steps and {len(names)} classes, the "
            f"model {num_steps} and {config.num_labels}, or other names: give a step folder or a revision as it was "
            "published."
        )


def _with_values_of(config: PreTrainedConfig, options: Any, defaults: Any) -> Any:
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
