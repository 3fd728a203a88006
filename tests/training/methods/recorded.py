"""Runs on a few digits whose phases are kept as the method saw them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.conftest import train
from training import incremental
from training.data.examples import Examples
from training.loop.context import StepContext
from training.methods import METHODS, Method, Phase
from training.methods.base import frozen_copy


# Three steps of two digits, which a small model learns in seconds without augmentation.
OPTIONS: dict[str, object] = {
    "dataset_name": "digits",
    "num_classes": 6,
    "classes_per_step": 2,
    "max_train_samples_per_class": 20,
    "max_eval_samples_per_class": 10,
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_epochs": 4,
    "memory_size": 24,
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-3,
    "learning_rate_batch_size": 0,
    "num_workers": 0,
    "auto_augment": "none",
    "horizontal_flip": False,
    "train_crop": "none",
}


@dataclass(frozen=True)
class RecordedPhase:
    """
    A phase of a run.

    Args:
        phase (`Phase`): its data, rates and frozen parameters.
        context (`StepContext`): whose model is that of the end of the run.
        examples (`Examples`): what was learned from.
        memory (`Examples`, *optional*): exemplars while it was learned.
        begun, trained, ended: the model before the phase, when the phase had trained it, and after `after_phase`.
    """

    phase: Phase
    context: StepContext
    examples: Examples
    memory: Examples | None
    begun: Any
    trained: Any
    ended: Any

    def outputs(self, model: Any, examples: Examples, name: str = "logits") -> np.ndarray:
        """The logits of images without augmentation, or other outputs."""
        return self.context.evaluator.features(model, examples, lambda model, images: model(images)[name])


@dataclass(frozen=True)
class RecordedRun:
    """The folder of a run, its method, and its phases by step and name."""

    folder: Path
    method: Any
    phases: Mapping[tuple[int, str], RecordedPhase]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What was measured after each step."""
        steps: list[dict[str, Any]] = json.loads((self.folder / "results.json").read_text())["steps"]
        return steps


def record(method: str, folder: Path, **options: object) -> RecordedRun:
    """Learns by a method with these options in this process; without cards, whose figures take half of the time."""
    kind: Any = METHODS[method]
    phases: dict[tuple[int, str], RecordedPhase] = {}
    made: list[Method] = []

    class Recording(kind):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

        def examples(self, context: StepContext, phase: Phase) -> Examples:
            self.found = super().examples(context, phase)
            self.begun = frozen_copy(context.model)
            return self.found

        def after_phase(self, context: StepContext, phase: Phase) -> None:
            memory = None if context.memory is None else context.memory.examples
            trained = frozen_copy(context.model)
            super().after_phase(context, phase)
            ended = frozen_copy(context.model)
            phases[context.step.number, phase.name] = RecordedPhase(
                phase, context, self.found, memory, self.begun, trained, ended
            )

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(METHODS, method, Recording)
        patched.setattr(incremental, "add_card_and_figures", lambda *_: None)
        train(OPTIONS | {"method": method, "output_dir": folder} | options)
    return RecordedRun(folder, made[0], phases)


def changed(before: Any, after: Any) -> set[str]:
    """Names of weights and buffers in which two models differ; the models have the same shape."""
    weights = after.state_dict()
    return {name for name, tensor in before.state_dict().items() if not torch.equal(tensor, weights[name])}


def sources(examples: Examples) -> list[tuple[int, int]]:
    """Label and row in the data set of each image."""
    return list(zip(examples.labels.tolist(), examples.source_indices.tolist(), strict=True))
