"""
Ridge regression on a frozen encoder, on random features of its own features, as in the first part of RanPAC
(McDonnell et al., NeurIPS 2023, https://arxiv.org/abs/2307.02251).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hub.run.errors import InputError
from hub.run.results import MethodCard
from training.arguments import NonNegativeInt, PositiveFloat, option
from training.methods.closed_form import CARD_NOTE, ClosedForm, LeftOut


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_dytox import IncrementalModel


CITATION = r"""
@inproceedings{mcdonnell2023ranpac,
  title     = {{RanPAC}: Random Projections and Pre-trained Models for Continual Learning},
  author    = {McDonnell, Mark D. and Gong, Dong and Parvaneh, Amin and Abbasnejad, Ehsan and van den Hengel, Anton},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2023},
  eprint    = {2307.02251},
  archivePrefix = {arXiv}
}
""".strip()

#: Candidates for the regularisation: so many to a power of ten, between these multiples of the largest eigenvalue.
CANDIDATES_PER_DECADE = 4
CANDIDATE_RANGE = (1e-10, 10.0)
#: Columns of a symmetric matrix for each thread that computes its eigenvectors.
WIDTH_OF_A_THREAD = 2048

_SENTENCE = (
    "Learned by ridge regression from {inputs} of a frozen pretrained encoder to the classes, {source}. The sums over "
    "all images seen give the weights of all classes anew after each step, so that the logits of old classes move. "
    f"{CARD_NOTE}"
)


@dataclass
class RidgeOptions:
    """Options of ridge regression."""

    projection_dim: NonNegativeInt = option(
        "Random features that are made of those of the encoder: relu(features @ projection), where the projection is "
        "drawn once. 0 for none: the weights then read the encoder's features and a constant.",
        2048,
    )
    ridge_lambda: PositiveFloat | None = option(
        "Regularisation, added to the diagonal of the sums of products. By default chosen after each step by "
        "generalised cross-validation over all images seen."
    )


class Ridge(ClosedForm):
    """Least squares with regularisation, from (random) features to one-hot targets."""

    name = "ridge"
    summary = "frozen encoder: ridge regression on random features, no epochs"
    Options = RidgeOptions
    head = "ridge"
    keeps_old_logits = False
    card = MethodCard(
        title="Ridge regression on random features",
        sentence=_SENTENCE.format(
            inputs="random features",
            source="without the adaptation of the encoder of [RanPAC](https://arxiv.org/abs/2307.02251)",
        ),
        citation=CITATION,
        tags=("ridge", "arxiv:2307.02251"),
    )
    options: RidgeOptions

    def describe(self) -> MethodCard:
        """What cards say; without a projection nothing is random."""
        if self.options.projection_dim:
            return self.card
        sentence = _SENTENCE.format(
            inputs="the features", source="as [RanPAC](https://arxiv.org/abs/2307.02251) does without its projection"
        )
        return replace(self.card, title="Ridge regression", sentence=sentence)

    def model_fields(self) -> dict[str, Any]:
        """The kind of head, and what it reads."""
        return super().model_fields() | {"projection_dim": self.options.projection_dim}

    def inputs(self, head: Any, pooled: Tensor) -> Tensor:
        """The features; a column of ones beside them where the head has a bias."""
        inputs = super().inputs(head, pooled)
        return inputs if head.bias is None else _with_ones(inputs)

    def empty_sums(self, model: IncrementalModel) -> dict[str, Tensor]:
        """`counts` of images `(C,)`, `gram` `(F, F)` and `products` with one-hot targets `(F, C)`."""
        import torch

        head: Any = model.head
        num_classes, width = head.weight.shape
        width += head.bias is not None
        shapes = {"counts": (num_classes,), "gram": (width, width), "products": (width, num_classes)}
        return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}

    def add(self, inputs: Tensor, labels: Tensor) -> None:
        """Adds the products of inputs with inputs and with one-hot targets."""
        import torch

        self._sums["counts"].index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))
        rows = inputs.numpy()
        # NumPy sees that the product is symmetric and computes half of it.
        self._sums["gram"] += torch.from_numpy(rows.T @ rows)
        # Row by row of the inputs, which is several times as fast as column by column.
        self._sums["products"].T.index_add_(0, labels, inputs)

    def solve(self, model: IncrementalModel) -> LeftOut:
        """
        Weights `(gram + lambda I)^-1 products`. Without an image of leverage `h`, its logits would be
        `(logits - h target) / (1 - h)`.
        """
        import torch

        gram, products = self._sums["gram"], self._sums["products"]
        strength = self.options.ridge_lambda
        if strength is None:
            strength = choose_lambda(gram, products, float(self._sums["counts"].sum()))
        regularized = gram.clone()
        regularized.diagonal().add_(strength)
        factor, failed = torch.linalg.cholesky_ex(regularized)
        if failed:
            raise InputError(
                f"--ridge_lambda {strength} is too small for features of this size, whose largest sum of squares is "
                f"{float(gram.diagonal().max()):.3g}: give a larger one, or leave it out."
            )
        weights = torch.cholesky_solve(products, factor)
        _set_weights(model.head, weights)
        model.config.regularization = strength

        def left_out(inputs: Tensor, labels: Tensor) -> Tensor:
            leverage = torch.linalg.solve_triangular(factor, inputs.T, upper=False).square().sum(dim=0)[:, None]
            targets = torch.nn.functional.one_hot(labels, weights.shape[1])
            # A leverage is below 1, rounding aside.
            return (inputs @ weights - leverage * targets) / (1 - leverage).clamp(min=1e-9)

        return left_out


def _with_ones(inputs: Tensor) -> Tensor:
    import torch

    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)


def _set_weights(head: Any, weights: Tensor) -> None:
    """Gives a head weights `(F, C)`, the last row being the bias where it has one."""
    width = head.weight.shape[1]
    head.weight.data.copy_(weights[:width].T)
    if head.bias is not None:
        head.bias.data.copy_(weights[width])


@contextmanager
def _threads_for(width: int) -> Iterator[None]:
    """
    Lets no more threads compute than the eigenvectors of a matrix of this width are worth. At each of its rows threads
    wait for one another: where other programs use the processors, two take several times as long as one.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(before, max(1, width // WIDTH_OF_A_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_lambda(gram: Tensor, products: Tensor, num_images: float) -> float:
    """
    The regularisation with the smallest score of generalised cross-validation (Golub, Heath and Wahba, Technometrics
    1979): the sum of squared residuals over the squared degrees of freedom that are left,
    `|Y - A Y|^2 / trace(I - A)^2` with `A = H (H'H + lambda I)^-1 H'`.

    Args:
        gram (`Tensor` of shape `(F, F)`, float64): `H'H` over all images.
        products (`Tensor` of shape `(F, C)`, float64): `H'Y` with one-hot targets `Y`.
        num_images (`float`): how many images.

    Returns:
        `float`: a power of ten with a quarter as exponent, so that it does not depend on rounding.
    """
    import torch

    with _threads_for(len(gram)):
        values, vectors = torch.linalg.eigh(gram)
    largest = float(values[-1])
    kept = values > largest * len(values) * torch.finfo(values.dtype).eps
    if not kept.any():
        return 1.0
    values = values[kept]
    # Of the squares of the targets, whose sum is the number of images, the part along each direction of the inputs.
    parts = (vectors[:, kept].T @ products).square().sum(dim=1) / values
    num_free = max(num_images - len(values), 0.0)
    outside = max(num_images - float(parts.sum()), 0.0) if num_free else 0.0

    def score(strength: float) -> float:
        # As sums of positive terms, which lose no digits where inputs are as many as images.
        shrunk = strength / (values + strength)
        return float((parts * shrunk.square()).sum() + outside) / float(shrunk.sum() + num_free) ** 2

    low, high = (CANDIDATES_PER_DECADE * math.log10(factor * largest) for factor in CANDIDATE_RANGE)
    candidates = [10 ** (power / CANDIDATES_PER_DECADE) for power in range(math.ceil(low), math.floor(high) + 1)]
    return min(candidates, key=score)
