"""The losses of the methods: of DyTox (paper, section 4.1 and equation 8), and those that its rivals share."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from modeling_dytox import IncrementalModel
from training.data.scenario import Step


def one_hot_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Label ids `(B,)` to targets `(B, num_classes)` of zeros and ones."""
    return functional.one_hot(labels, num_classes).float()


def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each class's sigmoid, a mean over images and classes; both `(B, C)`."""
    return functional.binary_cross_entropy_with_logits(logits.float(), targets)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax cross-entropy, a mean over images; both `(B, C)`, targets of each image sum to one."""
    return functional.cross_entropy(logits.float(), targets)


def loss_of_problem_type(model: IncrementalModel, outputs: Any, targets: Tensor) -> Tensor:
    """
    Cross-entropy of the kind that the model's scores have.

    Args:
        model (`IncrementalModel`): has a `problem_type`.
        outputs: of the model; the logits are those of its head, where it predicts by another rule.
        targets (`Tensor` of shape `(B, C)`): targets in 0..1.
    """
    is_sigmoid = model.config.problem_type == "multi_label_classification"
    return (classification_loss if is_sigmoid else cross_entropy)(head_logits(outputs), targets)


def head_logits(outputs: Any) -> Tensor:
    """Logits `(B, C)` to train on: those of the head, before nearest mean or bias correction."""
    logits: Tensor = outputs.logits if outputs.get("head_logits") is None else outputs.head_logits
    return logits


def knowledge_distillation(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """
    Cross-entropy between the softened scores of teacher and student over the old classes, a mean over images (Hinton
    et al., https://arxiv.org/abs/1503.02531, without their factor of the squared temperature).

    Args:
        logits (`Tensor` of shape `(B, C)`): of all classes, the old ones first.
        teacher_logits (`Tensor` of shape `(B, C_old)`): of the old classes.
        temperature (`float`): softens both distributions.

    Returns:
        `Tensor` of shape `()`: the loss.
    """
    student = functional.log_softmax(logits[:, : teacher_logits.shape[1]].float() / temperature, dim=1)
    teacher = functional.softmax(teacher_logits.float() / temperature, dim=1)
    return -(teacher * student).sum(dim=1).mean()


def distilled(
    terms: Mapping[str, Tensor], logits: Tensor, teacher_logits: Tensor, step: Step, temperature: float
) -> dict[str, Tensor]:
    """
    A loss that also keeps the teacher's scores of the old classes: `(1 - a) * terms + a * distillation`, with a the
    fraction of old classes (BiC, section 3; WA, section 4.2).

    Args:
        terms (`Mapping[str, Tensor]`): of the loss on the labels.
        logits (`Tensor` of shape `(B, C)`): of the student.
        teacher_logits (`Tensor` of shape `(B, C_old)`): of the model of the step before.
        step (`Step`): what is learned.
        temperature (`float`): of the distillation.
    """
    old_fraction = step.num_old_classes / step.num_seen_classes
    weighted = {name: (1 - old_fraction) * term for name, term in terms.items()}
    return weighted | {"distillation": old_fraction * knowledge_distillation(logits, teacher_logits, temperature)}


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """
    Kullback-Leibler divergence from the teacher's softmax over the old classes to the student's, times temperature
    squared. As in the authors' code it is a mean over images and old classes, not a sum over classes.

    Args:
        logits (`Tensor` of shape `(B, C)`): of all classes, the old ones first.
        teacher_logits (`Tensor` of shape `(B, C_old)`): of the old classes.
        temperature (`float`, *optional*, defaults to 1): softens both distributions.

    Returns:
        `Tensor` of shape `()`: the loss.
    """
    student = functional.log_softmax(logits[:, : teacher_logits.shape[1]].float() / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits.float() / temperature, dim=1)
    return (teacher.exp() * (teacher - student)).mean() * temperature**2


def divergence_targets(targets: Tensor, num_old_classes: int) -> Tensor:
    """
    Targets of the divergence classifier: first "any old class", then each new class.

    Args:
        targets (`Tensor` of shape `(B, C)`): hard or soft targets of all classes, the old ones first.
        num_old_classes (`int`): how many of them are old.

    Returns:
        `Tensor` of shape `(B, 1 + C - num_old_classes)`: the targets.
    """
    old = targets[:, :num_old_classes].sum(dim=1, keepdim=True)
    return torch.cat([old, targets[:, num_old_classes:]], dim=1)
