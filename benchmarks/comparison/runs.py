"""One run of `training/incremental.py` in a process and a folder of its own, and what it measured."""

import hashlib
import json
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.comparison.machine import ROOT, Machine, describe_machine, git_commit, public_words
from hub.run.atomic import write_aside
from hub.run.errors import InputError, StepFolderError
from hub.run.layout import CONFIG_FILE, RESULTS_FILE, step_folder
from hub.run.results import RunResults
from hub.run.schema import Count, Difference, Fraction, Seconds, decode, read_json, short_name
from training.arguments import Arguments
from training.parsing import parse_arguments


SCRIPT = ROOT / "training" / "incremental.py"
#: Options that a comparison gives, or that would make no comparison, and why.
_REFUSED = {
    "push_to_hub": "would publish every run to one repository: publish the folder of a run yourself",
    "overwrite_output_dir": "would start every run again each time: delete the folders that you mean yourself",
    "dry_run": "makes no results: leave it out",
}


@dataclass(frozen=True)
class Job:
    """
    A run that a comparison needs.

    Args:
        name (`str`): in messages.
        folder (`Path`): its output folder.
        options (`tuple[str, ...]`): all other options, as words of the command line.
    """

    name: str
    folder: Path
    options: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """All options as words of the command line."""
        return [*self.options, "--output_dir", str(self.folder)]

    @property
    def record_file(self) -> Path:
        """Where it is written how the run was made: beside its folder, which holds what the run writes alone."""
        return self.folder.with_name(f"{self.folder.name}.run.json")

    def arguments(self) -> Arguments:
        """
        Checks the options as the run would, before it starts.

        Raises:
            InputError: with the first that is wrong, or does not fit a comparison.
        """
        try:
            arguments = parse_arguments(self.words)
            for name, reason in _REFUSED.items():
                if getattr(arguments.output, name):
                    raise InputError(f"--{name} {reason}.")
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error
        return arguments


@dataclass(frozen=True, kw_only=True)
class Record:
    """
    How a run was made.

    Args:
        recipe (`str`): digest of its options; empty until it has finished with them.
        command (`str`): without local paths.
        git_commit (`str`, *optional*): of the code, with `-dirty` where it was changed.
        machine (`Machine`): where it was made.
        seconds (`float`, *optional*): by the clock, of all its processes so far; None where one of them was killed.
        cpu_seconds (`float`, *optional*): the same of the processors, which other work on the machine hardly changes.
    """

    recipe: str
    command: str | None = None
    git_commit: str | None = None
    machine: Machine = Machine()
    seconds: Seconds | None = None
    cpu_seconds: Seconds | None = None


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """
    What a run measured, and how it was made. Fractions are in 0..1; None where a number is not known.

    Args:
        method (`str`): name of the method.
        command, git_commit, processor, gpu, torch, threads, processes, seconds, cpu_seconds: see [`Record`] and
            [`Machine`].
        code_version (`str`, *optional*): version of the project.
        step_seconds (`tuple[float | None, ...]`, *optional*): time that each step took to learn.
        num_seen_classes (`tuple[int, ...]`, *optional*): classes known after each step.
        accuracy (`tuple[float | None, ...]`, *optional*): on all classes seen, after each step.
        accuracy_per_step (`tuple[tuple[float | None, ...], ...]`, *optional*): the same on the classes of each step.
        average_incremental_accuracy, last_accuracy, forgetting (`float`, *optional*): see `training.metrics`.
        task_aware_accuracy, expected_calibration_error, head_accuracy, nearest_mean_accuracy (`float`, *optional*):
            after the last step.
        num_parameters, weights_bytes, memory_size (`int`, *optional*): after the last step.
        encoder (`str`, *optional*): `own`, the repository of a pretrained one, or its `model_type`.
        results_sha256 (`str`, *optional*): digest of `results.json` without seconds.
    """

    method: str
    command: str | None = None
    code_version: str | None = None
    git_commit: str | None = None
    processor: str | None = None
    gpu: str | None = None
    torch: str | None = None
    threads: Count | None = None
    processes: Count | None = None
    seconds: Seconds | None = None
    cpu_seconds: Seconds | None = None
    step_seconds: tuple[Seconds | None, ...] | None = None
    num_seen_classes: tuple[Count, ...] | None = None
    accuracy: tuple[Fraction | None, ...] | None = None
    accuracy_per_step: tuple[tuple[Fraction | None, ...], ...] | None = None
    average_incremental_accuracy: Fraction | None = None
    last_accuracy: Fraction | None = None
    forgetting: Difference | None = None
    task_aware_accuracy: Fraction | None = None
    expected_calibration_error: Fraction | None = None
    head_accuracy: Fraction | None = None
    nearest_mean_accuracy: Fraction | None = None
    num_parameters: Count | None = None
    weights_bytes: Count | None = None
    memory_size: Count | None = None
    encoder: str | None = None
    results_sha256: str | None = None


class RunFailed(Exception):
    """A run ended without results. The message is one line: its status and its last line."""


