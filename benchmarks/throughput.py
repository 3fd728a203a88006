"""
Measures speed and memory of a model with any number of steps, in evaluation, training and loading, as one JSON object.

    python benchmarks/throughput.py --mode eval --num_steps 50 --classes_per_step 2 --batch_size 128
    python benchmarks/throughput.py --mode train_teacher --num_steps 10 --batch_size 128 --compare

`benchmarks/README.md` explains each number.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


if not __package__:
    # Launched as a file: Python puts this folder on the path, but not the root of the project.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.cached import measure_cached, measure_closed_form
from benchmarks.measures import (
    count_flops,
    gemm_flops_per_second,
    linear_layers,
    peak_resident_bytes,
    resident_bytes,
    seconds_of,
)
from benchmarks.options import DTYPES, Options, parse_options
from benchmarks.t_pass import load_oracle
from benchmarks.workloads import Workload, make_workload
from hub.run.errors import InputError
from training.loop.malloc import keep_freed_pages


#: What measures the modes that have no steps of one batch.
MEASURES: dict[str, Callable[[Options], dict[str, Any]]] = {
    "cached": measure_cached,
    "ncm": measure_closed_form,
    "ridge": measure_closed_form,
}
IMPLEMENTATIONS: tuple[Literal["ours", "t_pass"], ...] = ("ours", "t_pass")


def measure(options: Options) -> dict[str, Any]:
    """
    Measures one implementation in this process.

    Args:
        options (`Options`): what to measure.

    Returns:
        `dict[str, Any]`: the options and the numbers listed in `benchmarks/README.md`; None for those that a mode does
        not have.

    Raises:
        `InputError`: if the implementation is missing.
    """
    if options.run.keep_freed_memory:
        keep_freed_pages()
    before = resident_bytes()
    if options.run.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    measured = MEASURES.get(options.run.mode, measure_steps)(options)
    # Both counters of the system are rough: the peak can be below what was held before.
    memory = peaks(options) | measured
    peak = max(memory["peak_rss_bytes"], before)
    return {**describe(options), **memory, "peak_rss_bytes": peak, "peak_rss_growth_bytes": peak - before}


def peaks(options: Options) -> dict[str, Any]:
    """The most memory that the process has held so far, and its tensors on the GPU where it uses one."""
    return {
        "peak_rss_bytes": peak_resident_bytes(),
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if uses_gpu(options) else None,
    }


def uses_gpu(options: Options) -> bool:
    """Whether the mode computes on a GPU."""
    return options.run.device == "cuda" and options.run.mode != "data"


def measure_steps(options: Options) -> dict[str, Any]:
    """Measures a mode whose steps are alike, on synthetic images."""
    workload = make_workload(options)
    seconds = seconds_of(workload.call, options.run.repeats, options.run.warmup, workload.device)
    # Read now, before other measurements raise the peak.
    memory = peaks(options)
    seconds = [each / workload.batches for each in seconds]
    median = statistics.median(seconds)
    return {
        "num_parameters": None if workload.model is None else workload.model.num_parameters(),
        "median_step_seconds": median,
        "min_step_seconds": min(seconds),
        "images_per_second": options.run.batch_size / median,
        **memory,
        **measure_arithmetic(options, workload, median),
    }


def describe(options: Options) -> dict[str, Any]:
    """Describes what was measured, and on which machine."""
    run = asdict(options.run)
    for name in ("compare", "rounds"):
        del run[name]
    return {
        **run,
        "model": asdict(options.model),
        "ridge": asdict(options.ridge) if run["mode"] == "ridge" else None,
        "torch_version": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if uses_gpu(options) else None,
    }


def measure_arithmetic(options: Options, workload: Workload, median: float) -> dict[str, float | None]:
    """Operations of a step, the rate at which this machine multiplies such matrices, and the share reached."""
    if workload.model is None:
        return dict.fromkeys(("flops_per_step", "gemm_flops_per_second", "fraction_of_gemm_limit"))
    flops = count_flops(workload.call)
    run, device = options.run, workload.device

    def seconds(call: Any) -> float:
        return statistics.median(seconds_of(call, run.repeats, run.warmup, device))

    layers = linear_layers(workload.model.config, run.batch_size)
    rate = gemm_flops_per_second(layers, workload.forwards, workload.backwards, seconds, device, DTYPES[run.dtype])
    return {
        "flops_per_step": flops,
        "gemm_flops_per_second": rate,
        "fraction_of_gemm_limit": flops / rate / median,
    }


@dataclass(frozen=True)
class Rounds:
    """
    Measurements of one implementation.

    Args:
        measured (`list[dict[str, Any]]`): result of [`measure`] in each round.
    """

    measured: list[dict[str, Any]]

    @property
    def middle(self) -> dict[str, Any]:
        """Measurement with the median time of a step; with an even number of rounds the faster of the middle two."""
        by_time = sorted(self.measured, key=lambda each: each["median_step_seconds"])
        return by_time[(len(by_time) - 1) // 2]

    def median(self, name: str) -> float:
        """Median of a number over the rounds."""
        return statistics.median(self.of_each(name))

    def of_each(self, name: str) -> list[float]:
        """The values of a number, one per round."""
        return [each[name] for each in self.measured]


def compare(options: Options) -> dict[str, Any]:
    """
    Measures both implementations in turn, each time in a new process with its own peak of memory.

    Args:
        options (`Options`): what to measure.

    Returns:
        `dict[str, Any]`: result of [`summarize`].

    Raises:
        `InputError`: if a process fails.
    """
    load_oracle()
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in IMPLEMENTATIONS}
    for number in range(options.run.rounds):
        # The order alternates, so that a machine that slows down over time favours neither.
        for name in IMPLEMENTATIONS if number % 2 == 0 else IMPLEMENTATIONS[::-1]:
            rounds[name].append(launch(options.with_implementation(name)))
    return summarize(Rounds(rounds["ours"]), Rounds(rounds["t_pass"]))


def summarize(ours: Rounds, t_pass: Rounds) -> dict[str, Any]:
    """Gives both middle measurements and the ratios of T passes to ours: above 1, ours is faster or smaller."""
    peak = "peak_rss_growth_bytes" if ours.measured[0]["gpu"] is None else "peak_gpu_memory_bytes"
    steps = [each.of_each("median_step_seconds") for each in (ours, t_pass)]
    return {
        "ours": ours.middle,
        "t_pass": t_pass.middle,
        "speedup": t_pass.median("median_step_seconds") / ours.median("median_step_seconds"),
        "speedup_per_round": [theirs / own for own, theirs in zip(*steps, strict=True)],
        "memory_ratio": t_pass.median(peak) / ours.median(peak),
        "memory_ratio_of": peak,
    }


def launch(options: Options) -> dict[str, Any]:
    """
    Measures one implementation in a new process.

    Args:
        options (`Options`): what to measure.

    Returns:
        `dict[str, Any]`: result of [`measure`].

    Raises:
        `InputError`: if the process fails; the message quotes its last line.
    """
    command = [sys.executable, str(Path(__file__).resolve()), *options.command_line()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        (*_, reason) = ["it gave no reason", *done.stderr.splitlines()]
        raise InputError(
            f"--implementation {options.run.implementation} ended with status {done.returncode}: "
            f"{reason.removeprefix('error: ')}"
        )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status. Bad input ends it with one line and status 2."""
    try:
        options = parse_options(command_line)
        result = compare(options) if options.run.compare else measure(options)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped.\n")
        return 130
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
