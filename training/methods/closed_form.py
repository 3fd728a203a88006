"""
What the methods share whose weights follow from sums over images: they need no epochs, and however the images are cut
into steps, the sums, and with them the weights, are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from training.methods.base import Method, Phase


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_dytox import IncrementalModel
    from training.arguments import Arguments
    from training.data.examples import Examples
    from training.data.scenario import Step
    from training.loop.context import StepContext
    from training.run.encoder import Encoder

#: Gives the logits `(n, C)` of images that were learned, from what the head reads of them `(n, F)` and their labels
#: `(n,)`, each as if this image alone had not been learned.
LeftOut: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"

#: Images that are embedded together: memory does not grow with the number of images.
CHUNK_IMAGES = 4096
#: The most images of a step that the scale is fitted to, at even distances.
SCALE_IMAGES = 2048
#: Between which numbers the scale is sought.
SCALE_RANGE = (0.1, 1000.0)

#: What cards say of the scores and of the published sums.
CARD_NOTE = (
    "There are no epochs and no rehearsal memory, and the weights do not depend on how the classes are cut into "
    "steps. Scores are a softmax whose temperature is fitted to images of the last step: they compare the known "
    "classes, and are no probability that an image shows none of them. `statistics.safetensors` holds sums over "
    "images with which anyone can teach the model more classes without an old image; of a class of few images such "
    "sums are not anonymous."
)


class ClosedForm(Method):
    """
    Sums over the features that a frozen encoder gives of each image once, in float64; the weights follow from them.
    """

    architecture = "feature_head"
    uses_memory = False
    keeps_statistics = True
    needs_frozen_encoder = True
    #: `head` of the config of its models.
    head: ClassVar[str]

    def __init__(self, options: Any, arguments: Arguments, encoder: Encoder | None = None) -> None:
        super().__init__(options, arguments, encoder)
        self._sums: dict[str, Tensor] = {}

    def model_fields(self) -> dict[str, Any]:
        """The kind of head."""
        return {"head": self.head}

    def phases(self, step: Step) -> Sequence[Phase]:
        """None: nothing is trained."""
        return ()

    def statistics(self) -> dict[str, Tensor]:
        """The sums over all images seen."""
        return self._sums

    def bytes_of_statistics(self, model: IncrementalModel) -> int:
        """How large the sums are for the classes of a model."""
        import torch

        with torch.device("meta"):
            return sum(tensor.nbytes for tensor in self.empty_sums(model).values())

    def load_statistics(self, tensors: Mapping[str, Tensor], model: IncrementalModel) -> None:
        """Takes up the sums, if they are of this method and of this model."""
        if model.config.head != self.head:
            raise ValueError(f"the head of the model is {model.config.head!r}, not {self.head!r}")
        expected = self.empty_sums(model)
        if tensors.keys() != expected.keys():
            raise ValueError(f"it holds {', '.join(sorted(tensors))}, expected {', '.join(sorted(expected))}")
        for name, tensor in tensors.items():
            shape = tuple(expected[name].shape)
            if tuple(tensor.shape) != shape or tensor.dtype != expected[name].dtype:
                found = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                raise ValueError(f"{name} is {found}, expected {expected[name].dtype} of shape {shape}")
            if not tensor.isfinite().all():
                raise ValueError(f"{name} has values that are not finite")
        self._sums = dict(tensors)

    def after_step(self, context: StepContext) -> None:
        """Adds the step's images to the sums, solves for the weights, and fits the scale."""
        import torch

        head: Any = context.model.head
        examples = context.examples("new")
        self._sums = _grown(self._sums, self.empty_sums(context.model))
        sampled = torch.tensor([place * len(examples) // SCALE_IMAGES for place in range(SCALE_IMAGES)]).unique()
        # Before the images, as what stayed from a chunk would lie between the memory of this one and of the next.
        sample = torch.empty(len(sampled), self._width(context.model), dtype=torch.float64)
        for start in range(0, len(examples), CHUNK_IMAGES):
            stop = min(start + CHUNK_IMAGES, len(examples))
            inputs = self._add(context, examples.select(range(start, stop)))
            inside = (sampled >= start) & (sampled < stop)
            sample[inside] = inputs[sampled[inside] - start]
            # Or the next chunk would need memory beside it.
            del inputs
        labels = torch.from_numpy(examples.labels)[sampled]
        logits = self.solve(context.model)(sample, labels)
        head.scale.data.fill_(fit_scale(logits, labels))

    def _width(self, model: Any) -> int:
        """Numbers that the weights read of an image."""
        import torch

        return self.inputs(model.head, torch.empty(0, model.config.encoder_pooled_size, dtype=torch.float64)).shape[1]

    def _add(self, context: StepContext, examples: Examples) -> Tensor:
        """Adds images to the sums; returns their inputs."""
        import torch

        head: Any = context.model.head
        pooled = torch.from_numpy(context.evaluator.features(context.model, examples, _pooled))
        inputs = self.inputs(head, pooled.double())
        self.add(inputs, torch.from_numpy(examples.labels))
        return inputs

    def inputs(self, head: Any, pooled: Tensor) -> Tensor:
        """What the weights are multiplied with, `(n, F)`, from pooled features `(n, P)`, both float64."""
        inputs: Tensor = head.transform(pooled)
        return inputs

    def empty_sums(self, model: IncrementalModel) -> dict[str, Tensor]:
        """The sums over no image for the classes of a model, all float64, by name."""
        raise NotImplementedError

    def add(self, inputs: Tensor, labels: Tensor) -> None:
        """
        Adds images to the sums.

        Args:
            inputs (`Tensor` of shape `(n, F)`, float64): of [`inputs`].
            labels (`Tensor` of shape `(n,)`): their label ids.
        """
        raise NotImplementedError

    def solve(self, model: IncrementalModel) -> LeftOut:
        """Sets the weights of the head; returns what gives logits of images that are left out, see [`LeftOut`]."""
        raise NotImplementedError


def _pooled(model: Any, pixel_values: Tensor) -> Tensor:
    """Pooled features alone: logits of weights that are not solved for yet would take as long as all else."""
    pooled: Tensor = model.pooled(pixel_values)
    return pooled


def _grown(sums: Mapping[str, Tensor], empty: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sums with zeros for new classes."""
    for name, old in sums.items():
        empty[name][tuple(map(slice, old.shape))] = old
    return empty


def fit_scale(logits: Tensor, labels: Tensor) -> float:
    """
    The scale within `SCALE_RANGE` that makes `softmax(scale * logits)` most likely.

    The mean log-likelihood is concave in the scale, so that its slope, the mean of the label's logit less the expected
    one, has at most one zero, which is found by bisection.

    Args:
        logits (`Tensor` of shape `(n, C)`, float64): of images.
        labels (`Tensor` of shape `(n,)`): their label ids.

    Returns:
        `float`: the scale; 1 for a single class, whose score is 1 with any.
    """
    if logits.shape[1] == 1:
        return 1.0
    own = logits.gather(1, labels[:, None]).mean()
    low, high = SCALE_RANGE
    # Below the rounding of float32.
    for _ in range(30):
        # Geometric: the range spans powers of ten.
        middle: float = (low * high) ** 0.5
        expected = ((middle * logits).softmax(dim=1) * logits).sum(dim=1).mean()
        low, high = (middle, high) if own > expected else (low, middle)
    return low
