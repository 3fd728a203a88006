"""Phases that broke off go on at the epoch, with everything that training changes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DynamoBackend
from torch._dynamo.utils import counters

from tests.command_line import words
from training.arguments import parse_arguments
from training.incremental import IncrementalRun
from training.loop.checkpointing import TrainingState
from training.loop.epoch import EpochTrainer
from training.loop.processes import make_accelerator


MakeRun = Callable[..., IncrementalRun]
RunContent = Callable[[Path], dict[str, object]]


@pytest.fixture
def make_run(tiny_options: dict[str, object], tmp_path: Path) -> Iterator[MakeRun]:
    """A run in a folder of this name, with an accelerator that scales losses as in float16 if `scaled`."""

    def make(name: str, scaled: bool = False, **options: object) -> IncrementalRun:
        merged = tiny_options | {"output_dir": tmp_path / name} | options
        arguments = parse_arguments(words(merged))
        # The precision is that of the whole process, until this is forgotten.
        AcceleratorState._reset_state()
        accelerator = make_accelerator(arguments)
        assert accelerator.mixed_precision == (arguments.optimization.mixed_precision or "no")
        if scaled:
            # It grows with every update, and in the end overflows and shrinks.
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_factor=4.0, growth_interval=1)
        return IncrementalRun(arguments, accelerator)

    yield make
    AcceleratorState._reset_state()


def break_off_after(run: IncrementalRun, saves: int, monkeypatch: pytest.MonkeyPatch) -> list[TrainingState]:
    """Ends the run right after so many states were saved; gives those states."""
    states: list[TrainingState] = []
    save = run.checkpoints.save

    def counted(state: TrainingState) -> None:
        save(state)
        states.append(state)
        if len(states) == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(run.checkpoints, "save", counted)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    return states


@pytest.mark.parametrize(
    "options",
    [{"scaled": True}, {"mixed_precision": "bf16"}, {"gradient_accumulation_steps": 2}, {"sam_rho": 0.5}],
    ids=str,
)
def test_a_run_goes_on_in_any_precision(
    make_run: MakeRun,
    run_content: RunContent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
) -> None:
    # One phase of four epochs a step, or two with two.
    options = options | {"num_epochs": 3, "per_device_train_batch_size": 8}
    make_run("straight", **options).run()
    # Within a phase, at its end, and within the phase after the memory update.
    for saves in (2, 1, 2, 2):
        break_off_after(make_run("broken", **options), saves, monkeypatch)
    make_run("broken", **options).run()
    assert run_content(tmp_path / "broken") == run_content(tmp_path / "straight")


def test_a_state_holds_the_loss_scale_and_a_phase_starts_with_a_fresh_one(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("run", scaled=True, num_epochs=2)
    states = break_off_after(run, 4, monkeypatch)
    scales = [state.loss_scale["scale"] for state in states if state.loss_scale]
    # Two updates an epoch in the first step: 4 ** 2 and 4 ** 4 times the initial scale, then from the start.
    assert len(scales) == 4
    assert scales[0] < scales[1] and scales[2] <= scales[0] * 4**2
    again = make_run("run", scaled=True, num_epochs=2)
    (newest, *_) = again.checkpoints.newest_first(2)
    assert newest.loss_scale == states[-1].loss_scale


def test_the_time_a_step_takes_adds_up_over_restarts(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("run", num_epochs=3)
    states = break_off_after(run, 2, monkeypatch)
    again = make_run("run", num_epochs=3)
    again.run()
    first = json.loads((again.folder.path / "results.json").read_text())["steps"][0]
    assert first["train_seconds"] > states[-1].train_seconds > states[0].train_seconds > 0


def test_each_phase_compiles_its_model_and_no_later_epoch_does(
    make_run: MakeRun, run_content: RunContent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("plain", num_epochs=3).run()
    # Traced as always, but run as it stands: quick to compile, and the same to the last bit.
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    # A grown model is one more version of the same code; what does not forget the earlier ones would give up.
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 3)
    compiled: dict[tuple[int, str], list[int]] = {}
    train = EpochTrainer.train

    def watched(self: EpochTrainer, *arguments: Any) -> dict[str, float]:
        before = counters["stats"]["unique_graphs"]
        losses = train(self, *arguments)
        learner = self.accelerator.unwrap_model(self.learner, keep_torch_compile=False)
        epochs = compiled.setdefault((learner.step.number, learner.phase.name), [])
        epochs.append(counters["stats"]["unique_graphs"] - before)
        return losses

    monkeypatch.setattr(EpochTrainer, "train", watched)
    run = make_run("compiled", num_epochs=3)
    run.run()
    assert set(compiled) == {
        (step.number, phase.name) for step in run.scenario.steps for phase in run.method.phases(step)
    }
    # Once more at most: batches of an epoch differ by one image.
    assert all(1 <= first <= 2 and set(later) <= {0} for first, *later in compiled.values()), compiled
    assert run_content(tmp_path / "compiled") == run_content(tmp_path / "plain")


@pytest.mark.parametrize(("asked", "backend"), [(True, DynamoBackend.INDUCTOR), (False, DynamoBackend.NO)])
def test_torch_compile_is_asked_for(make_run: MakeRun, asked: bool, backend: DynamoBackend) -> None:
    assert make_run("run", torch_compile=asked).accelerator.state.dynamo_plugin.backend == backend
