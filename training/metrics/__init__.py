"""
Metrics of class-incremental learning, each defined once, as a function. The classes are the same metrics as modules of
`evaluate`, for use on their own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from training.metrics.accuracy import task_aware_predictions, top_k_accuracy
from training.metrics.bias import old_new_bias
from training.metrics.calibration import (
    expected_calibration_error,
    expected_calibration_error_per_step,
    reliability_bins,
    sigmoid_confidences,
)
from training.metrics.continual import (
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forgetting_as_published,
    last_accuracy,
)
from training.metrics.matrix import accuracies_from_matrix


if TYPE_CHECKING:
    from training.metrics.model_metrics import ExpectedCalibrationError, OldNewBias, TopKAccuracy
    from training.metrics.run_metrics import (
        AverageIncrementalAccuracy,
        BackwardTransfer,
        Forgetting,
        ForgettingAsPublished,
        LastAccuracy,
    )


CLASSES = {
    "training.metrics.model_metrics": ("ExpectedCalibrationError", "OldNewBias", "TopKAccuracy"),
    "training.metrics.run_metrics": (
        "AverageIncrementalAccuracy",
        "BackwardTransfer",
        "Forgetting",
        "ForgettingAsPublished",
        "LastAccuracy",
    ),
}


def __getattr__(name: str) -> Any:
    # `evaluate` takes more than a second to import: training, which uses the functions alone, need not wait for it.
    for module, classes in CLASSES.items():
        if name in classes:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AverageIncrementalAccuracy",
    "BackwardTransfer",
    "ExpectedCalibrationError",
    "Forgetting",
    "ForgettingAsPublished",
    "LastAccuracy",
    "OldNewBias",
    "TopKAccuracy",
    "accuracies_from_matrix",
    "average_incremental_accuracy",
    "backward_transfer",
    "expected_calibration_error",
    "expected_calibration_error_per_step",
    "forgetting",
    "forgetting_as_published",
    "last_accuracy",
    "old_new_bias",
    "reliability_bins",
    "sigmoid_confidences",
    "task_aware_predictions",
    "top_k_accuracy",
]
