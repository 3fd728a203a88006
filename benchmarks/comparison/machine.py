"""
Where a run is made: processor, threads, processes and the state of the code; no names of hosts, users or folders.

As a script it prints what only a process of the launcher can know, as one JSON object.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path


if not __package__:
    # Launched as a file: Python puts this folder on the path, but not the root of the project.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from hub.run.errors import InputError
from hub.run.schema import Count
from hub.run.text import without_local_path


ROOT = Path(__file__).resolve().parents[2]
# Results that a comparison has just written are no change of the code.
_CODE = (".", ":!benchmarks/results")


@dataclass(frozen=True)
class Machine:
    """
    What the seconds and the last digits of a run depend on. None where it is not known.

    Args:
        processor (`str`, *optional*): name of its model.
        gpu (`str`, *optional*): name of the model; None also where the run has none.
        torch (`str`, *optional*): version.
        threads, processes (`int`, *optional*): threads of each process, and number of processes.
    """

    processor: str | None = None
    gpu: str | None = None
    torch: str | None = None
    threads: Count | None = None
    processes: Count | None = None


@cache
def describe_machine(launcher: tuple[str, ...]) -> Machine:
    """
    Describes this machine as a run sees it: the launcher decides about threads and processes.

    Args:
        launcher (`tuple[str, ...]`): words that start a script.

    Raises:
        InputError: the launcher cannot be started.
    """
    command = [*launcher, str(Path(__file__).resolve())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(
            f"--launcher {' '.join(launcher)} cannot be started ({error.strerror}): give a command that runs a script."
        ) from error
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"processor"')]
    return Machine(**json.loads(lines[-1])) if lines else Machine(processor_name())


def processor_name() -> str:
    """The model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of the code, with `-dirty` where files have changed since; None outside of a clone."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", *_CODE)
    return f"{commit}-dirty" if commit and changes else commit


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()


def public_words(words: Sequence[str]) -> list[str]:
    """Words of a command without local paths: scripts and recipes by their place in the project, others by name."""
    return [_public(word) for word in words]


def _public(word: str) -> str:
    if word.startswith("-"):
        option, equals, value = word.partition("=")
        return option + equals + _public(value) if equals else word
    path = os.path.abspath(os.path.expanduser(word))
    # A repository on the Hub looks like a relative path.
    is_path = os.sep in word and (os.path.exists(path) or os.path.isabs(word) or word.startswith("."))
    if is_path and Path(path).is_relative_to(ROOT / "training"):
        return Path(path).relative_to(ROOT).as_posix()
    return Path(path).name if is_path else without_local_path(word)


def _print_process() -> None:
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator()
    if accelerator.is_main_process:
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        found = Machine(processor_name(), gpu, torch.__version__, torch.get_num_threads(), accelerator.num_processes)
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
    accelerator.end_training()


if __name__ == "__main__":
    _print_process()
