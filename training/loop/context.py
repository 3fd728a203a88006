"""What the hooks of a method see of a step beside its model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from modeling_dytox import IncrementalModel
from training.data.examples import Examples
from training.data.memory import RehearsalMemory
from training.data.scenario import Scenario, Step
from training.data.selection import select_examples
from training.loop.evaluation import Evaluator
from training.methods import PhaseData


@dataclass
class StepContext:
    """
    A step as it is being learned. What it computes is the same on every process.

    Args:
        step (`Step`): the step.
        model (`IncrementalModel`): as it is now; before growth that of the step before.
        memory (`RehearsalMemory`, *optional*): as it is now; None for methods without one.
        scenario (`Scenario`): all steps of the run.
        evaluator (`Evaluator`): runs models over images.
        seed (`int`): of the run.
    """

    step: Step
    model: IncrementalModel
    memory: RehearsalMemory | None
    scenario: Scenario
    evaluator: Evaluator
    seed: int

    def examples(self, data: PhaseData, held_out: float = 0.0) -> Examples:
        """
        The images of some data of a phase.

        Args:
            data (`PhaseData`): which images.
            held_out (`float`, *optional*, defaults to 0): see [`Phase`].
        """
        return select_examples(data, self.step, self.memory, self.scenario, self.seed, held_out)

    def embeddings(self, examples: Examples) -> Tensor:
        """Embeddings `(n, d)` of images without augmentation, by the model in eval mode, on the CPU."""
        return self._run(examples, "embeddings")

    def logits(self, examples: Examples) -> Tensor:
        """Logits `(n, C)` of images without augmentation, by the model in eval mode, on the CPU."""
        return self._run(examples, "logits")

    def _run(self, examples: Examples, output: str) -> Tensor:
        values = self.evaluator.features(
            self.model, examples, lambda model, pixel_values: getattr(model(pixel_values), output)
        )
        return torch.from_numpy(values)
