"""The options that all methods share, as dataclasses; [`training.parsing`] reads them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

from hub.run.errors import InputError


class Bound(NamedTuple):
    """
    What a number must be.

    Args:
        text (`str`): completes "must be ...".
        holds (`Callable`): whether a number is so.
    """

    text: str
    holds: Callable[[float], bool]


_AT_LEAST_0 = Bound("at least 0", lambda value: value >= 0)
PositiveInt = Annotated[int, Bound("at least 1", lambda value: value >= 1)]
NonNegativeInt = Annotated[int, _AT_LEAST_0]
NonNegativeFloat = Annotated[float, _AT_LEAST_0]
PositiveFloat = Annotated[float, Bound("greater than 0", lambda value: value > 0)]
Fraction = Annotated[float, Bound("in [0, 1)", lambda value: 0 <= value < 1)]
OpenFraction = Annotated[float, Bound("in (0, 1)", lambda value: 0 < value < 1)]


#: How a model with prototypes predicts; the other readout is measured beside it.
Prediction = Literal["logits", "nearest_mean"]
PREDICTION_HELP = (
    "Predict by the 'logits' of the head, or by the 'nearest_mean' of the embeddings of a class's exemplars. The "
    "accuracy of the other is measured beside it."
)


def option(help: str, default: Any = None) -> Any:
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": help})


@dataclass
class DataArguments:
    """Which images, and how they are cut into steps."""

    dataset_name: str | None = option(
        "Data set: a Hub id, a local folder of images or Parquet files, or the built-in 'digits'. Required."
    )
    dataset_config_name: str | None = option("Configuration of a Hub data set; required if it has several.")
    train_split: str = option("Split to learn from.", "train")
    test_split: str | None = option("Split to test on. By default the one of 'test' and 'validation' that exists.")
    holdout: OpenFraction | None = option(
        "Hold out this share of the training images, in (0, 1), as test images, for a data set without a test split. "
        "An image's bytes and the seed decide, so that images added later move no other. By default none is."
    )
    image_column: str | None = option("Column of the images. Inferred when only one column holds images.")
    label_column: str | None = option("Column of the labels. Inferred when only one column can be it.")
    transparency: Literal["refuse", "drop"] = option(
        "What to do with images that have transparent pixels: 'refuse' them, or 'drop' the transparency, as every "
        "user of the model will: colours that were hidden then show.",
        "refuse",
    )
    max_train_samples_per_class: PositiveInt | None = option(
        "Use only the first N training images of each class. By default all."
    )
    max_eval_samples_per_class: PositiveInt | None = option(
        "Use only the first N test images of each class. By default all."
    )
    num_classes: PositiveInt | None = option("Use only the first N classes of the class order. By default all.")
    class_order: list[str] | None = option(
        "Order of learning: class names or label ids, a file with one a line, the name of a bundled order "
        "(cifar100_order1, cifar100_order2, cifar100_order3; imagenet100_order1, to use with num_classes 100; "
        "imagenet1000_order1), or 'seed:1993' for a random order. By default the order of the data set."
    )
    initial_classes: PositiveInt | None = option(
        "Classes of the first step. By default as many as in the other steps."
    )
    classes_per_step: list[PositiveInt] | None = option(
        "Classes of each step; the last one may have fewer. Several numbers, such as 5 3 1, are the steps in turn. By "
        "default 10, or all at once where a published model is continued."
    )
    steps: str | None = option(
        "YAML file of the steps: the classes of each under a name, or a list of lists. By default class_order, "
        "num_classes, initial_classes and classes_per_step say the same."
    )


@dataclass
class ContinuationArguments:
    """Which published model to teach more classes, instead of a new one."""

    model_name_or_path: str | None = option(
        "Published step to continue, with the classes of dataset_name: a repository 'org/name' on the Hub, or a step "
        "folder. The sizes of the model are then its own. By default a new model is learned."
    )
    model_revision: str | None = option("Revision of that repository, such as 'step5'. By default 'main'.")
    memory_name_or_path: str | None = option(
        "Rehearsal memory to continue with: a data set repository on the Hub, a Parquet file, or 'none'. By default "
        "the one that was published or saved with the model."
    )
    known_classes: Literal["refuse", "test", "merge"] = option(
        "What to do with classes of the data set that the model knows already, by name: 'refuse' them, only 'test' "
        "on their images, or 'merge' them: learn from their images, too, under the label id that they have.",
        "refuse",
    )


#: Of the paper's own encoder on CIFAR.
DEFAULT_IMAGE_SIZE = 32


@dataclass
class ModelArguments:
    """Sizes of the model; the defaults are the CIFAR model of the paper."""

    image_size: PositiveInt | None = option(
        "Height and width of the images, in pixels; other sizes are resized. By default that of the encoder, which is "
        f"{DEFAULT_IMAGE_SIZE} for the paper's own."
    )
    patch_size: PositiveInt = option("Height and width of a patch, in pixels.", 4)
    hidden_size: PositiveInt = option("Width of patch and task tokens.", 384)
    num_hidden_layers: PositiveInt = option("Number of self-attention blocks.", 5)
    num_task_attention_layers: PositiveInt = option("Number of task-attention blocks.", 1)
    num_attention_heads: PositiveInt = option("Attention heads of a block.", 12)
    intermediate_size: PositiveInt | None = option("Width of the MLPs. By default four times hidden_size.")
    drop_path_rate: Fraction = option("Stochastic depth of the last block, in [0, 1).", 0.1)
    encoder_attention: Literal["gated", "plain"] = option(
        "Attention of the encoder: 'gated' (ConViT) or 'plain'.", "gated"
    )
    attn_implementation: Literal["sdpa", "eager"] = option("Attention backend: 'sdpa' or 'eager'.", "sdpa")

    @property
    def side(self) -> int:
        """Height and width of the images, in pixels, where no encoder decides it."""
        return DEFAULT_IMAGE_SIZE if self.image_size is None else self.image_size


@dataclass
class EncoderArguments:
    """A vision model of transformers in place of the paper's encoder."""

    encoder_name_or_path: str | None = option(
        "Pretrained encoder: a repository on the Hub or a folder, such as google/vit-base-patch16-224-in21k. By "
        "default the paper's own encoder is learned from scratch."
    )
    encoder_revision: str | None = option("Revision of that repository. By default 'main'; its commit is kept.")
    encoder_type: str | None = option(
        "Encoder to learn from scratch: the model_type of its config, such as resnet, or resnet18. ResNets have the "
        "stem for large images: for images of 32 pixels add --image_size 128. By default the paper's own."
    )
    encoder_options: str | None = option("Fields of the config of encoder_type, as JSON. By default its own defaults.")
    encoder_output: NonNegativeInt | None = option(
        "Which of the hidden states of the encoder gives the patch tokens, from 0. By default its last."
    )
    freeze_encoder: bool | None = option("Whether the encoder never trains. By default a pretrained one does not.")
    cached_views: NonNegativeInt | None = option(
        "Views of each training image that a frozen encoder sees once, whose features are kept on disk: the first is "
        "the image itself, the others are augmented. 0 runs the encoder on every image anew. By default 1 where the "
        "encoder is frozen: no augmentation."
    )
    feature_cache_dir: str | None = option(
        "Folder of these features, shared by all runs. By default 'dytox_features' in the cache of Hugging Face."
    )
    feature_cache_gb: PositiveFloat = option("The most that the features of a run may take there, in GB.", 20.0)
    center_crop: bool = option(
        "Crop the centre of images where the processor of the encoder does; otherwise whole images are resized.", True
    )

    @property
    def is_own(self) -> bool:
        """Whether the encoder is the paper's own."""
        return self.encoder_name_or_path is None and self.encoder_type is None


