"""
The yardstick: Algorithm 1 of the paper to the letter, one pass of the decoder a task token. It is the oracle that the
tests judge the model by, on the weights of a model.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from hub.run.errors import InputError
from modeling_dytox import DyToxForImageClassification, DyToxImageClassifierOutput


ORACLE = Path(__file__).resolve().parents[1] / "tests" / "modeling_dytox" / "oracle.py"


class TPassDyTox(nn.Module):
    """
    A model with the same weights and the same results as `model`, which runs Algorithm 1 in plain tensor operations.

    It has no drop path.

    Args:
        model (`DyToxForImageClassification`): owns the weights.

    Raises:
        InputError: the folder `tests/` is missing.
    """

    offsets: Tensor

    def __init__(self, model: DyToxForImageClassification) -> None:
        super().__init__()
        self.model = model
        self.oracle = load_oracle()
        self.register_buffer("offsets", self.oracle._offsets(model.config), persistent=False)
        # Made from Python lists at each use, it would count against the algorithm.
        vars(self.oracle)["_offsets"] = lambda config: self.offsets

    @property
    def dytox(self) -> "TPassDyTox":
        """What gives the task embeddings, as of the model."""
        return self

    def forward(self, pixel_values: Tensor) -> DyToxImageClassifierOutput:
        """Images `(B, C, height, width)` to `logits` and `task_embeddings`, as the model has them."""
        weights = dict(self.model.named_parameters())
        pixel_values = pixel_values.to(weights["dytox.task_tokens.0"].dtype)
        embeddings = self.oracle.task_embeddings(weights, self.model.config, pixel_values)
        task_embeddings = torch.stack(embeddings, dim=1)
        return DyToxImageClassifierOutput(logits=self.model.classify(task_embeddings), task_embeddings=task_embeddings)


def load_oracle() -> ModuleType:
    """
    A copy of its own of the tests' oracle.

    Raises:
        InputError: it is not there, as in an installed package.
    """
    if not ORACLE.is_file():
        raise InputError(f"{ORACLE} is missing, and --implementation t_pass runs it: work in a clone of the project.")
    spec = importlib.util.spec_from_file_location("benchmarks_oracle", ORACLE)
    assert spec is not None and spec.loader is not None
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    return oracle
