"""A published step to teach more classes: its model, image processor, results and rehearsal memory."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
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
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from training.arguments import Arguments, ContinuationArguments, MethodArguments, ModelArguments
from training.data.memory import RehearsalMemory
from training.data.scenario import KnownClasses
from training.run.model_source import PublishedStep, is_repository
from training.run.results import Results
from training.run.run_folder import RECIPE_FILE


logger = logging.get_logger(__name__)

# Where a published memory is: a data set repository beside the model, with the same tags.
MEMORY_SUFFIX = "-memory"
MEMORY_FILE = "data/train.parquet"

# The options that a model that exists has decided already.
_OF_THE_MODEL = (
    "image_size",
    "patch_size",
    "hidden_size",
    "num_hidden_layers",
    "num_task_attention_layers",
    "num_attention_heads",
    "intermediate_size",
    "drop_path_rate",
    "encoder_attention",
)
_OF_THE_METHOD = ("token_expansion", "independent_classifiers")


class MissingMemoryError(InputError):
    """There is no rehearsal memory where it is looked for."""


@dataclass(frozen=True)
class Continuation:
    """
    What a run that continues a published step starts from.

    Args:
        options (`ContinuationArguments`): what was asked for.
        source (`PublishedStep`): the step.
        model (`DyToxForImageClassification`): its model.
        processor (`ViTImageProcessor`): its image processor.
        results (`Results`): what was measured up to it.
    """

    options: ContinuationArguments
    source: PublishedStep
    model: DyToxForImageClassification
    processor: ViTImageProcessor
    results: Results

    @property
    def num_steps(self) -> int:
        """Steps that are learned already."""
        return len(self.results.steps)

    @property
    def known(self) -> KnownClasses:
        """The classes that are learned already, and what to do with further images of them."""
        names = tuple(self.model.config.class_names)
        return KnownClasses(names, self.num_steps, self.options.known_classes)

    def architecture_in(self, arguments: Arguments) -> Arguments:
        """
        The options with the sizes that the model has, and the commit that its revision names now.

        Raises:
            InputError: an option asks for another size.
        """
        config = self.model.config
        sizes = _taken_over(arguments.model, ModelArguments(), config, _OF_THE_MODEL)
        method = _taken_over(arguments.method, MethodArguments(), config, _OF_THE_METHOD)
        pinned = replace(self.options, model_revision=self.source.commit)
        return replace(arguments, continuation=pinned, model=sizes, method=method)

    def ancestors(self) -> list[dict[str, Any]]:
        """The published models that this run goes back to, the oldest first, as `results.json` lists them."""
        own = {
            "model": self.source.name if self.source.folder is None else self.source.folder.resolve().name,
            "revision": self.source.revision,
            "commit": self.source.commit,
            "num_steps": self.num_steps,
            "dataset": self.results.dataset,
        }
        return [*self.results.ancestors, own]

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
            revision = f"step{self.num_steps}"
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
        return str(folder.absolute().parent / "memory" / f"step{self.num_steps}.parquet")

    def _not_downloaded(self, name: str, error: Exception) -> InputError:
        return InputError(
            f"The rehearsal memory {name} cannot be downloaded ({first_line(error)}): see to the connection and to "
            "your token, and run the same command again."
        )

    def _no_memory(self, reason: str) -> MissingMemoryError:
        return MissingMemoryError(
            f"The rehearsal memory of {self.source} is not to be had ({reason}), and without exemplars of its "
            f"{self.model.config.num_labels} classes it would forget them: give one with --memory_name_or_path, let "
            "--known_classes merge draw it from images of your data set, or go on without by --memory_name_or_path "
            "none."
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
    source = PublishedStep(options.model_name_or_path, options.model_revision, names, commit)
    _check_apart(source, output_dir)
    model, processor = source.load()
    model.set_attn_implementation(arguments.model.attn_implementation)
    results = _results_of(source, model.config)
    return Continuation(options, source, model, processor, results)


def check_memory(path: Path, class_names: Sequence[str]) -> None:
    """
    Makes sure that a rehearsal memory holds exemplars of each of these classes, under these label ids.

    Raises:
        InputError: it does not, or cannot be read.
    """
    advice = "give the memory of the step that is continued, see --memory_name_or_path."
    try:
        columns = pq.read_table(path, columns=["label", "class_name", "step", "source_index"]).to_pydict()
        pq.read_schema(path).field("image")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"The rehearsal memory {path.name} cannot be read ({first_line(error)}): {advice}") from error
    if any(value is None for column in columns.values() for value in column):
        raise InputError(f"The rehearsal memory {path.name} lacks values in some rows: {advice}")
    named = dict(zip(columns["label"], columns["class_name"], strict=True))
    if sorted(named) != list(range(len(class_names))):
        raise InputError(
            f"The rehearsal memory {path.name} is of another step or model: it has exemplars of {len(named)} classes, "
            f"the model knows {len(class_names)}; {advice}"
        )
    for label, name in sorted(named.items()):
        if name != class_names[label]:
            raise InputError(
                f"The rehearsal memory {path.name} is of another model: its label {label} is {name!r}, that of the "
                f"model {class_names[label]!r}; {advice}"
            )


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


def _check_apart(source: PublishedStep, output_dir: Path) -> None:
    """What is continued must not lie where the new run is written, and may be deleted."""
    if source.folder is not None and source.folder.resolve().is_relative_to(output_dir.resolve()):
        raise InputError(
            f"--output_dir {output_dir} holds the step that is continued, {source}: choose another folder."
        )


def _results_of(source: PublishedStep, config: DyToxConfig) -> Results:
    try:
        results = Results.read(source.results_file())
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


def _taken_over(options: Any, defaults: Any, config: DyToxConfig, names: Sequence[str]) -> Any:
    """`options` with the values of the model; who asks for a value that it does not have is told."""
    own = {name: _plain(getattr(config, name)) for name in names}
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
            raise InputError(f"The model that is continued takes images of {size} pixels: only square ones can be.")
        return size[0]
    return size
