"""The modes on kept features: they learn without an encoder, and their parts add up."""

import json
import mmap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from transformers import ResNetModel

from benchmarks import parts, throughput
from benchmarks.measures import PeakOfOwnMemory
from training.loop.epoch import EpochTrainer


TINY = {"hidden_size": 16, "num_attention_heads": 4, "num_steps": 3, "classes_per_step": 2, "batch_size": 8}
SIZES = {"num_images": 37, "num_tokens": 6, "token_width": 24, "pooled_width": 24, "projection_dim": 32}
TIMES = {"repeats": 2, "warmup": 1, "keep_freed_memory": False}


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """Keeps the precision and device of one test from the next."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the script in this process, where no encoder can run, and reads the one JSON object that it prints."""

    def run(mode: str, **options: Any) -> dict[str, Any]:
        words = {"mode": mode} | TINY | SIZES | TIMES | options
        assert throughput.main([f"--{name}={value}" for name, value in words.items()]) == 0
        return json.loads(capsys.readouterr().out)

    def refuse(*inputs: Any, **options: Any) -> None:
        raise AssertionError("an encoder runs")

    monkeypatch.setattr(ResNetModel, "forward", refuse)
    return run


def test_epochs_on_kept_features_take_every_image_and_no_encoder(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    inputs = EpochTrainer._inputs

    def note(trainer: EpochTrainer, batch: Any) -> Any:
        seen.append(tuple(batch.images.shape))
        return inputs(trainer, batch)

    monkeypatch.setattr(EpochTrainer, "_inputs", note)
    result = run("cached")
    assert result["updates_of_an_epoch"] == 5
    # Three epochs, one of them a warm-up.
    assert len(seen) == 3 * 5 and sum(shape[0] for shape in seen) == 3 * 37
    assert {shape[1:] for shape in seen} == {(6, 24)}
    shares = result["share_of_epoch"]
    assert set(shares) == {"decoder", "inputs", "reading", "loader", "saving_states", "log", "other"}
    assert sum(shares.values()) == pytest.approx(1) and all(share > 0 for share in shares.values()), shares
    epoch = result["median_epoch_seconds"]
    assert 0 < result["min_step_seconds"] <= result["median_step_seconds"] == pytest.approx(epoch / 5)
    assert result["images_per_second"] == pytest.approx(37 / epoch)
    assert result["cpu_seconds_of_an_epoch"] > 0


@pytest.mark.parametrize(
    ("mode", "parts_of_it"),
    [("ncm", {"reading", "inputs", "sums", "weights", "scale"}), ("ridge", {"lambda"}), ("fixed", set())],
)
def test_the_parts_of_a_solution_add_up(mode: str, parts_of_it: set[str], run: Callable[..., Any]) -> None:
    always = {"reading", "inputs", "sums", "weights", "scale", "other"}
    result = run("ncm" if mode == "ncm" else "ridge", **({"ridge_lambda": 3.0} if mode == "fixed" else {}))
    seconds = result["seconds_of_parts"]
    assert set(seconds) == always | parts_of_it and all(value > 0 for value in seconds.values()), seconds
    assert sum(seconds.values()) == pytest.approx(result["min_step_seconds"])
    assert result["images_per_second"] == pytest.approx(37 / result["median_step_seconds"])
    assert (result["ridge"] is None) == (mode == "ncm")


@pytest.mark.parametrize("mode", ["ncm", "ridge"])
def test_the_memory_of_a_solution_does_not_grow_with_the_images(mode: str, run: Callable[..., Any]) -> None:
    num_images, width = 81920, 256
    sizes = {"num_images": num_images, "pooled_width": width, "projection_dim": width, "batch_size": 256}
    result = run(mode, **sizes, repeats=1, warmup=0)
    # Half of what the inputs of all images at once would take, in float64.
    assert 0 < result["peak_own_memory_growth_bytes"] < num_images * width * 8 / 2


def test_own_memory_is_what_no_file_backs(tmp_path: Path) -> None:
    size = 2**26
    # Mapped here, not by the allocator, which may hold freed memory of earlier tests and hand out that.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with PeakOfOwnMemory() as own, mmap.mmap(-1, size, flags=flags) as ballast:
        ballast[:: mmap.PAGESIZE] = b"x" * (size // mmap.PAGESIZE)
        deadline = time.monotonic() + 60
        # The peak is read now and then: what is freed before it is read does not count.
        while (own.growth or 0) < 0.9 * size and time.monotonic() < deadline:
            time.sleep(0.01)
    assert own.growth is not None and 0.9 * size < own.growth < 1.5 * size
    path = tmp_path / "mapped"
    path.write_bytes(bytes(size))
    with PeakOfOwnMemory() as own, path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
    assert own.growth is not None and own.growth < size // 2


class Work:
    """Clocks tick once each time they are read."""

    def outer(self) -> None:
        self.inner()
        self.inner()

    def inner(self) -> None:
        pass


def test_a_part_counts_without_the_parts_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(parts.time, "perf_counter", lambda: float(next(ticks)))
    originals = Work.outer, Work.inner
    with pytest.raises(KeyError), parts.watched((("outer", Work, "outer"), ("inner", Work, "inner"))) as found:
        Work().outer()
        raise KeyError
    # Read at 0, 1, 2, 3, 4 and 5: the outer part lasts from 0 to 5, two inner ones a tick each.
    assert found.seconds == {"inner": 2, "outer": 3}
    assert (Work.outer, Work.inner) == originals


@pytest.mark.parametrize("mode", ["cached", "ridge"])
def test_what_has_no_t_passes_is_not_compared(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.main([f"--mode={mode}", "--compare"]) == 2
    assert f"--mode {mode} has no T passes: leave out --compare" in capsys.readouterr().err
