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


def test_the_first_exemplar_is_the_closest_to_the_mean_direction() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6))
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = [float(np.dot(direction, directions.mean(axis=0))) for direction in directions]
    assert herd(features, 5)[0] == np.argmax(cosines)


def test_herded_means_are_closer_than_random_ones() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(200, 16)) + 1
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)

    def distance(chosen: np.ndarray) -> float:
        return float(np.linalg.norm(directions[chosen].mean(axis=0) - directions.mean(axis=0)))

    by_chance = [distance(generator.choice(200, 10, replace=False)) for _ in range(100)]
    assert distance(herd(features, 10)) < min(by_chance)


@pytest.mark.parametrize("quota", [0, 1, 7, 30, 31])
def test_each_image_is_chosen_at_most_once(quota: int) -> None:
    features = np.random.default_rng(2).normal(size=(30, 4))
    chosen = herd(features, quota)
    assert len(chosen) == min(quota, 30)
    assert len(set(chosen.tolist())) == len(chosen)
    assert np.array_equal(chosen, herd(features, 31)[:quota])


def test_identical_images_still_fill_the_quota() -> None:
    assert sorted(herd(np.ones((5, 3)), 4).tolist()) == [0, 1, 2, 3]
