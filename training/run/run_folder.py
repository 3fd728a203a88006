"""The folder of a run: one complete folder a step, the memory after each step, and what was asked for."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from transformers import ViTImageProcessor

from hub.run.atomic import disk_errors_named, write_aside
from hub.run.errors import InputError, one_line
from modeling_dytox import DyToxForImageClassification
from training.arguments import Arguments
from training.run.model import LOADING_ERRORS, load_model
from training.run.results import Results


RECIPE_FILE = "training_config.yaml"
RESULTS_FILE = "results.json"
LOG_FILE = "log.jsonl"
FINGERPRINT_FILE = "data_fingerprint.json"
LOCK_FILE = ".lock"
TRACKER_FOLDER = "tracker"
FOLDERS = rf"\.?step\d+(\.partial)?|memory|checkpoints|{TRACKER_FOLDER}"


class RunFolder:
    """
    `output_dir` of a run. A step folder is complete or absent: it is written aside, then renamed.

    Args:
        path (`Path`): the folder; made when it does not exist.
        recipe (`dict[str, Any]`): the options that decide the result of the run.
        num_known_steps (`int`): steps of the published model that the run continues, whose folders are elsewhere.
    """

    def __init__(self, path: Path, recipe: dict[str, Any], num_known_steps: int = 0) -> None:
        self.path = path
        self.recipe = recipe
        self.num_known_steps = num_known_steps
        self._lock = FileLock(path / LOCK_FILE, blocking=False)

    def open(self, fingerprint: Mapping[str, str], overwrite: bool = False) -> None:
        """
        Makes the folder ready: new, or continuing a run of the same recipe on the same data. Until `close`, or the end
        of the process, no other run can open it.

        Args:
            fingerprint (`Mapping[str, str]`): of each split, see [`training.run.checks.check_images`].
            overwrite (`bool`): delete the run that the folder holds.

        Raises:
            InputError: the folder is in use, holds a run of another recipe or on other data, or something else, or
                cannot be written.
        """
        try:
            if overwrite:
                self._check_is_run()
            else:
                self.check_recipe()
                self._check_same_data(fingerprint)
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if overwrite:
                self._clear()
            write_aside(self.path / RECIPE_FILE, _to_yaml(self.recipe))
            write_aside(self.path / FINGERPRINT_FILE, json.dumps(dict(fingerprint), indent=2) + "\n")
            for leftover in self.path.glob(".step*.partial"):
                shutil.rmtree(leftover)
        except Timeout as error:
            raise InputError(
                f"--output_dir {self.path} is in use by another run, perhaps one whose launcher has ended: wait for "
                "it or stop it, or choose another folder."
            ) from error
        except OSError as error:
            raise InputError(
                f"--output_dir {self.path} cannot be written ({error.strerror}): choose another folder."
            ) from error

    def close(self) -> None:
        """Lets other runs open the folder."""
        self._lock.release(force=True)

    def step_folder(self, step: int) -> Path:
        """Where the model of a step is, or will be."""
        return self.path / f"step{step}"

    def memory_file(self, step: int) -> Path:
        """Where the exemplars after a step are, or will be."""
        return self.path / "memory" / f"step{step}.parquet"

    @property
    def checkpoints(self) -> Path:
        """Where the states within the step being learned are."""
        return self.path / "checkpoints"

    def last_step(self) -> int:
        """The last step that is complete, with all before it; if none is, the last one known from elsewhere, or 0."""
        step = self.num_known_steps
        while (self.step_folder(step + 1) / RESULTS_FILE).is_file():
            step += 1
        return step

    def results_after(self, step: int) -> Results:
        """What the run had measured after a complete step."""
        return Results.read(self.step_folder(step) / RESULTS_FILE)

    def save_step(
        self,
        step: int,
        model: DyToxForImageClassification,
        processor: ViTImageProcessor,
        results: Results,
        finish: Callable[[Path], None],
    ) -> Path:
        """
        Writes the folder of a step, lets `finish` add to it, and gives it its name; then renews `results.json`.

        Args:
            finish: called with the folder while it is still written aside, e.g. to add a card and figures.

        Raises:
            InputError: the disk is full, or cannot be written.
        """
        with disk_errors_named(self.step_folder(step)), self._written_aside(self.step_folder(step)) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            results.write(folder / RESULTS_FILE)
            write_aside(folder / RECIPE_FILE, _to_yaml(publishable(self.recipe)))
            finish(folder)
        self.save_results(results)
        return self.step_folder(step)

    def save_results(self, results: Results) -> None:
        """
        Renews `results.json` of the run.

        Raises:
            InputError: the disk is full, or cannot be written.
        """
        with disk_errors_named(self.path / RESULTS_FILE):
            results.write(self.path / RESULTS_FILE)

    def load_model(self, step: int, attn_implementation: str) -> DyToxForImageClassification:
        """
        The model of a complete step, to go on from.

        Raises:
            InputError: the folder is damaged.
        """
        folder = self.step_folder(step)
        try:
            return load_model(folder, attn_implementation=attn_implementation)
        except LOADING_ERRORS as error:
            raise InputError(
                f"{folder} cannot be loaded ({one_line(error)}): delete it to learn step {step} again."
            ) from error

    @contextmanager
    def _written_aside(self, final: Path) -> Iterator[Path]:
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
        except (OSError, SafetensorError):
            # What is left of it would take up a disk that may be full.
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if final.exists():
            # It follows a gap, or lost its results: the run has learned this step anew.
            shutil.rmtree(final)
        partial.rename(final)

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / RECIPE_FILE).is_file()

    def check_recipe(self) -> None:
        """
        Makes sure that the folder is new, or holds a run of this recipe.

        Raises:
            InputError: it holds a run of another recipe, or something else.
        """
        file = self.path / RECIPE_FILE
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--output_dir {self.path} cannot be written (it is a file): choose another folder.")
        if not file.is_file():
            if self._holds_anything():
                raise InputError(
                    f"--output_dir {self.path} holds files that are no run: choose an empty folder, or delete them."
                )
            return
        before = self._recipe_before(file)
        now = yaml.safe_load(_to_yaml(self.recipe))
        changed = [
            f"{name} was {before.get(name)}, is {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise InputError(
                f"--output_dir {self.path} holds a run of another recipe ({'; '.join(changed)}): choose another "
                "folder, restore the options, or start anew with --overwrite_output_dir."
            )

    def _check_same_data(self, fingerprint: Mapping[str, str]) -> None:
        file = self.path / FINGERPRINT_FILE
        if not file.is_file():
            return
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            changed = [split for split, value in fingerprint.items() if before[split] != value]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is damaged: restore it, or start anew with --overwrite_output_dir.") from error
        if changed:
            raise InputError(
                f"--output_dir {self.path} holds a run on other data (the {' and the '.join(changed)} images or their "
                "labels have changed since): restore the data set, choose another folder, or start anew with "
                "--overwrite_output_dir."
            )

    def _holds_anything(self) -> bool:
        if not self.path.exists():
            return False
        # A file that was being written when a run was killed is not worth keeping.
        entries = (entry.name for entry in self.path.iterdir())
        return any(name != LOCK_FILE and not name.endswith(".partial") for name in entries)

    def _recipe_before(self, file: Path) -> dict[str, Any]:
        try:
            before = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError):
            before = None
        if not isinstance(before, dict):
            raise InputError(f"{file} is damaged: restore it, or start anew with --overwrite_output_dir.")
        return before

    def _check_is_run(self) -> None:
        """Only a run is ever deleted, never a folder that something else filled."""
        if not self.is_run and self._holds_anything():
            raise InputError(
                f"--overwrite_output_dir would delete {self.path}, which holds no run: delete it yourself, or choose "
                "another folder."
            )

    def _clear(self) -> None:
        # The recipe last: until then the folder is known as that of a run, should this be interrupted.
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == RECIPE_FILE):
            if entry.is_dir() and re.fullmatch(FOLDERS, entry.name):
                shutil.rmtree(entry)
            elif entry.name in (RECIPE_FILE, RESULTS_FILE, LOG_FILE, FINGERPRINT_FILE):
                entry.unlink()


def recipe_of(arguments: Arguments, num_processes: int, mixed_precision: str) -> dict[str, Any]:
    """The options that decide the result, as they would be for one process: only the global batch size matters."""
    options = arguments.optimization
    global_batch_size = options.per_device_train_batch_size * options.gradient_accumulation_steps * num_processes
    decided = {"per_device_train_batch_size": global_batch_size, "gradient_accumulation_steps": 1}
    return arguments.recipe() | decided | {"mixed_precision": mixed_precision}


def publishable(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without paths of this machine: what is local keeps its last name alone."""
    published = dict(recipe)
    for name in ("dataset_name", "model_name_or_path", "memory_name_or_path"):
        if recipe.get(name):
            published[name] = _without_folders(recipe[name])
    order = recipe.get("class_order")
    if order and len(order) == 1:
        published["class_order"] = [_without_folders(order[0])]
    return published


def _without_folders(name: str) -> str:
    # A path of this machine, though what it named may be gone by now.
    path = Path(name).expanduser()
    return Path(os.path.abspath(path)).name if path.is_absolute() or path.exists() else name


def _to_yaml(recipe: dict[str, Any]) -> str:
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
