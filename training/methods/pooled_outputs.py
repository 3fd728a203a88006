"""The losses and the start of the proxies of PODNet (Douillard et al., ECCV 2020)."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn.functional import normalize

from training.seeding import derive_seed


def margin_loss(logits: Tensor, targets: Tensor, scale: Tensor, margin: float) -> Tensor:
    """
    The mean of `max(0, -(scale * (s_y - margin) - log sum_{c != y} exp(scale * s_c)))` (paper, equation 5).

    Args:
        logits (`Tensor` of shape `(B, C)`): `scale * s`, of at least two classes.
        targets (`Tensor` of shape `(B, C)`): one-hot.
        scale (`Tensor` of shape `()`): of the head.
        margin (`float`): of similarities.

    Returns:
        `Tensor` of shape `()`: the loss.
    """
    logits, is_own = logits.float(), targets > 0.5
    own = (logits * targets).sum(dim=1)
    others = logits.masked_fill(is_own, -torch.inf).logsumexp(dim=1)
    return (others - own + scale * margin).clamp(min=0).mean()


def public_loss(logits: Tensor, targets: Tensor, scale: Tensor, margin: float) -> Tensor:
    """
    The loss of the authors' code. The margin is taken from all similarities, so that it cancels out, and beside the
    other classes the denominator has a constant 1, once all are shifted by the largest. Arguments as for
    [`margin_loss`].
    """
    shifted = logits.float()
    shifted = shifted - shifted.max(dim=1, keepdim=True).values
    own = (shifted * targets).sum(dim=1)
    others = shifted.masked_fill(targets > 0.5, 0.0).logsumexp(dim=1)
    return (others - own).clamp(min=0).mean()


def pooled_distance(maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], config: Any) -> Tensor:
    """
    Mean over blocks of the distance between maps of the student and of the teacher, both pooled (POD-spatial, paper,
    equation 4).

    Args:
        maps, teacher_maps (`Sequence[Tensor]`): the hidden states of the encoder: `(B, D, h, w)`, or tokens
            `(B, prefix + h * w, D)`.
        config: has `num_prefix_tokens`, `image_height_width` and `encoder_config`.

    Returns:
        `Tensor` of shape `()`: the distance.

    Raises:
        `ValueError`: a hidden state is no map.
    """
    pairs = zip(as_grids(maps, config), as_grids(teacher_maps, config), strict=True)
    distances = [(pooled(grid) - pooled(teacher_grid)).norm(dim=1).mean() for grid, teacher_grid in pairs]
    return torch.stack(distances).mean()


def as_grids(hidden_states: Sequence[Tensor] | None, config: Any) -> list[Tensor]:
    """
    The maps of blocks `(B, D, h, w)`. The first hidden state of the model's own encoder is what its first block reads;
    what others give first is in part the output of a stage, and counts.
    """
    maps = list(hidden_states or ())[config.encoder_config is None :]
    if not maps:
        raise ValueError("has no hidden states")
    return [_as_grid(map_, config) for map_ in maps]


def pooled(grid: Tensor) -> Tensor:
    """
    A map `(B, D, h, w)` squared, summed over its width and over its height, and put to length 1:
    `(B, D * h + D * w)`. Squares, because the values of a residual stream are signed.
    """
    squares = grid.float().square()
    return normalize(torch.cat([squares.sum(dim=3).flatten(1), squares.sum(dim=2).flatten(1)], dim=1))


def _as_grid(hidden_state: Tensor, config: Any) -> Tensor:
    """A map as it is; tokens `(B, prefix + h * w, D)`, without prefix tokens, as a map `(B, D, h, w)`."""
    if hidden_state.ndim == 4:
        return hidden_state
    height, width = config.image_height_width
    # Only the last map of some encoders has prefix tokens.
    for prefix in (config.num_prefix_tokens, 0):
        patches = hidden_state[:, prefix:]
        rows = round((patches.shape[1] * height / width) ** 0.5)
        if rows and patches.shape[1] == rows * round(rows * width / height):
            # Before pooling: another order of axes would pool over channels.
            return patches.transpose(1, 2).unflatten(2, (rows, -1))
    raise ValueError(f"gives {hidden_state.shape[1]} tokens, which are no map of {height} x {width} pixels")


def cluster_centres(embeddings: Tensor, labels: Tensor, num_centres: int, seed: int) -> Tensor:
    """
    Centres of the clusters of the normalised embeddings of each class, put to length 1.

    Args:
        embeddings (`Tensor` of shape `(n, D)`): of images.
        labels (`Tensor` of shape `(n,)`): from 0 on; every class has images.
        num_centres (`int`): K of each class; where a class has fewer images, its centres are repeated.
        seed (`int`): of the run.

    Returns:
        `Tensor` of shape `(C * K, D)`: class by class.
    """
    from sklearn.cluster import KMeans

    centres = []
    for label in range(int(labels.max()) + 1):
        units = normalize(embeddings[labels == label].double())
        kmeans = KMeans(min(num_centres, len(units)), n_init=1, random_state=derive_seed(seed, "proxies", label))
        found = normalize(torch.from_numpy(kmeans.fit(units.numpy()).cluster_centers_))
        centres.append(found[torch.arange(num_centres) % len(found)])
    # The main process decides: rounding may differ between machines.
    (decided,) = broadcast_object_list([torch.cat(centres)])
    rows: Tensor = decided
    return rows