def make_or_read(job: Job, launcher: Sequence[str]) -> MeasuredRun:
    """
    Starts a run, or resumes it, and reads its results; one that has finished with the same options is only read.

    Args:
        job (`Job`): the run. What it prints goes to stderr.
        launcher (`Sequence[str]`): words that start the script.

    Raises:
        RunFailed: it ended with an error, or without the results of all steps.
        InputError: the folder cannot be written, or the launcher cannot be started.
        StepFolderError: a file of the run is damaged.
    """
    recipe, record, results = _digest(job.arguments().recipe()), _read_record(job), _finished_results(job.folder)
    if record is not None and results is not None and record.recipe == recipe:
        return _measured(job.folder, results, record)
    return _make(job, launcher, recipe)


def _make(job: Job, launcher: Sequence[str], recipe: str) -> MeasuredRun:
    sys.stderr.write(f"\n{job.name}: {job.folder}\n")
    words = [*launcher, str(SCRIPT), *job.words]
    record = Record(
        recipe="",
        command=shlex.join(public_words(words)),
        git_commit=git_commit(),
        machine=describe_machine(tuple(launcher)),
    )
    before, was_finished = _record_before(job), _finished_results(job.folder) is not None
    # Without seconds: they stay unknown if this process is killed.
    _write_record(job, record)
    started, cpu_started = time.perf_counter(), _cpu_seconds_of_children()
    try:
        status, last_line = _launch(words)
    finally:
        if was_finished:
            elapsed = cpu_elapsed = 0.0
        else:
            elapsed, cpu_elapsed = time.perf_counter() - started, _cpu_seconds_of_children() - cpu_started
        record = replace(
            record, seconds=_sum(before.seconds, elapsed), cpu_seconds=_sum(before.cpu_seconds, cpu_elapsed)
        )
        _write_record(job, record)
    if status:
        raise RunFailed(f"ended with status {status}: {last_line}")
    results = _finished_results(job.folder)
    if results is None:
        raise RunFailed("ended without the results of all its steps")
    # Not before: the folder may hold a finished run of other options, which this one was refused for.
    _write_record(job, replace(record, recipe=recipe))
    return _measured(job.folder, results, record)


def _launch(command: Sequence[str]) -> tuple[int, str]:
    """Runs a command and returns its exit status and its last line, or the one that names an error."""
    last = "it gave no reason"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                sys.stderr.write(line)
                # A launcher may add lines of its own below that of the script.
                if line.strip() and not last.startswith("error: "):
                    last = line.strip()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return process.returncode, last


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_record(job: Job) -> Record | None:
    path = job.record_file
    return decode(Record, read_json(path), short_name(path)) if path.exists() else None


def _write_record(job: Job, record: Record) -> None:
    try:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        write_aside(job.record_file, json.dumps(asdict(record), indent=2) + "\n")
    except OSError as error:
        raise InputError(
            f"--output_dir {job.folder.parent} cannot be written ({error.strerror}): choose another folder."
        ) from error


def _record_before(job: Job) -> Record:
    """The record of earlier processes of the run; seconds are None where the run was begun otherwise."""
    record = _read_record(job)
    if record is not None:
        return record
    seconds = None if job.folder.exists() and any(job.folder.iterdir()) else 0.0
    return Record(recipe="", seconds=seconds, cpu_seconds=seconds)


def _sum(before: float | None, more: float) -> float | None:
    return None if before is None else before + more


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _finished_results(folder: Path) -> RunResults | None:
    """The results of a run that has finished all its steps, else None."""
    path = folder / RESULTS_FILE
    results = RunResults.read(path) if path.exists() else None
    return results if results is not None and len(results.steps) == results.num_steps else None


def _measured(folder: Path, results: RunResults, record: Record) -> MeasuredRun:
    last, steps = results.last, results.steps
    model = step_folder(folder, last.step)
    return MeasuredRun(
        method=results.method,
        command=record.command,
        code_version=results.code_version,
        git_commit=record.git_commit,
        **asdict(record.machine),
        seconds=record.seconds,
        cpu_seconds=record.cpu_seconds,
        step_seconds=tuple(step.train_seconds for step in steps),
        num_seen_classes=tuple(step.num_seen_classes for step in steps),
        accuracy=tuple(step.accuracy for step in steps),
        accuracy_per_step=tuple(step.accuracy_per_step for step in steps),
        average_incremental_accuracy=results.average_incremental_accuracy,
        last_accuracy=results.last_accuracy,
        forgetting=results.forgetting,
        task_aware_accuracy=last.task_aware_accuracy,
        expected_calibration_error=last.expected_calibration_error,
        head_accuracy=last.head_accuracy,
        nearest_mean_accuracy=last.nearest_mean_accuracy,
        num_parameters=last.num_parameters,
        weights_bytes=sum(file.stat().st_size for file in model.glob("model*.safetensors")),
        memory_size=last.memory_size,
        encoder=_encoder(model / CONFIG_FILE),
        results_sha256=_digest(_without_seconds(read_json(folder / RESULTS_FILE))),
    )


def _encoder(config_file: Path) -> str:
    config = read_json(config_file)
    if not isinstance(config, dict):
        raise StepFolderError(f"{short_name(config_file)}: holds no fields, expected those of a model")
    encoder = config.get("encoder_config")
    return "own" if not encoder else str(config.get("base_model") or encoder.get("model_type"))


def _without_seconds(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_seconds(value) for key, value in content.items() if not key.endswith("seconds")}
    return [_without_seconds(item) for item in content] if isinstance(content, list) else content
