"""Nearest class mean (Mensink et al., TPAMI 2013, https://doi.org/10.1109/TPAMI.2013.83) on a frozen encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub.run.results import MethodCard
from training.methods.closed_form import CARD_NOTE, ClosedForm, LeftOut


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_dytox import IncrementalModel


CITATION = r"""
@article{mensink2013distance,
  title   = {Distance-Based Image Classification: Generalizing to New Classes at Near-Zero Cost},
  author  = {Mensink, Thomas and Verbeek, Jakob and Perronnin, Florent and Csurka, Gabriela},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume  = {35},
  number  = {11},
  pages   = {2624--2637},
  year    = {2013}
}
""".strip()


class NearestClassMean(ClosedForm):
    """
    Predicts the class whose mean of normalised features has the greatest cosine with those of the image. A new step
    changes nothing in the logits of old classes but the scale that all share.
    """

    name = "ncm"
    summary = "frozen encoder: nearest class mean, no epochs"
    head = "ncm"
    card = MethodCard(
        title="Nearest class mean",
        sentence="Learned as [nearest class mean](https://doi.org/10.1109/TPAMI.2013.83) on a frozen pretrained "
        "encoder: each class is the mean of the normalised features of its training images, and the class whose mean "
        f"has the greatest cosine with those of an image is predicted. {CARD_NOTE}",
        citation=CITATION,
        tags=("ncm", "nearest-class-mean"),
    )

    def empty_sums(self, model: IncrementalModel) -> dict[str, Tensor]:
        """`counts` of images `(C,)` and `sums` of normalised features `(C, P)`."""
        import torch

        head: Any = model.head
        shapes = {"counts": head.weight.shape[:1], "sums": head.weight.shape}
        return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}

    def add(self, inputs: Tensor, labels: Tensor) -> None:
        """Counts images and sums their normalised features, class by class."""
        import torch

        self._sums["counts"].index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))
        self._sums["sums"].index_add_(0, labels, inputs)

    def solve(self, model: IncrementalModel) -> LeftOut:
        """The weights of a class are the direction of its mean; its cosine without an image has a closed form, too."""
        from torch.nn.functional import normalize

        sums = self._sums["sums"]
        head: Any = model.head
        means = normalize(sums, dim=1)
        head.weight.data.copy_(means)

        def left_out(inputs: Tensor, labels: Tensor) -> Tensor:
            logits = inputs @ means.T
            own = (inputs * normalize(sums[labels] - inputs, dim=1)).sum(dim=1, keepdim=True)
            return logits.scatter(1, labels[:, None], own)

        return left_out
