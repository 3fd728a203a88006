"""
The seam for class-incremental methods: what the loop asks of a method, with defaults that make plain replay.

This file and those of the methods import torch inside functions alone: options are read, and refused, before torch is
imported, which takes seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from hub.run.results import MethodCard


if TYPE_CHECKING:
    from torch import Tensor, nn

    from modeling_dytox import IncrementalModel
    from training.arguments import Arguments
    from training.data.examples import Examples
    from training.data.scenario import Step
    from training.loop.context import StepContext
    from training.loop.learner import LossModule
    from training.run.encoder import Encoder


#: Which images: of the `new` classes, of the `memory`, of both, of both with the same number of each class
#: (`balanced`), those of both that are set aside (`held-out`), or `all` images of all classes seen.
PhaseData: TypeAlias = Literal["new", "memory", "new+memory", "balanced", "held-out", "all"]


@dataclass(frozen=True)
class Phase:
    """
    One stretch of training within a step.

    Args:
        name (`str`): names the phase in logs, random draws and saved states; no two phases of a step share it.
        data (`PhaseData`): which images to learn from.
        epochs (`int`): passes over these images.
        learning_rate (`float`): peak, for `--learning_rate_batch_size` images an update.
        schedule (`str`, *optional*, defaults to `"cosine"`): `cosine` with warm-up, or `constant`.
        frozen (`tuple[str, ...]`, *optional*): patterns (`fnmatch`) of the names of parameters that do not train;
            modules without a trainable parameter are in eval mode.
        learning_rate_factors (`tuple[tuple[str, float], ...]`, *optional*): pairs of a pattern (`fnmatch`) of names of
            parameters and the factor on their learning rate; the first pattern that matches counts.
        held_out (`float`, *optional*, defaults to 0): fraction of the exemplars of each known class, and as many
            images of each new class, that `held-out` holds and the other data lack.
        after_memory_update (`bool`, *optional*, defaults to `False`): whether the memory holds exemplars of the new
            classes when the phase begins.
        updates_per_epoch (`int`, *optional*): of full batches; by default as many as show every image once.
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
    learning_rate_factors: tuple[tuple[str, float], ...] = ()
    held_out: float = 0.0
    after_memory_update: bool = False
    updates_per_epoch: int | None = None
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


@dataclass
class NoOptions:
    """A method without options of its own."""


