"""Herding against the numbers of the authors' code and against its definition."""

from pathlib import Path

import numpy as np
import pytest

from training.data.herding import herd


HERDING = np.load(Path(__file__).parents[2] / "fixtures" / "herding_a.npz")


def test_exemplars_and_their_order_match_the_authors() -> None:
    features, labels, quota = HERDING["features"], HERDING["labels"], int(HERDING["per_class"])
    chosen = []
    for label in np.unique(labels):
        candidates = np.flatnonzero(labels == label)
        chosen.append(candidates[herd(features[candidates], quota)])
    assert np.array_equal(np.concatenate(chosen), HERDING["icarl_all/indices"])


@pytest.mark.parametrize("quota", [0, 1, 7, 30, 31])
@pytest.mark.parametrize("features", [np.random.default_rng(2).normal(size=(30, 4)), np.ones((30, 3))])
def test_each_image_is_chosen_at_most_once_until_the_quota_is_filled(features: np.ndarray, quota: int) -> None:
    chosen = herd(features, quota)
    assert len(set(chosen.tolist())) == len(chosen) == min(quota, 30)
    assert np.array_equal(chosen, herd(features, 31)[:quota])


def test_a_smaller_quota_is_the_head_of_a_larger_and_closer_to_the_mean_than_random_subsets() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(80, 6)) + random.normal(size=6)
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)

    def error(chosen: np.ndarray) -> float:
        return float(np.linalg.norm(directions[chosen].mean(axis=0) - directions.mean(axis=0)))

    whole = herd(features, 20)
    for quota in range(1, 20):
        assert herd(features, quota).tolist() == whole[:quota].tolist()
        others = [error(random.choice(80, quota, replace=False)) for _ in range(100)]
        assert error(whole[:quota]) < np.mean(others), quota
