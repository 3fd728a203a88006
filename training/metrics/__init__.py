"""Metrics of class-incremental learning, each defined once."""

from training.metrics.calibration import expected_calibration_error
from training.metrics.continual import average_incremental_accuracy, backward_transfer, forgetting, last_accuracy


__all__ = [
    "average_incremental_accuracy",
    "backward_transfer",
    "expected_calibration_error",
    "forgetting",
    "last_accuracy",
]
