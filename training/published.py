"""A step of a run as it was published: a step folder, or a revision on the Hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from transformers import PreTrainedConfig, ViTImageProcessor

from modeling_dytox import DyToxConfig, DyToxForImageClassification
from training.errors import InputError, first_line
from training.model import LOADING_ERRORS, MissingWeightsError, load_model
from training.run_folder import RESULTS_FILE


class PublishedStep:
    """
    A step folder or a revision on the Hub, by name.

    Args:
        name (`str`): a step folder, or a repository `org/name`.
        revision (`str`, *optional*): of the repository: a tag such as `step5`, a branch or a commit.

    Raises:
        InputError: the folder does not exist, or holds no step; a folder is given a revision.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name = name
        self.revision = revision
        path = Path(name).expanduser()
        self.folder = path if path.is_dir() else None
        if self.folder is not None:
            _check_step_folder(self.folder, revision)
        elif path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
            raise InputError(
                f"--model {name} is no folder: give a step folder, or a repository 'org/name' on the Hub."
            )

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name} at {self.revision}"

    def load(self) -> tuple[DyToxForImageClassification, ViTImageProcessor]:
        """
        Its model and image processor.

        Raises:
            InputError: they do not exist, are damaged, or are of another architecture.
        """
        source, revision = str(self.folder or self.name), self.revision or "main"
        try:
            config, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
            self._check_architecture(config)
            model = load_model(source, revision=revision)
            processor = ViTImageProcessor.from_pretrained(source, revision=revision)
        except InputError:
            raise
        except MissingWeightsError as error:
            raise InputError(
                f"--model {self} {error}: publish the step again, or copy its folder as a whole."
            ) from error
        except LOADING_ERRORS as error:
            raise InputError(
                f"--model {self} cannot be loaded ({first_line(error)}): give a step folder, or a repository on the "
                "Hub and one of its revisions."
            ) from error
        return model, processor

    def recorded(self, step: int) -> Mapping[str, Any]:
        """
        What the run measured after this step, as its `results.json` tells.

        Raises:
            InputError: there is no `results.json`, or it does not tell of the step.
        """
        try:
            steps = json.loads(self._results_file().read_text(encoding="utf-8"))["steps"]
            found = [entry for entry in steps if entry["step"] == step]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{RESULTS_FILE} of {self} cannot be read ({first_line(error)}).") from error
        if not found:
            raise InputError(f"{RESULTS_FILE} of {self} holds no step {step}.")
        return found[0]

    def _results_file(self) -> Path:
        if self.folder is not None:
            return self.folder / RESULTS_FILE
        return Path(hf_hub_download(self.name, RESULTS_FILE, revision=self.revision))

    def _check_architecture(self, config: Mapping[str, Any]) -> None:
        architecture = config.get("model_type")
        if architecture != DyToxConfig.model_type:
            raise InputError(f"--model {self} is of type {architecture}, expected dytox: give a step of a DyTox run.")


def _check_step_folder(folder: Path, revision: str | None) -> None:
    if revision is not None:
        hint = f"name {folder / revision} instead" if (folder / revision).is_dir() else "leave it out"
        raise InputError(f"--revision {revision} has no meaning for the folder {folder}: {hint}.")
    if (folder / "config.json").is_file():
        return
    steps = sorted(folder.glob("step*/config.json"))
    hint = f"name one of its steps, such as {steps[-1].parent}" if steps else "give the folder of a step"
    raise InputError(f"--model {folder} holds no model: {hint}.")
