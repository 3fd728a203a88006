"""The weights in a step folder."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor


def load_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of a model by name, from one file or from several."""
    files = sorted(folder.glob("model*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}
