"""
A step to load: to continue it, or to measure it again.

torch is imported only when a model is loaded: what a step was learned with decides which options a run has.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import hf_hub_download, resolve_revision
from huggingface_hub.errors import (
    EntryNotFoundError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from hub.run.errors import InputError, first_line
from hub.run.layout import CONFIG_FILE, RECIPE_FILE, RESULTS_FILE
from hub.run.results import RunResults
from hub.run.text import is_repo_id
from training.arguments import Arguments, ContinuationArguments


if TYPE_CHECKING:
    from transformers import ViTImageProcessor

    from modeling_dytox import IncrementalModel


class ModelSource:
    """
    A step to load, by name: a step folder or a revision on the Hub.

    Args:
        name (`str`): a step folder, or a repository `org/name`.
        revision (`str`, *optional*): of the repository: a tag such as `step5`, a branch or a commit.
        options (`tuple[str, str]`): the options that name it, for errors.
        commit (`str`, *optional*): the one that the revision named when a run began; the run continues with it.

    Raises:
        InputError: the folder does not exist, or holds no step; a folder is given a revision.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        options: tuple[str, str] = ("--model", "--revision"),
        commit: str | None = None,
    ) -> None:
        self.name = name
        self.revision = revision
        self._commit = commit
        self.option, self.revision_option = options
        path = Path(name).expanduser()
        self.folder = path if path.is_dir() else None
        if self.folder is not None:
            self._check_step_folder(self.folder)
        elif not is_repository(name):
            raise InputError(
                f"{self.option} {name} is not a folder: give a step folder, or a repository 'org/name' on the Hub."
            )

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name} at {self.revision}"

    @cached_property
    def commit(self) -> str | None:
        """
        The commit that the revision names, None for a folder. All files are taken from it, even if the revision moves
        meanwhile.

        Raises:
            InputError: the repository or the revision does not exist, or the Hub cannot be reached.
        """
        if self.folder is not None or self._commit is not None:
            return self._commit
        try:
            resolved: str = resolve_revision(self.name, revision=self.revision).resolved
            return resolved
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise InputError(
                f"{self.option} {self} does not exist on the Hub, or is hidden from your token: give a repository and "
                f"one of its revisions with {self.revision_option}."
            ) from error
        except (OSError, ValueError, HTTPError, RevisionResolutionError) as error:
            raise InputError(
                f"{self.option} {self} cannot be looked up on the Hub ({first_line(error)}): check the connection."
            ) from error

    def load(self) -> tuple[IncrementalModel, ViTImageProcessor]:
        """
        Its model and image processor.

        Raises:
            InputError: they do not exist, are damaged, or are of another architecture.
        """
        from transformers import ViTImageProcessor

        from training.run.model import LOADING_ERRORS, WeightsError, load_model, loading_problem

        source, revision = self.folder or self.name, self.commit or "main"
        try:
            model = load_model(source, revision=revision)
            processor = ViTImageProcessor.from_pretrained(source, revision=revision)
        except WeightsError as error:
            raise InputError(
                f"{self.option} {self}: {error}; publish the step again, or copy its folder as a whole."
            ) from error
        except LOADING_ERRORS as error:
            raise InputError(
                f"{self.option} {self} cannot be loaded ({loading_problem(error)}): give a step folder, or a "
                "repository on the Hub and one of its revisions."
            ) from error
        return model, processor

    def results(self) -> RunResults:
        """
        What the run measured up to this step, as its `results.json` records.

        Raises:
            InputError: the repository or the revision does not exist, or there is no usable `results.json`.
        """
        commit = self.commit
        try:
            if self.folder is not None:
                return RunResults.read(self.folder / RESULTS_FILE)
            return RunResults.read(Path(hf_hub_download(self.name, RESULTS_FILE, revision=commit)))
        except (OSError, ValueError, HTTPError) as error:
            raise InputError(
                f"{self.option} {self} has no usable {RESULTS_FILE} ({first_line(error)}): give a step that was saved "
                "by training/incremental.py."
            ) from error

    def file(self, name: str) -> Path:
        """
        A file of the step, downloaded if the step is on the Hub; a path without a file where the step has none.

        Raises:
            InputError: it cannot be downloaded.
        """
        commit = self.commit
        if self.folder is not None:
            return self.folder / name
        try:
            return Path(hf_hub_download(self.name, name, revision=commit))
        except (OSError, ValueError, HTTPError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return Path(str(self), name)
            raise InputError(
                f"{self.option} {self}: {name} cannot be downloaded ({first_line(error)}): check the connection and "
                "your token, and run the same command again."
            ) from error

    def _check_step_folder(self, folder: Path) -> None:
        if self.revision is not None:
            inside = folder / self.revision
            hint = f"name {inside} instead" if inside.is_dir() else "leave it out"
            raise InputError(f"{self.revision_option} {self.revision} has no meaning for the folder {folder}: {hint}.")
        if (folder / CONFIG_FILE).is_file():
            return
        steps = sorted(folder.glob(f"step*/{CONFIG_FILE}"))
        hint = f"name one of its steps, such as {steps[-1].parent}" if steps else "give the folder of a step"
        raise InputError(f"{self.option} {folder} holds no model: {hint}.")


def source_to_continue(arguments: Arguments) -> ModelSource:
    """
    The step that the options name to be continued.

    Raises:
        InputError: it does not exist, or lies where the new run is written.
    """
    options, output_dir = arguments.continuation, Path(arguments.output.output_dir)
    commit = None if arguments.output.overwrite_output_dir else _commit_before(output_dir, options)
    names = ("--model_name_or_path", "--model_revision")
    source = ModelSource(str(options.model_name_or_path), options.model_revision, names, commit)
    _check_apart(source, output_dir)
    return source


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


def is_repository(name: str) -> bool:
    """Whether `name` has the form of a repository 'org/name' on the Hub, and is no path of this machine."""
    return is_repo_id(name) and not Path(name).expanduser().exists()
