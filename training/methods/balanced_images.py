"""As many images of each new class as of an old one, the most typical ones."""

from collections.abc import Callable

import numpy as np
from accelerate.utils import broadcast_object_list
from torch import Tensor

from modeling_dytox import IncrementalModel
from training.data.examples import Examples, concatenate
from training.data.herding import herd
from training.loop.context import StepContext


def herd_new_classes(
    context: StepContext, model: IncrementalModel, embed: Callable[[IncrementalModel, Tensor], Tensor]
) -> Examples:
    """
    Images of the new classes and all exemplars of the old ones (EEIL, section 3.3).

    Args:
        context (`StepContext`): a step after the first.
        model (`IncrementalModel`): whose embeddings decide which images of a class are typical.
        embed (`Callable`): gives its embeddings `(B, d)` of pixel values.

    Returns:
        `Examples`: of each new class as many as the old class with the most has; old classes with fewer stay so.
    """
    step, memory = context.step, context.memory
    new = step.train.of_classes(*step.class_range)
    if memory is None or memory.examples is None:
        return new
    old = memory.examples.of_classes(0, step.num_old_classes)
    count = int(np.bincount(old.labels).max())
    features = context.evaluator.features(model, new, embed)
    chosen = []
    for label in np.unique(new.labels):
        candidates = np.flatnonzero(new.labels == label)
        chosen.append(candidates[herd(features[candidates], count)])
    # The main process decides: rounding may differ between processes.
    (kept,) = broadcast_object_list([np.sort(np.concatenate(chosen))])
    return concatenate([new.select(kept), old])
