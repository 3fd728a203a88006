"""Herding: the exemplars whose running mean stays closest to the mean of their class."""

import numpy as np


MAX_ITERATIONS = 1000


def herd(features: np.ndarray, quota: int) -> np.ndarray:
    """
    Chooses exemplars of one class as iCaRL does (Rebuffi et al., CVPR 2017, algorithm 4): greedily, on L2-normalised
    features. A feature that is drawn again moves the target but takes no second place.

    Args:
        features (`np.ndarray` of shape `(n, d)`): embedding of each image of the class.
        quota (`int`): exemplars to choose; all images when there are fewer.

    Returns:
        `np.ndarray` of shape `(min(quota, n),)`: positions of the exemplars, best first.
    """
    quota = min(quota, len(features))
    directions = features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-8)
    mean = directions.mean(axis=0)
    target = mean.copy()
    chosen: dict[int, None] = {}
    for _ in range(MAX_ITERATIONS):
        if len(chosen) == quota:
            break
        best = int(np.argmax(directions @ target))
        chosen.setdefault(best)
        target += mean - directions[best]
    # After so many draws the rest hardly differs: it follows in the order of the data set.
    rest = (position for position in range(len(features)) if position not in chosen)
    return np.array([*chosen, *rest][:quota], dtype=np.int64)
