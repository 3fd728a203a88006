"""What methods with a head of similarities share: rows for new classes from their images, and old rows that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from training.methods.base import Method, Phase, frozen_copy


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_dytox import IncrementalModel
    from training.data.scenario import Step
    from training.loop.context import StepContext
    from training.loop.learner import LossModule


class SimilarityHeadMethod(Method):
    """
    A method whose rows of old classes do not change in the main phase, after which the head alone may be finetuned.
    Its options have `finetuning_epochs` and `balanced_learning_rate_factor`.
    """

    teacher: IncrementalModel | None = None

    def before_growth(self, context: StepContext) -> None:
        """Keeps a copy of the model of the step before as teacher."""
        self.teacher = frozen_copy(context.model)

    def phases(self, step: Step) -> Sequence[Phase]:
        """The main phase; where it has epochs, from step 2 on the head alone on the balanced memory."""
        head = self.phase(
            "head",
            "memory",
            self.options.finetuning_epochs,
            self.options.balanced_learning_rate_factor * self.arguments.optimization.learning_rate,
            frozen=("dytox.*",),
            after_memory_update=True,
        )
        main = self.main_phase(step, "new" if step.number == 1 else "new+memory")
        return [main, head] if head.epochs and step.number > 1 else [main]

    def after_update(self, learner: LossModule) -> None:
        """
        Puts the rows of old classes back as the teacher has them, in the main phase. They are in one tensor with those
        that train, and would move by weight decay even without a gradient.
        """
        if self.teacher is not None and learner.phase.name == "main":
            head: Any = learner.model.head
            teacher_head: Any = self.teacher.head
            old = teacher_head.weight
            head.weight.data[: len(old)] = old


def grow_with_rows(context: StepContext, make_rows: Callable[[Tensor, Tensor], Tensor]) -> IncrementalModel:
    """
    The model with room for the new classes, whose rows are made of their images, as long as the mean row of the old
    classes.

    Args:
        context (`StepContext`): with the model of the step before, which embeds the images.
        make_rows (`Callable`): gives unit rows, in the order of the head, from the embeddings `(n, D)` of the images
            and labels `(n,)` that start at 0.
    """
    import torch

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
