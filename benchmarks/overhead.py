"""
Where the time of a training run goes: forward and backward passes, and everything around them.

    python benchmarks/overhead.py --config training/recipes/cifar100_tiny_10steps.yaml --output_dir outputs/tiny

Takes the options of `training/incremental.py`, runs it, and prints one JSON object last. `benchmarks/README.md` says
how to read it. One process; give an `--output_dir` of its own, as a run that resumes has less to do.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any


if not __package__:
    # Launched as a file: Python puts this folder first on the path, where the other rooms are not.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training import incremental
from training.loop.checkpointing import Checkpoints
from training.loop.epoch import EpochTrainer
from training.loop.evaluation import Evaluator
from training.loop.malloc import keep_freed_pages


# What is timed: the part it belongs to, and the class or module with the function that does it. None of these calls
# another, except that epochs hold the updates.
TIMED: tuple[tuple[str, Any, str], ...] = (
    ("epochs", EpochTrainer, "train"),
    ("forward_backward", EpochTrainer, "_update"),
    ("evaluation", Evaluator, "predict"),
    ("herding", incremental, "update_memory"),
    ("saving_states", Checkpoints, "save"),
    ("saving_steps", incremental, "save"),
    ("preparation", incremental, "prepare"),
)


class Parts:
    """Seconds spent in each part of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """`method`, whose time counts for `part`."""

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - started

        return call

    def report(self, wall: float) -> dict[str, Any]:
        """The parts in seconds, and the share of the run that is not forward and backward passes."""
        seconds = dict(self.seconds)
        work = seconds.pop("forward_backward", 0.0)
        loading = seconds.pop("epochs", 0.0) - work
        parts = {"waiting_for_images": loading, **seconds}
        return {
            "wall_seconds": wall,
            "forward_backward_seconds": work,
            **{f"{name}_seconds": value for name, value in parts.items()},
            "other_seconds": wall - work - sum(parts.values()),
            "overhead": 1 - work / wall,
        }


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the training under the watch and gives its exit status."""
    arguments = list(sys.argv[1:] if command_line is None else command_line)
    parts = Parts()
    originals = [(owner, name, getattr(owner, name)) for _, owner, name in TIMED]
    words_before = sys.argv
    sys.argv = ["training/incremental.py", *arguments]
    try:
        for part, owner, name in TIMED:
            setattr(owner, name, parts.timed(part, getattr(owner, name)))
        started = time.perf_counter()
        incremental.main()
        wall = time.perf_counter() - started
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = words_before
        for owner, name, method in originals:
            setattr(owner, name, method)
    sys.stdout.write(json.dumps(parts.report(wall), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    keep_freed_pages()
    sys.exit(main())
