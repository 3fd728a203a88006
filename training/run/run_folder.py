"""The folder of a run on this machine; its files are drawn in [`hub.run.layout`]."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor
from transformers import ViTImageProcessor

from hub.run import layout
from hub.run.atomic import PARTIAL, write_aside
from hub.run.confusion import Confusion
from hub.run.errors import InputError, StepFolderError
from hub.run.layout import FINGERPRINT_FILE, LOCK_FILE, RECIPE_FILE, RESULTS_FILE, STATISTICS_FILE
from hub.run.results import RunResults
from modeling_dytox import IncrementalModel
from training.loop.disk import disk_errors_named
from training.methods.building import set_attention
from training.run.model import LOADING_ERRORS, load_model, loading_problem
from training.run.recipe import differences, read_recipe, to_yaml, without_local_paths
from training.run.statistics import write_statistics


#: What a run makes, and --overwrite_output_dir deletes; the recipe comes last.
_FOLDERS = (
    rf"\.?step\d+({re.escape(PARTIAL)})?|{layout.MEMORY_FOLDER}|{layout.CHECKPOINT_FOLDER}|{layout.TRACKER_FOLDER}"
)
_FILES = (RECIPE_FILE, RESULTS_FILE, layout.LOG_FILE, FINGERPRINT_FILE)


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
        Prepares the folder: new, or with a run of the same recipe on the same data. Until `close`, or the end of the
        process, no other run can open it.

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
            write_aside(self.path / RECIPE_FILE, to_yaml(self.recipe))
            write_aside(self.path / FINGERPRINT_FILE, json.dumps(dict(fingerprint), indent=2) + "\n")
            self._delete_leftovers()
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
        return layout.step_folder(self.path, step)

    def memory_file(self, step: int) -> Path:
        """Where the exemplars after a step are, or will be."""
        return layout.memory_file(self.path, step)

    @property
    def checkpoints(self) -> Path:
        """Where the states within the step being learned are."""
        return self.path / layout.CHECKPOINT_FOLDER

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / RECIPE_FILE).is_file()

    def last_step(self) -> int:
        """The last step of those finished without a gap; if none is, the last one known from elsewhere, or 0."""
        step = self.num_known_steps
        while (self.step_folder(step + 1) / RESULTS_FILE).is_file():
            step += 1
        return step

    def results_after(self, step: int) -> RunResults:
        """
        What the run had measured after a finished step.

        Raises:
            InputError: its `results.json` is damaged, or that of another step.
        """
        file = self.step_folder(step) / RESULTS_FILE
        try:
            results = RunResults.read(file)
            if results.last.step != step:
                raise StepFolderError(f"{file} ends with step {results.last.step}, expected {step}")
        except StepFolderError as error:
            raise InputError(
                f"{error}: restore {file}, delete {layout.step_name(step)} to learn it again, or start again with "
                "--overwrite_output_dir."
            ) from error
        return results

    def load_model(self, step: int, attn_implementation: str) -> IncrementalModel:
        """
        The model of a finished step.

        Raises:
            InputError: the folder is damaged.
        """
        folder = self.step_folder(step)
        try:
            model = load_model(folder)
        except LOADING_ERRORS as error:
            raise InputError(
                f"{folder} cannot be loaded ({loading_problem(error)}): delete it to learn step {step} again."
            ) from error
        # Not while loading: encoders without attention refuse it.
        set_attention(model, attn_implementation)
        return model

    def save_step(
        self,
        step: int,
        model: IncrementalModel,
        processor: ViTImageProcessor,
        results: RunResults,
        finish: Callable[[Path], None],
        confusion: Confusion | None = None,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> None:
        """
        Writes the folder of a step, which marks the step finished; then renews `results.json` of the run.

        Args:
            step (`int`): from 1.
            model (`IncrementalModel`): as it was measured.
            processor (`ViTImageProcessor`): of the model.
            results (`RunResults`): up to this step.
            finish: called with the folder while it is still written aside, e.g. to add a card and figures.
            confusion (`Confusion`, *optional*): after this step, if it is to be recorded.
            statistics (`Mapping[str, Tensor]`, *optional*): what the method needs in later steps, if anything.

        Raises:
            InputError: the disk is full, or cannot be written.
        """
        with disk_errors_named(self.step_folder(step)), self._written_aside(self.step_folder(step)) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            results.write(folder / RESULTS_FILE)
            if statistics:
                write_statistics(folder / STATISTICS_FILE, statistics)
            if confusion is not None:
                confusion.write(folder, results.class_names)
            write_aside(folder / RECIPE_FILE, to_yaml(without_local_paths(self.recipe)))
            finish(folder)
        self.save_results(results)

    def save_results(self, results: RunResults) -> None:
        """
        Renews `results.json` of the run.

        Raises:
            InputError: the disk is full, or cannot be written.
        """
        with disk_errors_named(self.path / RESULTS_FILE):
            results.write(self.path / RESULTS_FILE)

    def check_recipe(self) -> None:
        """
        Checks that the folder is new, or holds a run of this recipe.

        Raises:
            InputError: it holds a run of another recipe, or something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--output_dir {self.path} cannot be written (it is a file): choose another folder.")
        if not self.is_run:
            if self._holds_anything():
                raise InputError(
                    f"--output_dir {self.path} is not empty and was not written by this script: choose an empty "
                    "folder, or delete what it holds."
                )
            return
        before = read_recipe(self.path / RECIPE_FILE)
        # As it would be read again: tuples are lists in YAML.
        now = yaml.safe_load(to_yaml(self.recipe))
        if changed := differences(before, now):
            raise InputError(
                f"--output_dir {self.path} holds a run of another recipe ({'; '.join(changed)}): choose another "
                "folder, restore the options, or start again with --overwrite_output_dir."
            )

    def _check_same_data(self, fingerprint: Mapping[str, str]) -> None:
        file = self.path / FINGERPRINT_FILE
        if not file.is_file():
            return
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            changed = [split for split, value in fingerprint.items() if before[split] != value]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is damaged: restore it, or start again with --overwrite_output_dir.") from error
        if changed:
            raise InputError(
                f"--output_dir {self.path} holds a run on other data (the {' and the '.join(changed)} images or their "
                "labels have changed since): restore the data set, choose another folder, or start again with "
                "--overwrite_output_dir."
            )

    def _check_is_run(self) -> None:
        """Only a run is ever deleted, never a folder that something else filled."""
        if not self.is_run and self._holds_anything():
            raise InputError(
                f"--overwrite_output_dir would delete {self.path}, which holds no run: delete it yourself, or choose "
                "another folder."
            )

    def _holds_anything(self) -> bool:
        if not self.path.exists():
            return False
        # A file that was being written when a run was killed is not worth keeping.
        entries = (entry.name for entry in self.path.iterdir())
        return any(name != LOCK_FILE and not name.endswith(PARTIAL) for name in entries)

    @contextmanager
    def _written_aside(self, final: Path) -> Iterator[Path]:
        partial = final.with_name(f".{final.name}{PARTIAL}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
        except (OSError, SafetensorError):
            # Free the space: the disk may be full.
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if final.exists():
            # Left over from before a missing step; it has just been learned again.
            shutil.rmtree(final)
        partial.rename(final)

    def _delete_leftovers(self) -> None:
        """Deletes what a killed run was writing; no other run writes here while this one holds the lock."""
        for folder in (self.path, self.path / layout.MEMORY_FOLDER, self.checkpoints):
            for leftover in folder.glob(f".*{PARTIAL}"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _clear(self) -> None:
        # The recipe last: until then the folder is known as that of a run, should this be interrupted.
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == RECIPE_FILE):
            if entry.is_dir() and re.fullmatch(_FOLDERS, entry.name):
                shutil.rmtree(entry)
            elif entry.name in _FILES:
                entry.unlink()
