"""
The implementation to compare with: Algorithm 1 of the paper, one pass of the decoder per task token. It runs the
oracle of the tests on the weights of a model.
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
    Runs Algorithm 1 in plain tensor operations, with the weights and the results of `model` but without drop path.

    Args:
        model (`DyToxForImageClassification`): the model that owns the weights.

    Raises:
        `InputError`: if the folder `tests/` is missing.
    """

    offsets: Tensor

    def __init__(self, model: DyToxForImageClassification) -> None:
        super().__init__()
        self.model = model
        self.oracle = load_oracle()
        self.register_buffer("offsets", self.oracle._offsets(model.config), persistent=False)
        # The oracle computes them from Python lists at each use, which the algorithm does not need.
        vars(self.oracle)["_offsets"] = lambda config: self.offsets

    @property
    def dytox(self) -> "TPassDyTox":
        """The module that computes task embeddings, under the name it has in the model."""
        return self

    def forward(self, pixel_values: Tensor) -> DyToxImageClassifierOutput:
        """Images `(B, C, height, width)` to the `logits` and `task_embeddings` of the model."""
        weights = dict(self.model.named_parameters())
        pixel_values = pixel_values.to(weights["dytox.task_tokens.0"].dtype)
        embeddings = self.oracle.task_embeddings(weights, self.model.config, pixel_values)
        task_embeddings = torch.stack(embeddings, dim=1)
        return DyToxImageClassifierOutput(
            logits=self.model.classify(task_embeddings),
            task_embeddings=task_embeddings,
            embeddings=task_embeddings.flatten(1),
        )


def load_oracle() -> ModuleType:
    """
    Loads a separate copy of the tests' oracle.

    Returns:
        `ModuleType`: the module.

    Raises:
        `InputError`: if the oracle is missing, as in an installed package.
    """
    if not ORACLE.is_file():
        raise InputError(f"{ORACLE} is missing, and --implementation t_pass runs it: work in a clone of the project.")
    spec = importlib.util.spec_from_file_location("benchmarks_oracle", ORACLE)
    assert spec is not None and spec.loader is not None
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    return oracle
