"""How much a model favours the classes it learned last."""

from typing import Any, NamedTuple

import numpy as np

from training.metrics.checks import check_same_length, check_whole_numbers


class PredictionBias(NamedTuple):
    """
    How a model divides its predictions between old and new classes.

    Args:
        old_new_bias (`float`): share of images predicted as new less the share that are new, in -1..1.
        old_predicted_as_new (`float`, *optional*): share of old classes' images predicted as new; None without any.
        new_predicted_as_old (`float`, *optional*): the converse.
    """

    old_new_bias: float
    old_predicted_as_new: float | None
    new_predicted_as_old: float | None


def old_new_bias(predictions: Any, labels: Any, num_old_classes: int) -> PredictionBias:
    """
    Old-new bias, defined here: with n images, `(#{predicted as new} - #{new}) / n`, which is
    `(#{old predicted as new} - #{new predicted as old}) / n`. "New" are the classes of the newest step, "old" all
    before. Positive where the model favours new classes, as it does after learning without old images (the tendency
    is described by Wu et al., CVPR 2019). 0 where it predicts new classes as often as they occur: for a model without
    errors, and for one that guesses evenly where images are spread evenly over the classes.

    Args:
        predictions, labels (`(n,)`): predicted and true label ids.
        num_old_classes (`int`): label ids below are old; at least 1.

    Returns:
        `PredictionBias`: the bias and the two shares of errors behind it.

    Raises:
        ValueError: there is no old class, lengths differ, there is no image, or a label id is no whole number from 0.
    """
    if num_old_classes < 1:
        raise ValueError(f"num_old_classes is {num_old_classes}, expected 1 or more: measure the bias from step 2 on.")
    predicted, true = check_whole_numbers(predictions, "predictions"), check_whole_numbers(labels, "labels")
    check_same_length(predictions=predicted, labels=true)
    predicted_new, is_new = predicted >= num_old_classes, true >= num_old_classes
    bias = float((predicted_new.sum() - is_new.sum()) / len(true))
    return PredictionBias(bias, _share(predicted_new[~is_new]), _share(~predicted_new[is_new]))


def _share(chosen: np.ndarray) -> float | None:
    return float(chosen.mean()) if len(chosen) else None
