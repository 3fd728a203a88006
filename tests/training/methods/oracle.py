"""Logits of a second step, and what losses make of them by their formulas, written as loops."""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers.utils import ModelOutput

from training.arguments import Arguments
from training.data.scenario import Step
from training.methods import make_method
from training.methods.losses import one_hot_targets


MakeArguments = Callable[..., Arguments]
LABELS = [0, 2, 3, 4]
NUM_OLD, NUM_CLASSES = 3, 5
LOGITS = [[math.sin(1 + 5 * row + column) for column in range(NUM_CLASSES)] for row in range(4)]
TEACHER = [[math.cos(1 + 3 * row + column) for column in range(NUM_OLD)] for row in range(4)]
# With three old classes of five.
STEP = Step(2, ["d", "e"], (NUM_OLD, NUM_CLASSES), train=None)  # type: ignore[arg-type]
TARGETS = one_hot_targets(torch.tensor(LABELS), NUM_CLASSES).double()


def softmax(row: Sequence[float], temperature: float = 1.0) -> list[float]:
    total = sum(math.exp(value / temperature) for value in row)
    return [math.exp(value / temperature) / total for value in row]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True)) / math.hypot(*first) / math.hypot(*second)


def expected_cross_entropy(rows: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    return mean([-math.log(softmax(row)[label]) for row, label in zip(rows, labels, strict=True)])


def expected_distillation(
    temperature: float,
    rows: Sequence[Sequence[float]] = LOGITS,
    teacher_rows: Sequence[Sequence[float]] = TEACHER,
    classes: tuple[int, int] = (0, NUM_OLD),
) -> float:
    """Of the logits of these classes alone."""
    losses = []
    for row, teacher in zip(rows, teacher_rows, strict=True):
        student = softmax(row[slice(*classes)], temperature)
        shares = softmax(teacher[slice(*classes)], temperature)
        losses.append(-sum(share * math.log(score) for share, score in zip(shares, student, strict=True)))
    return mean(losses)


def outputs_of(rows: Sequence[Sequence[float]], **more: Any) -> ModelOutput:
    logits = torch.tensor(rows, dtype=torch.float64)
    return ModelOutput(logits=logits, head_logits=logits, **more)


def stand_in(rows: Sequence[Sequence[float]], ranges: Sequence[tuple[int, int]] = ((0, NUM_OLD),), **more: Any) -> Any:
    """In place of a model: these logits for whatever images."""
    config = SimpleNamespace(
        problem_type="single_label_classification", step_class_ranges=ranges, freeze_encoder=False
    )
    answering = type("StandIn", (SimpleNamespace,), {"__call__": lambda self, *_, **__: outputs_of(rows, **more)})
    return answering(config=config)


def learner_of(model: Any, phase: Any, step: Step = STEP) -> Any:
    """What a loss is given."""
    return SimpleNamespace(model=model, step=step, phase=phase, auxiliary={})


def terms_of(
    name: str, make_arguments: MakeArguments, has_teacher: bool = True, teacher: Any = None, **options: Any
) -> dict[str, float]:
    """The terms of a method's loss in the second step, where the model and its teacher give these logits."""
    method: Any = make_method(make_arguments(method=name, **options))
    if has_teacher:
        method.teacher = teacher or stand_in(TEACHER)
    (phase, *_) = method.phases(STEP)
    terms = method.loss(learner_of(stand_in(LOGITS), phase), torch.zeros(4), TARGETS)
    return {name: term.item() for name, term in terms.items()}
