"""What methods with a head of similarities share: rows for new classes from their images, and old rows that stay."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modeling_dytox import IncrementalModel
from training.loop.context import StepContext
from training.loop.learner import LossModule


#: Unit rows for new classes, from the embeddings `(n, D)` of their images and labels `(n,)` that start at 0.
MakeRows = Callable[[Tensor, Tensor], Tensor]


def grow_with_rows(context: StepContext, make_rows: MakeRows) -> IncrementalModel:
    """
    The model with room for the new classes, whose rows are made of their images, as long as the mean row of the old
    classes.

    Args:
        context (`StepContext`): with the model of the step before, which embeds the images.
        make_rows (`MakeRows`): gives unit rows, in the order of the head.
    """
    step, model = context.step, context.model
    new = context.examples("new").of_classes(*step.class_range)
    rows = make_rows(context.embeddings(new), torch.from_numpy(new.labels) - step.num_old_classes)
    model.add_task(step.class_names)
    head: Any = model.head
    weight = head.weight.data
    num_old = len(weight) - len(rows)
    length = weight[:num_old].norm(dim=1).mean()
    weight[num_old:] = length * rows.to(weight)
    return model


def keep_old_rows(learner: LossModule, teacher: IncrementalModel) -> None:
    """
    Puts the rows of old classes back as the teacher has them. They are in one tensor with those that train, and would
    move by weight decay even without a gradient.
    """
    head: Any = learner.model.head
    teacher_head: Any = teacher.head
    old = teacher_head.weight
    head.weight.data[: len(old)] = old
