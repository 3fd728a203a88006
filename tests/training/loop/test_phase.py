"""Phases: their learning rates, what a run resumes with, what it compiles, and what it holds on to."""

import gc
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DynamoBackend
from torch import Tensor
from torch._dynamo.utils import counters

from modeling_dytox import DyToxForImageClassification, IncrementalModel
from training.arguments import Arguments
from training.data.scenario import Step
from training.loop.checkpointing import Checkpoints
from training.loop.context import StepContext
from training.loop.learner import LossModule
from training.loop.phase import make_optimizer, make_schedule
from training.loop.processes import make_accelerator
from training.methods import Phase, PhaseData, make_method
from training.methods.dytox import DyTox
from training.methods.replay import Replay


Train = Callable[..., Path]
RunContent = Callable[[Path], dict[str, object]]


class Stopping(DyTox):
    """Breaks off at the loss after so many."""

    losses_left = 0

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        if Stopping.losses_left == 0:
            raise KeyboardInterrupt
        Stopping.losses_left -= 1
        return super().loss(learner, pixel_values, targets)


def test_the_cosine_warms_up_for_a_quarter_at_most_and_finetuning_is_constant(train: Train) -> None:
    folder = train(num_classes=4, num_epochs=8, finetuning_epochs=2, learning_rate_batch_size=32)
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rates = {
        name: [record["learning_rate"] for record in records if (record["step"], record.get("phase")) == (2, name)]
        for name in ("main", "finetuning")
    }
    # Half the peak, as the batches are half as large as those it is given for.
    peak, low = 0.5e-3, 1e-5
    cosine = [low + (peak - low) / 2 * (1 + math.cos(math.pi * epoch / 8)) for epoch in range(2, 8)]
    assert rates["main"] == pytest.approx([1e-6, (1e-6 + peak) / 2, *cosine])
    assert rates["finetuning"] == pytest.approx([2.5e-5] * 2)


def scaled_accelerator() -> Accelerator:
    """Scales losses as for float16. The scale grows with every update, and in the end overflows and shrinks."""
    accelerator = Accelerator()
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_factor=4.0, growth_interval=1)
    return accelerator


def test_loss_scale_and_time_are_resumed_and_each_phase_starts_with_a_fresh_scale(
    train: Train, run_content: RunContent
) -> None:
    options = {"num_epochs": 3, "finetuning_epochs": 2, "per_device_train_batch_size": 8, "num_classes": 4}
    straight = train("straight", accelerator=scaled_accelerator(), **options)
    # Updates an epoch: 3 in step 1, 6 in the main phase of step 2, 3 in its finetuning. It stops in the third epoch of
    # step 1, the second and third of step 2, and the second of finetuning.
    scales, seconds = [], []
    for step, losses in ((1, 7), (2, 10), (2, 10), (2, 10)):
        Stopping.losses_left = losses
        with pytest.raises(KeyboardInterrupt):
            train("stopped", Stopping, scaled_accelerator(), **options)
        state = next(Checkpoints(straight.with_name("stopped") / "checkpoints").newest_first(step))
        assert state.loss_scale is not None
        scales.append((state.position, state.loss_scale["scale"]))
        seconds.append(state.train_seconds)
    assert [position for position, _ in scales] == [(1, 0, 2), (2, 0, 1), (2, 0, 2), (2, 1, 1)]
    # Three and six updates of growth from the start of each phase.
    assert [math.log2(scale) for _, scale in scales[:2]] == [112, 112] and math.log2(scales[3][1]) == 106
    stopped = train("stopped", accelerator=scaled_accelerator(), **options)
    assert run_content(stopped) == run_content(straight)
    steps = json.loads((stopped / "results.json").read_text())["steps"]
    assert 0 < seconds[0] < steps[0]["train_seconds"]
    assert 0 < seconds[1] < seconds[2] < seconds[3] < steps[1]["train_seconds"]


def num_held() -> np.ndarray:
    """How many models, learners and optimizers exist in this process."""
    gc.collect()
    types = [type(item) for item in gc.get_objects()]
    kinds = (DyToxForImageClassification, LossModule, torch.optim.Optimizer)
    return np.array([sum(issubclass(found, kind) for found in types) for kind in kinds])


class Holding(DyTox):
    """Counts the models, learners and optimizers that exist after each step."""

    held: list[np.ndarray]

    def after_step(self, context: StepContext) -> None:
        Holding.held.append(num_held())


def test_a_run_holds_on_to_no_earlier_model_learner_or_optimizer_even_when_resumed(train: Train) -> None:
    # What earlier tests in this process still hold is none of the run's.
    before = num_held()
    # In the second epoch of step 2.
    Stopping.losses_left = 4 + 4
    with pytest.raises(KeyboardInterrupt):
        train(method=Stopping)
    Holding.held = []
    train(method=Holding)
    # The model and its teacher.
    assert [(held - before).tolist() for held in Holding.held] == [[2, 0, 0], [2, 0, 0]]


