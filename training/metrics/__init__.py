"""
Metrics of class-incremental learning, each defined once, as a function. The classes are the same metrics as modules of
`evaluate`, for use on their own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from training.metrics.accuracy import task_aware_predictions, top_k_accuracy
from training.metrics.bias import old_new_bias
from training.metrics.calibration import (
    confidences_of,
    expected_calibration_error,
    reliability_bins,
    scores_of,
    sigmoid_confidences,
    softmax_confidences,
)
from training.metrics.continual import average_incremental_accuracy, backward_transfer, forgetting, last_accuracy


if TYPE_CHECKING:
    from training.metrics.modules import (
        AverageIncrementalAccuracy,
        BackwardTransfer,
        ExpectedCalibrationError,
        Forgetting,
        LastAccuracy,
        OldNewBias,
        TopKAccuracy,
    )


__all__ = [
    "AverageIncrementalAccuracy",
    "BackwardTransfer",
    "ExpectedCalibrationError",
    "Forgetting",
    "LastAccuracy",
    "OldNewBias",
    "TopKAccuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "confidences_of",
    "expected_calibration_error",
    "forgetting",
    "last_accuracy",
    "old_new_bias",
    "reliability_bins",
    "scores_of",
    "sigmoid_confidences",
    "softmax_confidences",
    "task_aware_predictions",
    "top_k_accuracy",
]


def __getattr__(name: str) -> Any:
    # `evaluate` takes more than a second to import: training, which uses the functions alone, need not wait for it.
    if name in __all__:
        return getattr(import_module("training.metrics.modules"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