class Method:
    """
    A class-incremental method. For each step the loop does, in this order: `build`, or from step 2 on `before_growth`
    and `grow`; the phases before the memory update; the memory update with `embed`, then `after_memory`; the phases
    after it; `after_step`. Each phase learns from its `examples` and is followed by `after_phase`. The result of
    `statistics` is saved and published with the step, and given to `load_statistics` where a run goes on after it.

    When a step is resumed, `before_growth` is called again, then `load_state`. `build`, `grow` and the hooks of what
    was finished before the saved state are not, as their effects are part of it: the model, and what `state` returned.
    A state is saved after each epoch, so that the hooks after the last one are called again.

    Args:
        options: an instance of `Options`.
        arguments (`Arguments`): the options that all methods share.
        encoder (`Encoder`, *optional*): of new models, in place of the paper's own.
    """

    #: What `--method` takes.
    name: ClassVar[str]
    #: A line for `--help`.
    summary: ClassVar[str]
    card: ClassVar[MethodCard]
    #: The options of this method alone; options that one method alone has bear its name.
    Options: ClassVar[type] = NoOptions
    #: `model_type` of new models; a model of another type is continued only if `continues_any` says so.
    architecture: ClassVar[str]
    continues_any: ClassVar[bool] = False
    #: Fields that the config of a model must have to be continued.
    needs_fields: ClassVar[Mapping[str, Any]] = {}
    uses_memory: ClassVar[bool] = True
    #: Exemplars that each class needs, where there is a memory.
    min_exemplars: ClassVar[int] = 1
    #: Whether growth leaves the logits of old classes as they are.
    keeps_old_logits: ClassVar[bool] = True
    #: Whether later steps need what `statistics` returns.
    keeps_statistics: ClassVar[bool] = False
    #: Whether its models need a pretrained encoder that never trains.
    needs_frozen_encoder: ClassVar[bool] = False
    #: Whether the model has to be told the step of an image at test time.
    needs_task_id: ClassVar[bool] = False

    def __init__(self, options: Any, arguments: Arguments, encoder: Encoder | None = None) -> None:
        self.options = options
        self.arguments = arguments
        self.encoder = encoder

    def describe(self) -> MethodCard:
        """What cards say of the method with its options."""
        return self.card

    def build(self, step: Step) -> IncrementalModel:
        """A new model that knows the classes of the first step."""
        from training.methods.building import build_model

        return build_model(self.architecture, self.arguments.model, step, self.model_fields(), self.encoder)

    def model_fields(self) -> dict[str, Any]:
        """Fields of the config of a new model beside sizes and classes."""
        return {}

    def before_growth(self, context: StepContext) -> None:
        """Called with the model of the step before, of which a method may keep a copy as teacher."""

    def grow(self, context: StepContext) -> IncrementalModel:
        """The model with room for the new classes; called from step 2 on."""
        model = context.model
        model.add_task(context.step.class_names)
        return model

    def phases(self, step: Step) -> Sequence[Phase]:
        """The phases of a step: by default one, on the new classes and, where the method has one, the memory."""
        return [self.main_phase(step, "new+memory" if self.uses_memory else "new")]

    def main_phase(self, step: Step, data: PhaseData, **fields: Any) -> Phase:
        """
        The phase that the shared options describe.

        Args:
            step (`Step`): what is learned.
            data (`PhaseData`): what to learn from.
            **fields: further fields of [`Phase`].

        Returns:
            `Phase`: the main phase.
        """
        options = self.arguments.optimization
        counts = options.updates_per_epoch
        return self.phase(
            "main",
            data,
            options.num_epochs,
            options.learning_rate,
            updates_per_epoch=counts[min(step.number, len(counts)) - 1] if counts else None,
            repeated_augmentation=options.repeated_augmentation,
            **fields,
        )

    def phase(self, name: str, data: PhaseData, epochs: int, learning_rate: float, **fields: Any) -> Phase:
        """A phase with MixUp as the options ask for; the arguments are fields of [`Phase`]."""
        options = self.arguments.optimization
        mixup = {name: getattr(options, name) for name in ("mixup_alpha", "mixup_label_smoothing")}
        return Phase(name, data, epochs, learning_rate, **mixup | fields)

    def examples(self, context: StepContext, phase: Phase) -> Examples:
        """The images of a phase, when it begins or is resumed: by default what its `data` names."""
        return context.examples(phase.data, phase.held_out)

    def auxiliary_modules(self, model: IncrementalModel, step: Step, phase: Phase) -> dict[str, nn.Module]:
        """Modules that train beside the model in this phase and are never saved with it."""
        return {}

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """
        The loss, whose terms are logged one by one: by default that of the model's `problem_type`, binary or softmax
        cross-entropy.

        Args:
            learner (`LossModule`): the growing model, the auxiliary modules, the step and the phase.
            pixel_values (`Tensor` of shape `(B, channels, height, width)`): images.
            targets (`Tensor` of shape `(B, num_seen_classes)`): targets in 0..1.

        Returns:
            `dict[str, Tensor]`: terms by name; their sum is minimised.
        """
        from training.methods.losses import loss_of_problem_type

        outputs = learner.model(pixel_values)
        return {"classification": loss_of_problem_type(learner.model, outputs, targets)}

    def after_backward(self, learner: LossModule) -> None:
        """Called when the gradients of an update are complete; in float16 they bear the loss scale."""

    def after_update(self, learner: LossModule) -> None:
        """Called after each update of the weights."""

    def after_phase(self, context: StepContext, phase: Phase) -> None:
        """Called when a phase has ended; may change the model in place, its shape included."""

    def after_memory(self, context: StepContext) -> None:
        """
        Called when the memory holds the exemplars of the step's classes; sets the prototypes of a model that has them.
        """
        from training.methods.prototypes import set_prototypes

        set_prototypes(context)

    def after_step(self, context: StepContext) -> None:
        """Called when the model of the step is final, before it is evaluated and saved."""

    def embed(self, model: IncrementalModel, pixel_values: Tensor) -> Tensor:
        """Embeddings `(B, d)` to herd on: by default those that the model itself gives."""
        embeddings: Tensor = model(pixel_values).embeddings
        return embeddings

    def state(self) -> dict[str, Tensor]:
        """What the hooks of this step have made beside the model, by name; saved within the step."""
        return {}

    def bytes_of_state(self, model: IncrementalModel) -> int:
        """How large the result of [`state`] may be in a step that leaves this model, which may have no weights."""
        return 0

    def load_state(self, tensors: Mapping[str, Tensor], model: IncrementalModel) -> None:
        """
        Takes up the result of [`state`], when the step is resumed.

        Args:
            tensors (`Mapping[str, Tensor]`): as they were saved.
            model (`IncrementalModel`): as it was saved beside them.
        """

    def statistics(self) -> dict[str, Tensor]:
        """
        What later steps need of the images so far beside the model, by name: whoever has the step can then continue it
        without old images.
        """
        return {}

    def bytes_of_statistics(self, model: IncrementalModel) -> int:
        """How large the result of [`statistics`] is after a step that leaves this model, which may have no weights."""
        return 0

    def load_statistics(self, tensors: Mapping[str, Tensor], model: IncrementalModel) -> None:
        """
        Takes up the result of [`statistics`] after the step that is continued.

        Args:
            tensors (`Mapping[str, Tensor]`): as they were saved.
            model (`IncrementalModel`): of this step.

        Raises:
            `ValueError`: they are not those of this method and this model.
        """


def predicting_by(card: MethodCard, prediction: str) -> MethodCard:
    """The words of a method whose models predict by the nearest mean, where the options ask for it."""
    if prediction == "logits":
        return card
    return replace(card, sentence=f"{card.sentence} Predicts the class whose mean exemplar embedding is nearest.")


def frozen_copy(model: IncrementalModel) -> IncrementalModel:
    """A copy of the model in eval mode, whose parameters do not train."""
    return copy.deepcopy(model).eval().requires_grad_(False)