class Probe(Replay):
    """Three phases on data of each kind; keeps the hooks that are called, and a number that they change."""

    called: list[str]
    losses_left = -1

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.number = torch.zeros(1)

    def phases(self, step: Step) -> list[Phase]:
        data: list[PhaseData] = ["new+memory", "held-out", "balanced"]
        return [
            Phase(f"phase{place}", kind, 1, 1e-3, held_out=0.25, after_memory_update=place == 2)
            for place, kind in enumerate(data)
        ]

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        if Probe.losses_left == 0:
            raise KeyboardInterrupt
        Probe.losses_left -= 1
        return super().loss(learner, pixel_values, targets)

    def state(self) -> dict[str, Tensor]:
        return {"number": self.number}

    def load_state(self, tensors: Mapping[str, Tensor], model: IncrementalModel) -> None:
        Probe.called.append("load_state")
        self.number = tensors["number"]

    def before_growth(self, context: StepContext) -> None:
        Probe.called.append(f"before_growth {context.step.number}")
        self.number = torch.zeros(1)

    def after_phase(self, context: StepContext, phase: Phase) -> None:
        Probe.called.append(f"after_phase {phase.name}")
        self.number += 1
        # What a hook draws and changes is part of what is resumed.
        model: Any = context.model
        with torch.no_grad():
            model.head.linear.weight += self.number * torch.randn(model.head.linear.weight.shape)

    def after_memory(self, context: StepContext) -> None:
        Probe.called.append(f"after_memory {len(context.examples('memory'))}")
        assert context.embeddings(context.examples("new")).shape == (len(context.step.train), 16)
        assert context.logits(context.examples("memory")).shape[1] == context.step.num_seen_classes

    def after_backward(self, learner: LossModule) -> None:
        self.number += sum(parameter.grad is not None for parameter in learner.model.parameters())

    def after_update(self, learner: LossModule) -> None:
        Probe.called.append("after_update")

    def after_step(self, context: StepContext) -> None:
        Probe.called.append(f"after_step {context.step.number} {self.number.item() > 3}")


def test_hooks_are_called_in_order_and_what_they_did_is_resumed(train: Train, run_content: RunContent) -> None:
    options = {"num_classes": 4, "per_device_train_batch_size": 64}
    Probe.called = []
    straight = train("straight", Probe, **options)
    of_step = ["after_update", "after_phase phase0", "after_update", "after_phase phase1", "after_memory 24"]
    of_step += ["after_update", "after_phase phase2"]
    step1, step2 = [*of_step, "after_step 1 True"], ["before_growth 2", *of_step, "after_step 2 True"]
    assert Probe.called == step1 + step2

    # Broken off in each phase of the second step; the state of a phase is from before the hook that follows it.
    Probe.called = []
    for losses in (3, 1, 1):
        Probe.losses_left = losses
        with pytest.raises(KeyboardInterrupt):
            train("stopped", Probe, **options)
    Probe.losses_left = -1
    stopped = train("stopped", Probe, **options)
    assert run_content(stopped) == run_content(straight)
    resumed = ["before_growth 2", "load_state"]
    begun = [[*step1, *step2[:1]], step2[:3], [*resumed, *step2[2:6]], [*resumed, *step2[4:]]]
    assert Probe.called == sum(begun, [])


def test_parts_of_a_model_have_learning_rates_of_their_own(make_tiny_arguments: Callable[..., Arguments]) -> None:
    method = make_method(make_tiny_arguments(method="replay"))
    step = Step(1, ["a", "b"], (0, 2), None)  # type: ignore[arg-type]
    factors = (("head.linear.*", 10.0), ("head.*", 0.5))
    for schedule, epochs, expected in (("constant", 1, [1, 1]), ("cosine", 8, [1e-3, (1 + math.sqrt(0.5)) / 2])):
        phase = Phase("main", "new", epochs, 1e-2, schedule, learning_rate_factors=factors)  # type: ignore[arg-type]
        learner = LossModule(method, method.build(step), step, phase)
        optimizer = make_optimizer(learner, phase, 0.1, 1e-2)
        options = make_tiny_arguments(warmup_epochs=1, warmup_learning_rate=1e-5, min_learning_rate=0).optimization
        timetable = make_schedule(optimizer, phase, options)
        names = {id(parameter): name.removeprefix("model.") for name, parameter in learner.named_parameters()}
        for epoch, share in zip((0, 2), expected, strict=True):
            if timetable is not None:
                timetable.step(epoch)
            seen = set()
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    name = names[id(parameter)]
                    seen.add(name)
                    factor = 10 if "head.linear" in name else 0.5 if "head" in name else 1
                    assert group["lr"] == pytest.approx(factor * share * 1e-2), (name, epoch)
                    assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0)
            assert seen == set(names.values())


@pytest.fixture
def fresh_state() -> Iterator[None]:
    """Lets accelerators be made that differ from earlier ones, which otherwise all share their settings."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_state")
def test_each_phase_compiles_its_model_and_no_later_epoch_does(
    train: Train, run_content: RunContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"num_classes": 4, "num_epochs": 3}
    plain = train("plain", **options)
    AcceleratorState._reset_state()
    # Traced as always, but run as it stands: quick to compile, and the same to the last bit.
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    # A grown model is one more version of the same code; a run that does not forget the earlier ones would fail.
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    before = counters["stats"]["unique_graphs"]
    compiled = train("compiled", **options)
    # In each of the three phases once, and once more at most: batches of an epoch differ by one image.
    assert 3 <= counters["stats"]["unique_graphs"] - before <= 6
    assert run_content(compiled) == run_content(plain)


@pytest.mark.usefixtures("fresh_state")
@pytest.mark.parametrize(("asked", "backend"), [(True, DynamoBackend.INDUCTOR), (False, DynamoBackend.NO)])
def test_torch_compile_is_asked_for(
    make_arguments: Callable[..., Arguments], asked: bool, backend: DynamoBackend
) -> None:
    assert make_accelerator(make_arguments(torch_compile=asked)).state.dynamo_plugin.backend == backend