@dataclass
class MethodArguments:
    """
    How the model learns without forgetting.

    The options of one method alone stand in its file in `training/methods/`.
    """

    method: str | None = option(
        "Class-incremental method, see the list at the end. By default the first of it, or the one that the continued "
        "model was learned with."
    )


@dataclass
class MemoryArguments:
    """Rehearsal memory, of the methods that keep one."""

    memory_size: NonNegativeInt = option("Exemplars in the rehearsal memory, shared by all classes seen.", 2000)
    fixed_memory: bool = option("Give each class the share it will have after the last step.", False)
    augmented_herding: bool = option(
        "Herd on augmented training images, as the authors' code does, instead of the images themselves.", False
    )


@dataclass
class OptimizationArguments:
    """Epochs, batches, learning rate and augmentation."""

    num_epochs: PositiveInt = option("Epochs of the main phase of each step.", 500)
    updates_per_epoch: list[PositiveInt] | None = option(
        "Updates of an epoch of the main phase, each of as many images as a full one: an epoch then shows some of the "
        "images, or some again. Several numbers, such as 18 20, are the steps in turn, the last for all that follow. "
        "By default as many as show every image once."
    )
    per_device_train_batch_size: PositiveInt = option("Images of a training batch on each process.", 128)
    gradient_accumulation_steps: PositiveInt = option("Batches of each process summed into one update.", 1)
    per_device_eval_batch_size: PositiveInt = option("Images of an evaluation batch.", 256)
    learning_rate: NonNegativeFloat = option("Peak learning rate for learning_rate_batch_size images an update.", 5e-4)
    learning_rate_batch_size: NonNegativeInt = option(
        "Learning rates are scaled by (images an update) / (this value); 0 uses them as they are.", 512
    )
    warmup_epochs: NonNegativeInt = option("Epochs of linear warm-up, at most a quarter of num_epochs.", 5)
    warmup_learning_rate: NonNegativeFloat = option("Learning rate at the start of the warm-up (not scaled).", 1e-6)
    min_learning_rate: NonNegativeFloat = option("Learning rate at the end of the cosine (not scaled).", 1e-5)
    lagging_schedule: bool = option("Let the schedule lag one epoch behind, as in the authors' code.", False)
    weight_decay: NonNegativeFloat = option("Weight decay of AdamW, on matrices and tokens.", 1e-6)
    auto_augment: str = option("RandAugment policy of timm; 'none' switches it off.", "rand-m9-mstd0.5-inc1")
    train_crop: Literal["pad", "resize", "none"] = option(
        "'pad' crops from the zero-padded image, 'resize' crops a random area and resizes it, 'none' neither.", "pad"
    )
    horizontal_flip: bool = option("Mirror half of the training images.", True)
    repeated_augmentation: PositiveInt = option(
        "Augmented copies of an image in an epoch of the main phase. More than 1 draws as the authors' code does: an "
        "epoch shows one in so many images, and their order depends on the number of the epoch alone.",
        1,
    )
    mixup_alpha: NonNegativeFloat = option(
        "MixUp (DyTox+): parameter of the Beta distribution; 0 switches it off.", 0.0
    )
    mixup_label_smoothing: Fraction = option("Label smoothing of the targets under MixUp, in [0, 1).", 0.1)
    mixed_precision: Literal["no", "bf16", "fp16"] | None = option(
        "Precision of forward and backward passes. By default the one that accelerate is configured for."
    )
    torch_compile: bool = option(
        "Compile forward and backward passes. Each phase compiles again, as its model is another, which can take "
        "minutes on a CPU.",
        False,
    )
    num_workers: NonNegativeInt = option(
        "Processes that load images, for each training process; 0 loads in the process, as kept features always are.",
        2,
    )
    seed: NonNegativeInt = option("Seed of everything that is random.", 0)


