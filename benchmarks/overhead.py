"""
Where the time of a training run goes: forward and backward passes, and everything around them.

    python benchmarks/overhead.py --config training/recipes/cifar100_tiny_10steps.yaml --output_dir outputs/tiny

Takes the options of `training/incremental.py`, runs it, and prints one JSON object last. `benchmarks/README.md` says
how to read it. One process; give an `--output_dir` of its own, as a run that resumes has less to do.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


if not __package__:
    # Launched as a file: Python puts this folder first on the path, where the other rooms are not.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.parts import Timed, watched
from training import incremental
from training.loop.checkpointing import Checkpoints
from training.loop.epoch import EpochTrainer
from training.loop.evaluation import Evaluator
from training.loop.malloc import keep_freed_pages


# Epochs hold the updates: what is left of them is the wait for the loader.
TIMED: tuple[Timed, ...] = (
    ("waiting_for_images", EpochTrainer, "train"),
    ("forward_backward", EpochTrainer, "_update"),
    ("evaluation", Evaluator, "predict"),
    ("herding", incremental, "update_memory"),
    ("saving_states", Checkpoints, "save"),
    ("saving_steps", incremental, "save"),
    ("preparation", incremental, "prepare"),
)


def report(seconds: Mapping[str, float], wall: float) -> dict[str, Any]:
    """The parts in seconds, and the share of the run that is not forward and backward passes."""
    parts = dict.fromkeys(("forward_backward", "waiting_for_images"), 0.0) | dict(seconds)
    return {
        "wall_seconds": wall,
        **{f"{name}_seconds": value for name, value in parts.items()},
        "other_seconds": wall - sum(parts.values()),
        "overhead": 1 - parts["forward_backward"] / wall,
    }


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the training under the watch and gives its exit status."""
    arguments = list(sys.argv[1:] if command_line is None else command_line)
    words_before = sys.argv
    sys.argv = ["training/incremental.py", *arguments]
    try:
        with watched(TIMED) as parts:
            started = time.perf_counter()
            incremental.main()
            wall = time.perf_counter() - started
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = words_before
    sys.stdout.write(json.dumps(report(parts.seconds, wall), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    keep_freed_pages()
    sys.exit(main())
