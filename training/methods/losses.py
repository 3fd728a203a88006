"""The losses of DyTox (paper, section 4.1 and equation 8)."""

import torch
from torch import Tensor
from torch.nn import functional


def one_hot_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Label ids `(B,)` to targets `(B, num_classes)` of zeros and ones."""
    return functional.one_hot(labels, num_classes).float()


def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each class's sigmoid, a mean over images and classes; both `(B, C)`."""
    return functional.binary_cross_entropy_with_logits(logits.float(), targets)


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
