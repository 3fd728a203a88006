"""Measures seconds, bytes, floating-point operations and the speed of matrix multiplication."""

import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from modeling_dytox import DyToxConfig


STATUS = Path("/proc/self/status")


def seconds_of(call: Callable[[], object], repeats: int, warmup: int, device: torch.device) -> list[float]:
    """Measures the seconds of each of `repeats` calls, after `warmup` calls that are not timed."""
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def synchronize(device: torch.device) -> None:
    """Waits for what a GPU still computes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resident_bytes() -> int:
    """Memory that this process holds now, in bytes."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Peak of the memory that this process has held so far, in bytes."""
    return _status_bytes("VmHWM")


class PeakOfOwnMemory:
    """
    The peak, while the context lasts, of the memory of this process that no file backs: what it has allocated.
    Pages of mapped files, which the system takes back where memory is short, do not count. Linux alone tells.
    """

    def __init__(self, interval: float = 0.005) -> None:
        self._before = self._peak = 0
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def growth(self) -> int | None:
        """Bytes of the peak so far above what the process had before; None where the system does not tell."""
        return self._peak - self._before if STATUS.exists() else None

    def __enter__(self) -> "PeakOfOwnMemory":
        if STATUS.exists():
            self._before = self._peak = _status_bytes("RssAnon")
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if STATUS.exists():
            self._ended.set()
            self._thread.join()

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.wait(self._interval)
            self._peak = max(self._peak, _status_bytes("RssAnon"))


def _status_bytes(name: str) -> int:
    # The peak that the resource module reports may be that of the parent process.
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines())
        return 1024 * int(lines[name].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


Shape = Sequence[int]


def _attention_flops(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    """Two matrix multiplications of `(B, H, Q, d)` and `(B, H, K, d)`: the scores and the mean of the values."""
    batch_size, heads, num_queries, width = query
    return 2 * batch_size * heads * num_queries * key[-2] * (width + value[-1])


def _attention_backward_flops(gradient: Shape, query: Shape, key: Shape, value: Shape, *args: Any, **kw: Any) -> int:
    """Two for each of the forward pass. What a kernel recomputes to save memory does not count."""
    return 2 * _attention_flops(query, key, value)


_ATEN = torch.ops.aten
# The counter of torch omits attention on the CPU and counts what kernels recompute on GPUs.
ATTENTION_FLOPS = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    _ATEN._scaled_dot_product_flash_attention_backward: _attention_backward_flops,
    _ATEN._scaled_dot_product_efficient_attention_backward: _attention_backward_flops,
    _ATEN._scaled_dot_product_cudnn_attention_backward: _attention_backward_flops,
}


def count_flops(call: Callable[[], object]) -> int:
    """Counts floating-point operations of the matrix multiplications in a call; multiply and add are two."""
    counter = FlopCounterMode(display=False, custom_mapping=dict(ATTENTION_FLOPS))
    # The counter does not see into compiled code.
    with torch.compiler.set_stance("force_eager"), counter:
        call()
    return counter.get_total_flops()


class Linear(NamedTuple):
    """Shape of the product of a linear layer: `(rows, inputs)` times `(inputs, outputs)`."""

    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Floating-point operations of the product."""
        return 2 * self.rows * self.inputs * self.outputs


def linear_layers(config: DyToxConfig, batch_size: int) -> Counter[Linear]:
    """
    Counts the linear layers of projections and MLPs that a batch passes, by shape. The queries, keys and values of the
    task tokens are left out: in the first block they do not depend on the images.

    Args:
        config (`DyToxConfig`): configuration of the model.
        batch_size (`int`): number of images.

    Returns:
        `Counter[Linear]`: how often each shape occurs.
    """
    (height, width), (patch_height, patch_width) = config.image_height_width, config.patch_height_width
    patches = batch_size * (height // patch_height) * (width // patch_width)
    tokens = batch_size * (config.num_task_tokens or 1)
    hidden, intermediate = config.hidden_size, config.intermediate_size
    layers: Counter[Linear] = Counter()
    for rows, projections, blocks, mlps in (
        (patches, 4, config.num_hidden_layers, 1),
        (patches, 2, config.num_task_attention_layers, 0),
        (tokens, 1, config.num_task_attention_layers, 1),
    ):
        layers[Linear(rows, hidden, hidden)] += projections * blocks
        layers[Linear(rows, hidden, intermediate)] += mlps * blocks
        layers[Linear(rows, intermediate, hidden)] += mlps * blocks
    return +layers


def gemm_flops_per_second(
    layers: Mapping[Linear, int],
    forwards: int,
    backwards: int,
    seconds: Callable[[Callable[[], object]], float],
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """
    Measures the floating-point operations per second of these layers alone.

    Args:
        layers (`Mapping[Linear, int]`): shapes, and how often each occurs.
        forwards, backwards (`int`): number of forward and backward passes in a measured step.
        seconds (`Callable`): measures the seconds of a call.
        device (`torch.device`): device of the matrices.
        dtype (`torch.dtype`): type of the matrices.

    Returns:
        `float`: floating-point operations per second.
    """
    total_flops = total_seconds = 0.0
    for layer, count in layers.items():
        forward, *backward = _products(layer, device, dtype)
        for times, products in ((forwards, [forward]), (backwards, backward)):
            for product in products if times else []:
                total_flops += count * times * layer.flops
                total_seconds += count * times * seconds(product)
    return total_flops / total_seconds


def _products(layer: Linear, device: torch.device, dtype: torch.dtype) -> list[Callable[[], Tensor]]:
    """Makes the product of the forward pass, then those of the gradients of the inputs and of the weights."""

    def draw(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, device=device, dtype=dtype)

    inputs, weight = draw(layer.rows, layer.inputs), draw(layer.outputs, layer.inputs)
    gradient = draw(layer.rows, layer.outputs)
    return [
        partial(functional.linear, inputs, weight),
        partial(torch.mm, gradient, weight),
        partial(torch.mm, gradient.T, inputs),
    ]
