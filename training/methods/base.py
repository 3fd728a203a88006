"""The seam for class-incremental methods: what the loop asks of a method, with defaults that make `replay`."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor, nn

from hub.run.results import MethodCard
from modeling_dytox import DyToxForImageClassification
from training.arguments import MethodArguments, OptimizationArguments
from training.data.scenario import Step
from training.methods.losses import classification_loss


PhaseData: TypeAlias = Literal["new", "memory", "new+memory", "all"]


@dataclass(frozen=True)
class Phase:
    """
    One stretch of training within a step.

    Args:
        name (`str`): names the phase in logs, random draws and saved states; no two phases of a step share it.
        data (`PhaseData`): what to learn from: images of the `new` classes, the `memory`, both, or `all` images seen.
        epochs (`int`): passes over these images.
        learning_rate (`float`): peak, for `--learning_rate_batch_size` images an update.
        schedule (`str`, *optional*, defaults to `"cosine"`): `cosine` with warm-up, or `constant`.
        frozen (`tuple[str, ...]`, *optional*): patterns (`fnmatch`) of the names of parameters that do not train;
            modules without a trainable parameter are in eval mode.
        after_memory_update (`bool`, *optional*, defaults to `False`): whether the memory holds exemplars of the new
            classes when the phase begins.
        shuffle (`bool`, *optional*, defaults to `True`): whether examples are drawn at random, or follow in stored
            order.
        repeated_augmentation (`int`, *optional*, defaults to 1): augmented copies of an image in an epoch.
        mixup_alpha (`float`, *optional*, defaults to 0): parameter of the Beta distribution of MixUp; 0 for none.
        mixup_label_smoothing (`float`, *optional*, defaults to 0.1): of the targets under MixUp, in [0, 1).
        sam_rho (`float`, *optional*, defaults to 0): radius of sharpness-aware minimisation; 0 for none.
        sam_adaptive (`bool`, *optional*, defaults to `True`): whether that radius is scaled by the size of each
            weight.
    """

    name: str
    data: PhaseData
    epochs: int
    learning_rate: float
    schedule: Literal["cosine", "constant"] = "cosine"
    frozen: tuple[str, ...] = ()
    after_memory_update: bool = False
    shuffle: bool = True
    repeated_augmentation: int = 1
    mixup_alpha: float = 0.0
    mixup_label_smoothing: float = 0.1
    sam_rho: float = 0.0
    sam_adaptive: bool = True

    @property
    def full_batches_only(self) -> bool:
        """
        Whether batches are cut as the authors' code cuts them, see [`training.data.batches`]: what does not fill a
        batch is left out of the epoch. So it is in stored order and with repeated augmentation, which exist to
        reproduce that code; otherwise every image is seen in every epoch.
        """
        return not self.shuffle or self.repeated_augmentation > 1


class Method:
    """
    A class-incremental method. For each step the loop does, in this order: `before_growth` and `grow` (from step 2
    on), the phases before the memory update, the memory update with `herding_embedding`, the phases after it,
    `after_step`. When a step is resumed, `before_growth` is called again; `grow` is not, as the grown model comes
    from the saved state.

    Args:
        arguments (`MethodArguments`): the options of the methods.
        optimization (`OptimizationArguments`): epochs and learning rate of the main phase.
    """

    name: ClassVar[str]
    card: ClassVar[MethodCard]
    uses_memory: ClassVar[bool] = True

    def __init__(self, arguments: MethodArguments, optimization: OptimizationArguments) -> None:
        self.arguments = arguments
        self.optimization = optimization

    def describe(self) -> MethodCard:
        """What cards say of the method with its options."""
        return self.card

    def before_growth(self, model: DyToxForImageClassification, step: Step) -> None:
        """Called with the model of the step before, of which a method may keep a copy as teacher."""

    def grow(self, model: DyToxForImageClassification, step: Step) -> DyToxForImageClassification:
        """Makes room for the new classes; called from step 2 on."""
        model.add_task(step.class_names)
        return model

    def phases(self, step: Step) -> Sequence[Phase]:
        """The phases of a step: by default one, on the new classes and, where the method has one, the memory."""
        return [self.main_phase("new+memory" if self.uses_memory else "new")]

    def main_phase(self, data: PhaseData, **fields: Any) -> Phase:
        """
        The phase that the shared options describe.

        Args:
            data (`PhaseData`): what to learn from.
            **fields: further fields of [`Phase`].

        Returns:
            `Phase`: the main phase.
        """
        options = self.optimization
        return self.phase(
            "main",
            data,
            options.num_epochs,
            options.learning_rate,
            repeated_augmentation=options.repeated_augmentation,
            **fields,
        )

    def phase(self, name: str, data: PhaseData, epochs: int, learning_rate: float, **fields: Any) -> Phase:
        """A phase with MixUp as the options ask for; the arguments are fields of [`Phase`]."""
        mixup = {name: getattr(self.arguments, name) for name in ("mixup_alpha", "mixup_label_smoothing")}
        return Phase(name, data, epochs, learning_rate, **mixup, **fields)

    def auxiliary_modules(self, model: DyToxForImageClassification, step: Step, phase: Phase) -> dict[str, nn.Module]:
        """Modules that train beside the model in this phase and are never saved with it."""
        return {}

    def loss(self, learner: "LossModule", pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """
        The loss, whose terms are logged one by one.

        Args:
            learner (`LossModule`): the growing model, the auxiliary modules, the step and the phase.
            pixel_values (`Tensor` of shape `(B, channels, height, width)`): images.
            targets (`Tensor` of shape `(B, num_seen_classes)`): targets in 0..1.

        Returns:
            `dict[str, Tensor]`: terms by name; their sum is minimised.
        """
        return {"classification": classification_loss(learner.model(pixel_values).logits, targets)}

    def herding_embedding(self, model: DyToxForImageClassification, pixel_values: Tensor) -> Tensor:
        """`(B, d)` features to herd on: by default the task embeddings of all steps, side by side."""
        return model.dytox(pixel_values).task_embeddings.flatten(1)

    def after_step(self, model: DyToxForImageClassification, step: Step) -> None:
        """Called when the model of the step is final, before it is evaluated and saved."""


class LossModule(nn.Module):
    """
    What trains in one phase: the model and its auxiliary modules. Its forward pass is the loss of the method, so that
    an accelerator can prepare all of it at once.

    Args:
        method (`Method`): gives the auxiliary modules and the loss.
        model (`DyToxForImageClassification`): knows the classes of the step.
        step (`Step`): what is learned.
        phase (`Phase`): one of the step.
    """

    def __init__(self, method: Method, model: DyToxForImageClassification, step: Step, phase: Phase) -> None:
        super().__init__()
        self.method = method
        self.model = model
        self.step = step
        self.phase = phase
        self.auxiliary = nn.ModuleDict(method.auxiliary_modules(model, step, phase))

    def forward(self, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The terms of the loss; see [`Method.loss`]."""
        return self.method.loss(self, pixel_values, targets)


def frozen_copy(model: DyToxForImageClassification) -> DyToxForImageClassification:
    """A copy of the model in eval mode, whose parameters do not train."""
    return copy.deepcopy(model).eval().requires_grad_(False)
