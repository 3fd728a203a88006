"""A published step to teach more classes: its model, image processor, results and rehearsal memory."""

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import ViTImageProcessor
from transformers.utils import logging

from hub.run.errors import InputError, first_line
from hub.run.layout import MEMORY_FILE, MEMORY_SUFFIX, RECIPE_FILE, memory_file, step_name
from hub.run.results import Ancestor, RunResults
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from training.arguments import Arguments, ContinuationArguments, MethodArguments, ModelArguments
from training.data.memory import RehearsalMemory, check_memory
from training.data.scenario import LearnedClasses
from training.run.model_source import ModelSource, is_repository
from training.run.results import with_metrics


logger = logging.get_logger(__name__)


class MissingMemoryError(InputError):
    """There is no rehearsal memory where it is looked for."""


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
        other = f", which was learned with {self.method}, by the method {method}"
        return f"{line}{other if method != self.method else ''}."

    def load_memory(self, memory: RehearsalMemory) -> str:
        """
        Fills `memory` with the exemplars of the step, as many of each class as it has room for.

        Returns:
            `str`: a digest of the memory's file, or "none".

        Raises:
            InputError: there is no such memory, it is damaged, or it is of another model.
        """
        class_names = self.model.config.class_names
        path = self._memory_file_if_any()
        if path is None:
            logger.warning(
                f"The run continues {self.source} without exemplars of the {len(class_names)} classes that it knows: "
                "expect it to forget much of those that the data set holds no images of."
            )
            return "none"
        check_memory(path, class_names)
        memory.load(path)
        memory.cut(len(class_names))
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()

    def _memory_file_if_any(self) -> Path | None:
        if self.options.memory_name_or_path == "none":
            return None
        try:
            return self.memory_file()
        except MissingMemoryError:
            # Merged classes bring images to choose exemplars from.
            if self.options.memory_name_or_path is None and self.options.known_classes == "merge":
                return None
            raise

    def memory_file(self) -> Path:
        """
        The Parquet file of the rehearsal memory, downloaded if it is on the Hub.

        Raises:
            MissingMemoryError: it does not exist.
            InputError: it cannot be downloaded.
        """
        name = self.options.memory_name_or_path or self._memory_beside_the_model()
        if not is_repository(name):
            path = Path(name).expanduser()
            if not path.is_file():
                raise self._no_memory(f"{name} is no file")
            return path
        try:
            revision = step_name(self.num_steps)
            return Path(hf_hub_download(name, MEMORY_FILE, repo_type="dataset", revision=revision))
        except (LocalEntryNotFoundError, GatedRepoError) as error:
            # Special cases of what follows, which say nothing about whether there is a memory.
            raise self._not_downloaded(name, error) from error
        except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
            raise self._no_memory(f"the data set {name} has no {revision}") from None
        except (OSError, ValueError, HTTPError) as error:
            raise self._not_downloaded(name, error) from error

    def _memory_beside_the_model(self) -> str:
        folder = self.source.folder
        if folder is None:
            return self.source.name + MEMORY_SUFFIX
        return str(memory_file(folder.absolute().parent, self.num_steps))

    def _not_downloaded(self, name: str, error: Exception) -> InputError:
        return InputError(
            f"The rehearsal memory {name} cannot be downloaded ({first_line(error)}): see to the connection and to "
            "your token, and run the same command again."
        )

    def _no_memory(self, reason: str) -> MissingMemoryError:
        return MissingMemoryError(
            f"No rehearsal memory found for {self.source} ({reason}). Without exemplars the model would forget its "
            f"{self.model.config.num_labels} classes: pass --memory_name_or_path FILE, or --known_classes merge to "
            "draw exemplars from your data set, or --memory_name_or_path none to continue without."
        )


def load_continuation(arguments: Arguments) -> Continuation | None:
    """
    The published step that the options name, None if they name none.

    Raises:
        InputError: it does not exist, is damaged, or is no step of a run.
    """
    options = arguments.continuation
    if options.model_name_or_path is None:
        return None
    output_dir = Path(arguments.output.output_dir)
    commit = None if arguments.output.overwrite_output_dir else _commit_before(output_dir, options)
    names = ("--model_name_or_path", "--model_revision")
    source = ModelSource(options.model_name_or_path, options.model_revision, names, commit)
    _check_apart(source, output_dir)
    model, processor = source.load()
    model.set_attn_implementation(arguments.model.attn_implementation)
    results = _results_of(source, model.config)
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


def _results_of(source: ModelSource, config: DyToxConfig) -> RunResults:
    try:
        results = RunResults.read(source.results_file())
    except (OSError, ValueError, HTTPError) as error:
        raise InputError(
            f"{source.option} {source} has no usable results.json ({first_line(error)}), which tells what its steps "
            "are: give a step that was trained and saved by training/incremental.py."
        ) from error
    names = [name for step in results.steps for name in step.classes]
    if names != config.class_names or len(results.steps) != len(config.step_class_ranges):
        raise InputError(
            f"{source.option} {source}: results.json tells of {len(results.steps)} steps and {len(names)} classes, "
            f"the model has {len(config.step_class_ranges)} and {config.num_labels}, or names them otherwise: give a "
            "step folder or a revision as it was published."
        )
    return results


def _with_values_of(config: DyToxConfig, options: Any, defaults: Any) -> Any:
    """`options` with the values that the config decides; who asks for another value is told."""
    decided = (field.name for field in fields(options) if field.name in _config_fields(config))
    own = {name: _plain(getattr(config, name)) for name in decided}
    for name, value in own.items():
        asked = getattr(options, name)
        if asked not in (getattr(defaults, name), value):
            raise InputError(
                f"--{name} {asked} contradicts the model that is continued, which has {value}: leave it out."
            )
    return replace(options, **own)


def _config_fields(config: DyToxConfig) -> set[str]:
    return {field.name for field in fields(type(config))}


def _plain(size: Any) -> Any:
    """Sizes of square images as one number, as the options have them."""
    if isinstance(size, (list, tuple)):
        if len(set(size)) > 1:
            raise InputError(f"The model that is continued takes images of {size} pixels: only square ones can be.")
        return size[0]
    return size
