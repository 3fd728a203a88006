"""A step to load: to continue it, or to measure it again."""

from functools import cached_property
from pathlib import Path

from huggingface_hub import hf_hub_download, resolve_revision
from huggingface_hub.errors import (
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from transformers import ViTImageProcessor

from hub.run.errors import InputError, first_line
from hub.run.layout import CONFIG_FILE, RESULTS_FILE
from hub.run.results import RunResults
from hub.run.text import is_repo_id
from modeling_dytox import DyToxForImageClassification
from training.run.model import LOADING_ERRORS, WeightsError, load_model, loading_problem


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

    def load(self) -> tuple[DyToxForImageClassification, ViTImageProcessor]:
        """
        Its model and image processor.

        Raises:
            InputError: they do not exist, are damaged, or are of another architecture.
        """
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


def is_repository(name: str) -> bool:
    """Whether `name` has the form of a repository 'org/name' on the Hub, and is no path of this machine."""
    return is_repo_id(name) and not Path(name).expanduser().exists()
