"""`statistics.safetensors` of a step folder: what some methods need of the images before to learn more classes."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hub.run.atomic import write_aside
from hub.run.errors import InputError, first_line
from modeling_dytox import IncrementalModel
from training.methods import Method
from training.tensor_digest import tensor_digest


def write_statistics(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """
    Writes a file with a digest, as a single wrong number would spoil all later steps unseen. Equal tensors give equal
    bytes.

    Args:
        path (`Path`): the file.
        tensors (`Mapping[str, Tensor]`): by name.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_aside(path, save(contiguous, metadata={"digest": _digest(contiguous)}))


def load_statistics(method: Method, model: IncrementalModel, path: Path, what_to_do: str) -> None:
    """
    Gives a method the statistics of the step that it goes on after.

    Args:
        method (`Method`): takes them up, if it keeps statistics.
        model (`IncrementalModel`): of the step.
        path (`Path`): the file.
        what_to_do (`str`): ends the error.

    Raises:
        InputError: the file is missing, damaged, or of another method or model.
    """
    if not method.keeps_statistics:
        return
    if not path.is_file():
        raise InputError(f"{path} is missing, without which --method {method.name} cannot go on: {what_to_do}")
    try:
        method.load_statistics(_read(path), model)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not fit --method {method.name} ({first_line(error)}): {what_to_do}") from error


def _read(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        # Clone: memory-mapped tensors are misaligned, which changes rounding.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        recorded = (file.metadata() or {}).get("digest")
    if recorded != _digest(tensors):
        raise ValueError("it is damaged: its content does not fit its digest")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    described = ((f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor) for name, tensor in sorted(tensors.items()))
    return tensor_digest(described).hexdigest()
