"""How far a model's confidence can be believed."""

import numpy as np


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray, num_bins: int = 15) -> float:
    """
    Mean distance between confidence and accuracy over bins of equal width, weighted by the images in each
    (Guo et al., ICML 2017, equation 3).

    Args:
        confidences (`np.ndarray` of shape `(n,)`): score of the predicted class, in 0..1.
        correct (`np.ndarray` of shape `(n,)`): whether the prediction is right.
        num_bins (`int`): bins between 0 and 1.
    """
    bins = np.clip(np.ceil(confidences * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=confidences - correct, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidences))
