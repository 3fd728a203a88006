"""The losses of PODNet against loops, the pooled maps, and the cluster centres that its proxies start at."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hub.run.errors import InputError
from tests.modeling_dytox.families import FAMILIES, first_step, images_for
from tests.training.methods.oracle import LABELS, LOGITS, TARGETS, mean, unit
from training.methods.podnet import check_maps
from training.methods.pooled_outputs import (
    as_grids,
    cluster_centres,
    margin_loss,
    pooled,
    pooled_distance,
    public_loss,
)
from training.methods.prototypes import class_means


# Two grids of 2x2 patches, with six features each, of four images.
MAP, TEACHER_MAP = (
    np.array(
        [
            [[wave(0.3 * (1 + 24 * image + 6 * patch + feature)) for feature in range(6)] for patch in range(4)]
            for image in range(4)
        ]
    )
    for wave in (math.sin, math.cos)
)
SQUARE = SimpleNamespace(encoder_config=None, num_prefix_tokens=0, image_height_width=(8, 8))


def expected_loss(
    similarities: Sequence[Sequence[float]], labels: Sequence[int], scale: float, margin: float
) -> float:
    losses = []
    for row, label in zip(similarities, labels, strict=True):
        others = sum(math.exp(scale * value) for other, value in enumerate(row) if other != label)
        losses.append(max(0.0, -(scale * (row[label] - margin) - math.log(others))))
    return mean(losses)


def expected_public_loss(similarities: Sequence[Sequence[float]], labels: Sequence[int], scale: float) -> float:
    """Shifted by the largest similarity, the own class counts as exp(0) among the others."""
    losses = []
    for row, label in zip(similarities, labels, strict=True):
        shifted = [scale * (value - max(row)) for value in row]
        others = sum(1.0 if other == label else math.exp(value) for other, value in enumerate(shifted))
        losses.append(max(0.0, -(shifted[label] - math.log(others))))
    return mean(losses)


def pooled_vectors(tokens: np.ndarray, rows: int, squared: bool = True) -> np.ndarray:
    """Sums over each row and over each column of every feature, as one vector of length 1 an image; by loops."""
    num_images, num_patches, num_features = tokens.shape
    columns = num_patches // rows
    vectors = []
    for image in range(num_images):
        values = tokens[image] ** 2 if squared else tokens[image]
        sums = []
        for feature in range(num_features):
            sums += [sum(values[row * columns + column, feature] for column in range(columns)) for row in range(rows)]
        for feature in range(num_features):
            sums += [sum(values[row * columns + column, feature] for row in range(rows)) for column in range(columns)]
        vectors.append(sums)
    return unit(np.array(vectors))


def expected_distance(tokens: np.ndarray, teacher_tokens: np.ndarray, rows: int, squared: bool = True) -> float:
    vectors = [pooled_vectors(values, rows, squared) for values in (tokens, teacher_tokens)]
    return float(np.sqrt(((vectors[0] - vectors[1]) ** 2).sum(axis=1)).mean())


def distance(tokens: np.ndarray, teacher_tokens: np.ndarray, config: Any = SQUARE) -> float:
    """Of the output of one block, behind its input."""
    maps, teacher_maps = ([torch.zeros(1), torch.from_numpy(values)] for values in (tokens, teacher_tokens))
    return pooled_distance(maps, teacher_maps, config).item()


def test_the_margin_keeps_the_own_class_away_from_the_others() -> None:
    assert expected_loss(LOGITS, LABELS, 1, 0.6) == pytest.approx(1.056776688, abs=1e-9)
    for scale in (1.0, 5.0):
        logits = scale * torch.tensor(LOGITS)
        for margin in (0.0, 0.6):
            found = margin_loss(logits, TARGETS, torch.tensor(scale), margin).item()
            assert found == pytest.approx(expected_loss(LOGITS, LABELS, scale, margin), rel=1e-5)
    losses = [margin_loss(torch.tensor(LOGITS), TARGETS, torch.tensor(1.0), margin).item() for margin in (0, 0.6)]
    assert losses[1] - losses[0] > 0.3


def test_in_the_loss_of_the_public_code_the_margin_cancels_out() -> None:
    assert expected_public_loss(LOGITS, LABELS, 1) == pytest.approx(0.958703574, abs=1e-9)
    for scale in (1.0, 5.0):
        expected = expected_public_loss(LOGITS, LABELS, scale)
        for margin in (0.0, 0.6):
            found = public_loss(scale * torch.tensor(LOGITS), TARGETS, torch.tensor(scale), margin).item()
            assert found == pytest.approx(expected, rel=1e-5)
            # As that code has it: the margin taken from all similarities.
            moved = [[value - margin for value in row] for row in LOGITS]
            assert expected_public_loss(moved, LABELS, scale) == pytest.approx(expected, rel=1e-12)


def test_the_distance_of_pooled_maps_is_that_of_squares() -> None:
    assert expected_distance(MAP, TEACHER_MAP, 2) == pytest.approx(0.831857066, abs=1e-9)
    assert expected_distance(MAP, TEACHER_MAP, 2, squared=False) == pytest.approx(1.435911333, abs=1e-9)
    assert distance(MAP, TEACHER_MAP) == pytest.approx(0.831857066, abs=1e-6)
    assert distance(MAP, MAP) == 0
    sizes = np.array([0.1, 2, 30, 7])[:, None, None]
    assert distance(sizes * MAP, TEACHER_MAP) == pytest.approx(0.831857066, abs=1e-6)
    assert distance(MAP, -TEACHER_MAP) == pytest.approx(0.831857066, abs=1e-6)


def test_maps_of_any_form_are_pooled_over_height_and_over_width() -> None:
    drawn = np.random.default_rng(0)
    tokens, teacher = drawn.normal(size=(2, 3, 6, 5))
    for height, width in ((8, 12), (12, 8)):
        rows = height // 4
        config = SimpleNamespace(encoder_config=None, num_prefix_tokens=0, image_height_width=(height, width))
        expected = expected_distance(tokens, teacher, rows)
        assert distance(tokens, teacher, config) == pytest.approx(expected, rel=1e-5)
        grids = [values.transpose(0, 2, 1).reshape(3, 5, rows, 6 // rows) for values in (tokens, teacher)]
        assert distance(grids[0], grids[1], config) == pytest.approx(expected, rel=1e-5)
        with_prefix = [np.concatenate([drawn.normal(size=(3, 2, 5)), values], axis=1) for values in (tokens, teacher)]
        config.num_prefix_tokens = 2
        assert distance(with_prefix[0], with_prefix[1], config) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_of_encoders_of_transformers_are_maps(family: str) -> None:
    model, _ = first_step(family, "growing_head", head="proxy", freeze_encoder=False)
    check_maps(model)
    with torch.no_grad():
        outputs = model(images_for(family), output_hidden_states=True)
    grids = as_grids(outputs.hidden_states, model.config)
    assert len(grids) > 1 and all(grid.ndim == 4 and grid.shape[2] == grid.shape[3] for grid in grids)
    assert grids[-1][0, 0].numel() <= grids[0][0, 0].numel(), "maps get smaller, if anything"


def test_an_encoder_without_maps_is_refused_before_anything_is_learned() -> None:
    model, _ = first_step("vit", "growing_head", head="proxy", freeze_encoder=False)
    model.config.num_prefix_tokens = 2
    expected = (
        "--podnet_spatial distils the maps of blocks, but the encoder gives 17 tokens, which are no map of 32 x 32"
    )
    with pytest.raises(InputError, match=expected):
        check_maps(model)


def test_a_transposed_grid_swaps_the_halves_and_keeps_the_distance() -> None:
    grids = [torch.from_numpy(values).transpose(1, 2).unflatten(2, (2, 2)) for values in (MAP, TEACHER_MAP)]
    vectors = pooled(grids[0])
    swapped = torch.cat([vectors[:, 12:], vectors[:, :12]], dim=1)
    assert not torch.allclose(vectors, swapped)
    torch.testing.assert_close(pooled(grids[0].transpose(2, 3)), swapped)
    turned = [grid.transpose(2, 3).numpy() for grid in grids]
    assert distance(turned[0], turned[1]) == pytest.approx(distance(MAP, TEACHER_MAP), rel=1e-6)


def test_proxies_start_at_the_centres_of_clusters() -> None:
    drawn = torch.Generator().manual_seed(0)
    # Class by class three clusters, as long as they like, and little around them.
    centres = torch.nn.functional.normalize(torch.randn(2, 3, 16, generator=drawn), dim=2)
    labels = torch.arange(2).repeat(30)
    places = torch.arange(60) // 2 % 3
    lengths = 1 + 9 * torch.rand(60, 1, generator=drawn)
    embeddings = lengths * (centres[labels, places] + 0.01 * torch.randn(60, 16, generator=drawn))
    found = cluster_centres(embeddings, labels, 3, seed=0)
    assert found.norm(dim=1).tolist() == pytest.approx([1.0] * 6)
    for label in range(2):
        cosines = found[3 * label : 3 * label + 3].float() @ centres[label].T
        assert sorted(cosines.argmax(dim=1).tolist()) == [0, 1, 2] and cosines.max(dim=1).values.min() > 0.99
    assert torch.equal(cluster_centres(embeddings, labels, 3, seed=0), found)
    one = cluster_centres(embeddings, labels, 1, seed=0)
    torch.testing.assert_close(one.float(), class_means(embeddings, labels.tolist()))


def test_a_class_with_fewer_images_than_proxies_repeats_its_centres() -> None:
    embeddings = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 2 + [1] * 7)
    found = cluster_centres(embeddings, labels, 5, seed=0)
    assert found.shape == (10, 16) and found.isfinite().all()
    images = torch.nn.functional.normalize(embeddings[:2].double())
    nearest = (found[:5] @ images.T).argmax(dim=1)
    torch.testing.assert_close(found[:5], images[nearest])
    assert sorted(nearest.tolist()) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert len(torch.unique(found[5:], dim=0)) == 5
    # The draws of the clustering follow from the seed alone.
    torch.manual_seed(1)
    assert torch.equal(cluster_centres(embeddings, labels, 5, seed=0), found)
