"""States at epoch boundaries: what goes in comes out, and nothing that was damaged does."""

import logging
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from training.loop.checkpointing import Checkpoints, Position, TrainingState, load_tensors, tensors_of


class Pair(nn.Module):
    """Two layers, the second of which may be frozen, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(3, 2)
        self.auxiliary = nn.Linear(2, 2)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def trained(updates: int, seed: int = 0) -> tuple[Pair, torch.optim.AdamW]:
    torch.manual_seed(seed)
    learner = Pair()
    learner.auxiliary.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=0.1)
    for number in range(updates):
        update(learner, optimizer, number)
    return learner, optimizer


def update(learner: Pair, optimizer: torch.optim.Optimizer, number: int) -> None:
    pixels = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
    learner.auxiliary(learner.model(pixels)).square().sum().backward()
    learner.count += 1
    optimizer.step()
    optimizer.zero_grad()


def state_at(epoch: int, step: int = 2, phase: int = 1) -> TrainingState:
    """Holds tensors of several types, and what a config may hold."""
    others = {f"learner.{dtype}": torch.randn(5).to(dtype) for dtype in (torch.bfloat16, torch.float64)}
    return TrainingState(
        position=Position(step, phase, epoch),
        train_seconds=1.5 * epoch,
        num_log_records=10 + epoch,
        loss_scale={"scale": 2.0**16},
        config={"class_ranges": [[0, 2], [2, 4]], "id2label": {"0": "a"}, "width": None},
        tensors=tensors_of(*trained(epoch)) | others,
    )


def assert_equal(state: TrainingState, expected: TrainingState) -> None:
    assert replace(state, tensors={}) == replace(expected, tensors={})
    assert state.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(state.tensors[name], tensor) and state.tensors[name].dtype == tensor.dtype


def test_a_state_comes_back_as_it_was_and_training_continues_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    expected = state_at(3)
    Checkpoints(tmp_path).save(expected)
    (state,) = Checkpoints(tmp_path).newest_first(2)
    assert_equal(state, expected)
    assert state.model_tensors.keys() == {"weight", "bias"}

    learner, optimizer = trained(0, seed=5)
    tensors = {name: tensor for name, tensor in state.tensors.items() if "torch" not in name}
    load_tensors(tensors, learner, optimizer)
    for number in range(3, 6):
        update(learner, optimizer, number)
    straight, _ = trained(6)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(learner.state_dict()[name], tensor)


def test_only_the_newest_states_are_kept_and_the_newest_comes_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for phase, epoch in ((0, 9), (0, 10), (0, 11), (1, 1), (1, 2)):
        checkpoints.save(state_at(epoch, phase=phase))
        assert len(list(tmp_path.iterdir())) <= 3
    # And the last state of the phase before, in case what came after it is damaged.
    checkpoints.save(state_at(3, phase=1))
    assert [state.position for state in checkpoints.newest_first(2)] == [(2, 1, 3), (2, 1, 2), (2, 0, 11)]
    checkpoints.save(state_at(1, step=3, phase=0))
    assert [state.position for state in checkpoints.newest_first(2)] == [(2, 1, 3)]
    checkpoints.clear()
    assert list(checkpoints.newest_first(3)) == []


def test_a_run_that_went_back_drops_the_states_it_could_not_use(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1, phase=1))
    checkpoints.save(state_at(2, phase=1))
    checkpoints.save(state_at(1, phase=0))
    assert [state.position for state in checkpoints.newest_first(2)] == [(2, 0, 1)]


def test_any_damage_is_noticed_and_the_state_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loggers of transformers keep their records from pytest.
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    checkpoints = Checkpoints(tmp_path)
    before, newest = state_at(4), state_at(5)
    checkpoints.save(before)
    checkpoints.save(newest)
    path = tmp_path / "step2_phase1_epoch5.safetensors"
    good = path.read_bytes()
    draws = random.Random(0)
    noticed = 0
    damaged = [good[:length] for length in (0, 1, 8, 100, len(good) - 1)]
    for place in [0, 7, 8, 20, *(draws.randrange(len(good)) for _ in range(200))]:
        damaged.append(good[:place] + bytes([good[place] ^ (1 << draws.randrange(8))]) + good[place + 1 :])
    for content in damaged:
        caplog.clear()
        path.write_bytes(content)
        found = list(checkpoints.newest_first(2))
        if len(found) == 2:
            # A changed space or the like in the file's header changes nothing.
            assert_equal(found[0], newest)
            continue
        assert_equal(found[0], before)
        assert f"The state {path} is damaged" in caplog.text
        noticed += 1
    assert noticed > 150
