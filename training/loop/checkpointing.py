"""
The state of a run at its last epoch boundaries, from which it resumes.

A state holds what training changes: the config of the model, model, auxiliary modules, optimizer, loss scale, and what
the hooks of the method have made. It does
not hold what follows from the recipe: the learning rate follows from the epoch, and every random draw from the seed,
step, phase and epoch (see [`training.seeding`]), so there are no random streams to save. Teacher and memory come from
the folder of the run.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers.utils import logging

from hub.run.atomic import write_aside
from hub.run.errors import InputError, one_line
from modeling_dytox.encoders import is_of_encoder
from training.loop.disk import disk_errors_named
from training.tensor_digest import tensor_digest


logger = logging.get_logger(__name__)

# The newest state, and the one before it in case the newest is damaged.
NUM_NEWEST_KEPT = 2
FILE_NAME = re.compile(r"step(\d+)_phase(\d+)_epoch(\d+)\.safetensors")
# Fields of a state beside its tensors.
FIELDS = ("position", "train_seconds", "num_log_records", "loss_scale", "config")
# Where [`tensors_of`] puts the weights of the model, and [`method_tensors`] what a method keeps beside it.
MODEL_PREFIX = "learner.model."
METHOD_PREFIX = "method."


class Position(NamedTuple):
    """
    An epoch boundary.

    Args:
        step (`int`): from 1.
        phase (`int`): index, from 0, of the phase among those of the step.
        epoch (`int`): epochs of the phase that are complete.
    """

    step: int
    phase: int
    epoch: int


@dataclass(frozen=True)
class TrainingState:
    """
    A run at an epoch boundary.

    Args:
        position (`Position`): the boundary.
        train_seconds (`float`): time spent on the step so far.
        num_log_records (`int`): records of `log.jsonl` so far.
        loss_scale (`dict[str, Any]`, *optional*): state of the scaler of float16; None in other precisions.
        config (`dict[str, Any]`): of the model: its shape may change within a step.
        tensors (`dict[str, Tensor]`): model, auxiliary modules and optimizer, see [`tensors_of`], and what the method
            keeps, see [`method_tensors`].
    """

    position: Position
    train_seconds: float
    num_log_records: int
    loss_scale: dict[str, Any] | None
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def model_tensors(self) -> dict[str, Tensor]:
        """The weights of the model, by name."""
        return self._with_prefix(MODEL_PREFIX)

    @property
    def method_tensors(self) -> dict[str, Tensor]:
        """What the hooks of the method had made beside the model, by name."""
        return self._with_prefix(METHOD_PREFIX)

    def _with_prefix(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


class Checkpoints:
    """
    The states on disk, one safetensors file each, written aside and renamed; older ones are deleted.

    Args:
        folder (`Path`): where they are; made with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: TrainingState) -> None:
        """
        Adds a state as the newest, then deletes all but it, the one before, and the last of each earlier phase of the
        step, which can be used even where the memory updated after it is damaged. States of a later position were
        unusable, as the run resumed from before them: they are deleted.

        Args:
            state (`TrainingState`): what to save.

        Raises:
            InputError: the disk is full, or cannot be written.
        """
        path = self.folder / "step{}_phase{}_epoch{}.safetensors".format(*state.position)
        with disk_errors_named(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_aside(path, _to_bytes(state))
            for file in self._superseded_by(state.position):
                file.unlink()

    def newest_first(self, step: int) -> Iterator[TrainingState]:
        """The states within `step`; a damaged one is named in a warning and skipped."""
        for path in self._files():
            if _position_of(path).step != step:
                continue
            try:
                yield _from_file(path)
            except InputError as error:
                logger.warning(f"{error} The run resumes from before it.")

    def clear(self) -> None:
        """Deletes all states: the step they belong to is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _superseded_by(self, newest: Position) -> set[Path]:
        files = self._files()
        usable = [file for file in files if _position_of(file) <= newest]
        last_of_phase = {_position_of(file)[:2]: file for file in reversed(usable)}
        kept = {file for (step, _), file in last_of_phase.items() if step == newest.step}
        return set(files) - kept - set(usable[:NUM_NEWEST_KEPT])

    def _files(self) -> list[Path]:
        files = [path for path in self.folder.glob("*.safetensors") if FILE_NAME.fullmatch(path.name)]
        return sorted(files, key=_position_of, reverse=True)


def tensors_of(learner: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """
    All tensors that training changes: those of the learner by name, without a frozen encoder, and those of the
    optimizer by parameter.
    """
    tensors = {
        f"learner.{name}": tensor for name, tensor in learner.state_dict().items() if not _never_changes(name, learner)
    }
    for parameter, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{parameter}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _never_changes(name: str, learner: nn.Module) -> bool:
    config = getattr(getattr(learner, "model", None), "config", None)
    return getattr(config, "freeze_encoder", False) and is_of_encoder(name)


def method_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the hooks of a method have made, as tensors of a state."""
    return {f"{METHOD_PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def load_tensors(tensors: Mapping[str, Tensor], learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """
    Loads the result of [`tensors_of`].

    Args:
        tensors (`Mapping[str, Tensor]`): as `tensors_of` gave them.
        learner (`nn.Module`), optimizer (`torch.optim.Optimizer`): made in the same way as the ones they are of.
    """
    learner_state: dict[str, Tensor] = {}
    optimizer_state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        owner, _, name = key.partition(".")
        if owner == "learner":
            learner_state[name] = tensor
        elif owner == "optimizer":
            parameter, _, name = name.partition(".")
            optimizer_state.setdefault(int(parameter), {})[name] = tensor
    kept = {name: tensor for name, tensor in learner.state_dict().items() if _never_changes(name, learner)}
    learner.load_state_dict(kept | learner_state)
    optimizer.load_state_dict({"state": optimizer_state, "param_groups": optimizer.state_dict()["param_groups"]})


def _position_of(path: Path) -> Position:
    match = FILE_NAME.fullmatch(path.name)
    assert match is not None
    return Position(*map(int, match.groups()))


def _to_bytes(state: TrainingState) -> bytes:
    content = json.dumps({name: getattr(state, name) for name in FIELDS})
    return save(state.tensors, metadata={"state": content, "digest": _digest(content, state.tensors)})


def _from_file(path: Path) -> TrainingState:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            # Clone: memory-mapped tensors are misaligned, which changes rounding.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        fields = json.loads(metadata["state"])
        if metadata["digest"] != _digest(metadata["state"], tensors):
            raise ValueError("its content does not fit its digest")
        return TrainingState(**fields | {"position": Position(*fields["position"]), "tensors": tensors})
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The state {path} is damaged, or of another version of this project ({one_line(error)})."
        ) from error


def _digest(content: str, tensors: Mapping[str, Tensor]) -> str:
    return tensor_digest(sorted(tensors.items()), start=content).hexdigest()