@dataclass
class OutputArguments:
    """Where results are written and published."""

    output_dir: str = option("Folder of the run. The same command again resumes it.", "outputs")
    dry_run: bool = option(
        "Show the plan, the images, updates, seconds and disk of each step, and end; nothing is written.", False
    )
    overwrite_output_dir: bool = option("Delete the run that output_dir holds and start again.", False)
    push_to_hub: bool = option("Publish each finished step as a revision of hub_model_id.", False)
    hub_model_id: str | None = option("Repository on the Hub, 'org/name'. Required by push_to_hub.")
    hub_private_repo: bool = option("Create the repository as a private one.", False)
    license: str | None = option(
        "Licence of the published models, as the Hub names it, such as 'apache-2.0'. By default the cards name none: "
        "what was learned from images may depend on their terms."
    )
    push_memory: bool = option(
        "Publish the rehearsal memory of each step as well, images included, as the data set hub_model_id + "
        "'-memory': others can then continue the model. Mind the terms of the images.",
        False,
    )
    overwrite_revisions: bool = option("Let a step replace a revision with other content.", False)
    task_aware_eval: bool = option(
        "Also report task-aware accuracy: the model is told the step of each test image.", False
    )
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = option("Tracker of losses and accuracies.", "none")


@dataclass
class Arguments:
    """
    All options of a run, by group.

    Args:
        options: those of the method alone, an instance of its `Options`.
        given (`frozenset[str]`): names of those of the method that were given, even if at their defaults.
    """

    data: DataArguments
    continuation: ContinuationArguments
    model: ModelArguments
    encoder: EncoderArguments
    method: MethodArguments
    memory: MemoryArguments
    optimization: OptimizationArguments
    output: OutputArguments
    options: Any
    given: frozenset[str] = field(default=frozenset(), compare=False)

    def recipe(self) -> dict[str, Any]:
        """The options that decide the result of the run: equal recipes with equal seeds give equal models."""
        recipe: dict[str, Any] = {}
        if self.continuation.model_name_or_path is not None:
            recipe |= asdict(self.continuation)
        if self.encoder != EncoderArguments():
            recipe |= asdict(self.encoder)
        for group in (self.data, self.model, self.method, self.options, self.memory, self.optimization):
            recipe |= asdict(group)
        sizes = self.data.classes_per_step
        # As recipes have always had it; the classes and sizes of a file of steps stand in the other options.
        recipe["classes_per_step"] = sizes[0] if sizes is not None and len(sizes) == 1 else sizes
        for name in ("feature_cache_dir", "feature_cache_gb"):
            recipe.pop(name, None)
        for name in ("steps", "num_workers", "per_device_eval_batch_size", "attn_implementation", "torch_compile"):
            del recipe[name]
        return recipe

    def global_batch_size(self, num_processes: int) -> int:
        """Images of an update, over all processes and accumulated batches."""
        options = self.optimization
        return options.per_device_train_batch_size * options.gradient_accumulation_steps * num_processes


#: The groups that all methods share, in the order of [`Arguments`].
GROUPS: tuple[Any, ...] = (
    DataArguments,
    ContinuationArguments,
    ModelArguments,
    EncoderArguments,
    MethodArguments,
    MemoryArguments,
    OptimizationArguments,
    OutputArguments,
)


def check_bounds(options: Any) -> None:
    """
    Checks the numbers in a dataclass of options.

    Args:
        options: an instance whose numbers have types such as `PositiveInt`.

    Raises:
        InputError: with the first number out of its bounds.
    """
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"--{name} {value} must be a finite number.")
            for bound in _bounds_in(hint):
                if value is not None and not bound.holds(value):
                    raise InputError(f"--{name} {value} must be {bound.text}.")


def _bounds_in(hint: Any) -> Iterator[Bound]:
    """The bounds in the type of an option, such as `PositiveInt` or `list[PositiveInt] | None`."""
    yield from (bound for bound in getattr(hint, "__metadata__", ()) if isinstance(bound, Bound))
    for part in () if hasattr(hint, "__metadata__") else get_args(hint):
        yield from _bounds_in(part)
