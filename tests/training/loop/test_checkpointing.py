"""States at epoch boundaries: what goes in comes out, and nothing that was damaged does."""

import random
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from hub.run.errors import InputError
from training.loop.checkpointing import Checkpoints, Position, TrainingState, load_tensors, tensors_of


class Pair(nn.Module):
    """Two layers, the second of which may be frozen, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(3, 2)
        self.auxiliary = nn.Linear(2, 2)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def trained(steps: int, seed: int = 0) -> tuple[Pair, torch.optim.AdamW]:
    torch.manual_seed(seed)
    learner = Pair()
    learner.auxiliary.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=0.1)
    for step in range(steps):
        train_once(learner, optimizer, step)
    return learner, optimizer


def train_once(learner: Pair, optimizer: torch.optim.Optimizer, step: int) -> None:
    pixels = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    learner.auxiliary(learner.model(pixels)).square().sum().backward()
    learner.count += 1
    optimizer.step()
    optimizer.zero_grad()


def state_at(epoch: int, step: int = 2, phase: int = 1) -> TrainingState:
    return TrainingState(
        Position(step, phase, epoch), 1.5 * epoch, 10 + epoch, {"scale": 2.0**16}, tensors_of(*trained(epoch))
    )


def assert_equal(state: TrainingState, expected: TrainingState) -> None:
    assert (state.position, state.train_seconds, state.num_log_records, state.loss_scale) == (
        expected.position,
        expected.train_seconds,
        expected.num_log_records,
        expected.loss_scale,
    )
    assert state.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(state.tensors[name], tensor) and state.tensors[name].dtype == tensor.dtype


def test_training_goes_on_from_a_state_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(3))
    (state,) = checkpoints.newest_first(2)
    learner, optimizer = trained(0, seed=5)
    load_tensors(state.tensors, learner, optimizer)
    for step in range(3, 6):
        train_once(learner, optimizer, step)
    straight, _ = trained(6)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(learner.state_dict()[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_state_comes_back_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    state = state_at(2)
    state.tensors["learner.extra"] = torch.randn(5).to(dtype)
    Checkpoints(tmp_path).save(state)
    (found,) = Checkpoints(tmp_path).newest_first(2)
    assert_equal(found, state)


def test_only_the_newest_states_are_kept_and_the_newest_comes_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for phase, epoch in ((0, 9), (0, 10), (0, 11), (1, 1), (1, 2)):
        checkpoints.save(state_at(epoch, phase=phase))
        assert len(list(tmp_path.iterdir())) <= 3
    # And the last state of the phase before, should what came after it be damaged.
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
    monkeypatch.setattr("training.loop.checkpointing.logger.warning", lambda text: warnings.append(text))
    warnings: list[str] = []
    checkpoints = Checkpoints(tmp_path)
    before, newest = state_at(4), state_at(5)
    checkpoints.save(before)
    checkpoints.save(newest)
    path = tmp_path / "step2_phase1_epoch5.safetensors"
    good = path.read_bytes()
    seed = int(time.time())
    draws = random.Random(seed)
    damaged = [good[:length] for length in (0, 1, 8, 100, len(good) - 1)]
    for place in [0, 7, 8, 20, *(draws.randrange(len(good)) for _ in range(200))]:
        damaged.append(good[:place] + bytes([good[place] ^ (1 << draws.randrange(8))]) + good[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        found = list(checkpoints.newest_first(2))
        if len(found) == 2:
            # A changed space or the like in the file's header changes nothing.
            assert_equal(found[0], newest)
            continue
        assert_equal(found[0], before)
        assert str(path) in warnings[-1] and "damaged" in warnings[-1]
    assert len(warnings) > 150, seed


def test_a_full_disk_is_named_and_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1))
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write_bytes(path, content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"epoch2.safetensors cannot be written \(No space left on device\)"):
        checkpoints.save(state_at(2))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step2_phase1_epoch1.safetensors"]
    (found,) = checkpoints.newest_first(2)
    assert_equal(found, state_at(1))
