"""Configuration of DyTox: the sizes of the model and the classes of each step."""

from collections.abc import Sequence
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


COUNTS = (
    "num_channels",
    "hidden_size",
    "num_hidden_layers",
    "num_task_attention_layers",
    "num_attention_heads",
    "intermediate_size",
)


@strict
class DyToxConfig(PreTrainedConfig):
    r"""
    Configuration of a [`DyToxModel`]. The defaults are the CIFAR model of the paper
    ([DyTox: Transformers for Continual Learning with DYnamic TOken eXpansion](https://arxiv.org/abs/2111.11326)).

    Args:
        image_size (`int` or `list[int]`, *optional*, defaults to 32): height and width of the images, in pixels.
        patch_size (`int` or `list[int]`, *optional*, defaults to 4): height and width of a patch, in pixels. Must
            divide `image_size`.
        num_channels (`int`, *optional*, defaults to 3): number of channels of the images.
        hidden_size (`int`, *optional*, defaults to 384): width of the patch tokens and task tokens. Must be a multiple
            of `num_attention_heads`.
        num_hidden_layers (`int`, *optional*, defaults to 5): number of self-attention blocks (SAB) of the encoder.
        num_task_attention_layers (`int`, *optional*, defaults to 1): number of task-attention blocks (TAB) of the
            decoder, shared by all steps.
        num_attention_heads (`int`, *optional*, defaults to 12): number of attention heads of every block.
        intermediate_size (`int`, *optional*, defaults to 1536): width of the hidden layer of every MLP.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): activation function of the MLPs.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0): dropout after the embeddings and after each
            sublayer.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0): dropout on the content attention; the
            positional attention is never dropped.
        drop_path_rate (`float`, *optional*, defaults to 0.1): stochastic depth of the last block, in [0, 1). It grows
            linearly from 0 at the first block.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): epsilon of the layer normalisations.
        initializer_range (`float`, *optional*, defaults to 0.02): standard deviation of the truncated normal
            distribution from which weights and tokens are drawn.
        encoder_attention (`"gated"` or `"plain"`, *optional*, defaults to `"gated"`): `"gated"` is the gated
            positional self-attention of [ConViT](https://arxiv.org/abs/2103.10697), `"plain"` is ordinary
            self-attention.
        locality_strength (`float`, *optional*, defaults to 1.0): how sharply the positional attention focuses at
            initialisation. Used by `"gated"` only.
        class_ranges (`list[list[int]]`, *optional*): for each step the half-open range `[start, stop)` of label ids
            that its classifier predicts. The ranges follow one another from 0 without a gap. `None` means one step of
            `num_labels` classes.
        num_task_tokens (`int`, *optional*): number of task tokens: one per step, or 1 without `token_expansion`.
            Derived if not given.
        token_expansion (`bool`, *optional*, defaults to `True`): whether each step has its own task token. `False`
            shares one token among all steps, an ablation of the paper.
        independent_classifiers (`bool`, *optional*, defaults to `True`): whether each step has its own classifier,
            which reads the task embedding of its step. `False` uses a single classifier for all classes, which reads
            the concatenated task embeddings of all steps and is initialised again whenever the model grows, as in the
            authors' code for the same ablation.
        encoder_config (`PreTrainedConfig` or `dict`, *optional*): config of a vision model of `transformers` that
            takes the place of the paper's encoder. `None` is the paper's own, of `patch_size`, `num_hidden_layers`,
            `encoder_attention` and `locality_strength`, which another encoder does not use.
        encoder_hidden_size, encoder_pooled_size (`int`, *optional*): widths of the encoder's patch tokens and of its
            last map. Required with `encoder_config`; [`~modeling_dytox.encoders.measure_encoder`] measures them.
        num_prefix_tokens (`int`, *optional*, defaults to 0): tokens of the encoder in front of its patches.
        encoder_output (`int`, *optional*): which of the encoder's hidden states gives the patch tokens. By default its
            last hidden state.
        freeze_encoder (`bool`, *optional*, defaults to `False`): whether the encoder never trains.
        base_model (`str`, *optional*): repository of the pretrained encoder on the Hub.
        base_model_license (`str`, *optional*): its licence, as the Hub names it.

    Raises:
        `StrictDataclassClassValidationError`: if the sizes, `class_ranges`, `num_task_tokens`, `token_expansion` and
            `id2label` contradict each other.

    Example:

    ```python
    >>> from modeling_dytox import DyToxConfig

    >>> config = DyToxConfig(class_ranges=[[0, 10], [10, 20]])
    >>> config.num_task_tokens, config.num_labels
    (2, 20)
    ```
    """

    model_type = "dytox"
    sub_configs = {"encoder_config": AutoConfig}
    # What `Trainer` leaves out of the predictions that it collects.
    keys_to_ignore_at_inference = [
        "hidden_states",
        "attentions",
        "task_embeddings",
        "task_attentions",
        "embeddings",
        "head_logits",
        "branch_embeddings",
    ]

    image_size: int | list[int] | tuple[int, int] = 32
    patch_size: int | list[int] | tuple[int, int] = 4
    num_channels: int = 3
    hidden_size: int = 384
    num_hidden_layers: int = 5
    num_task_attention_layers: int = 1
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    encoder_attention: Literal["gated", "plain"] = "gated"
    locality_strength: float | int = 1.0
    class_ranges: list[list[int]] | list[tuple[int, int]] | tuple[tuple[int, int], ...] | None = None
    num_task_tokens: int | None = None
    token_expansion: bool = True
    independent_classifiers: bool = True
    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    encoder_hidden_size: int | None = None
    encoder_pooled_size: int | None = None
    num_prefix_tokens: int = 0
    encoder_output: int | None = None
    freeze_encoder: bool = False
    base_model: str | None = None
    base_model_license: str | None = None
    # Every class has its own sigmoid, so pipelines report sigmoid scores.
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = (
        "multi_label_classification"
    )

    def __post_init__(self, **kwargs: Any) -> None:
        num_labels = kwargs.get("num_labels")
        if num_labels is not None and self.id2label is not None and len(self.id2label) != num_labels:
            # `from_pretrained(..., num_labels=7)`: other classes than those that were learned, as one step.
            self.id2label = self.label2id = self.num_task_tokens = None
            self.class_ranges = [[0, num_labels]]
        if isinstance(self.encoder_config, dict):
            fields = dict(self.encoder_config)
            self.encoder_config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        if self.class_ranges is not None:
            self.class_ranges = [list(class_range) for class_range in self.class_ranges]
            if self.id2label is None and self.class_ranges and self.class_ranges[-1]:
                kwargs.setdefault("num_labels", self.class_ranges[-1][-1])
        if self.num_task_tokens is None:
            self.num_task_tokens = (
                1 if self.class_ranges is None or not self.token_expansion else len(self.class_ranges)
            )
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Raises `ValueError` if sizes, class ranges, task tokens and labels contradict each other."""
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}: "
                "change one of the two."
            )
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate={self.drop_path_rate} must be at least 0 and below 1.")
        self._validate_encoder()
        self._validate_class_ranges()

    @property
    def image_height_width(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return _pair(self.image_size, "image_size")

    @property
    def patch_height_width(self) -> tuple[int, int]:
        """Height and width of a patch, in pixels."""
        return _pair(self.patch_size, "patch_size")

    @property
    def step_class_ranges(self) -> list[list[int]]:
        """Class range of every step; `class_ranges=None` means one step of `num_labels` classes."""
        return [[0, self.num_labels or 0]] if self.class_ranges is None else [list(r) for r in self.class_ranges]

    @property
    def classifier_class_ranges(self) -> list[list[int]]:
        """Class range of every classifier: that of its step, or all classes without `independent_classifiers`."""
        ranges = self.step_class_ranges
        return ranges if self.independent_classifiers else [[0, ranges[-1][1]]]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes by label id, which is the order of learning."""
        names: dict[Any, str] = dict(self.id2label or {})
        return [names[label] for label in sorted(names)]

    def _validate_encoder(self) -> None:
        if self.encoder_config is None:
            if self.freeze_encoder or self.encoder_output is not None:
                raise ValueError(
                    f"freeze_encoder={self.freeze_encoder}, encoder_output={self.encoder_output}, but encoder_config "
                    "is missing: give the config of an encoder, or leave them out."
                )
            self._validate_image_size()
        elif not self.encoder_hidden_size or not self.encoder_pooled_size:
            raise ValueError(
                f"encoder_hidden_size={self.encoder_hidden_size}, encoder_pooled_size={self.encoder_pooled_size}: "
                "give both with encoder_config, as `modeling_dytox.encoders.measure_encoder` measures them."
            )

    def _validate_image_size(self) -> None:
        for side, patch_side in zip(self.image_height_width, self.patch_height_width, strict=True):
            if patch_side < 1 or side < patch_side or side % patch_side != 0:
                raise ValueError(
                    f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}: "
                    "change one of the two."
                )

    def _validate_class_ranges(self) -> None:
        if self.class_ranges is not None:
            expected_start = 0
            for class_range in self.class_ranges:
                if len(class_range) != 2 or class_range[0] != expected_start or class_range[1] <= class_range[0]:
                    raise ValueError(
                        f"class_ranges={self.class_ranges} is not a sequence of [start, stop) ranges that follow one "
                        f"another from 0: let {list(class_range)} start at {expected_start} and hold at least one "
                        "class."
                    )
                expected_start = class_range[1]
            if not self.class_ranges:
                raise ValueError("class_ranges=[] holds no step: give at least one range, or None for one step.")
            self._validate_labels(expected_start)
        if not self.token_expansion and self.num_task_tokens != 1:
            raise ValueError(
                f"num_task_tokens={self.num_task_tokens} but token_expansion=False shares one task token among all "
                "steps: give 1, or leave num_task_tokens out."
            )
        if self.token_expansion and self.num_task_tokens != len(self.step_class_ranges):
            raise ValueError(
                f"num_task_tokens={self.num_task_tokens} but class_ranges={self.class_ranges} holds "
                f"{len(self.step_class_ranges)} step(s): give one task token a step, or leave num_task_tokens out."
            )

    def _validate_labels(self, num_classes: int) -> None:
        label_ids = sorted(self.id2label or {})
        if label_ids != list(range(num_classes)):
            raise ValueError(
                f"class_ranges={self.class_ranges} cover the label ids 0..{num_classes - 1} but id2label names "
                f"{len(label_ids)} label(s): give one name for each label id, or grow the model with `add_task`."
            )


def check_shared_by_steps(config: DyToxConfig) -> None:
    """Raises `ValueError` if a step would have a token or a classifier of its own, for architectures without them."""
    for name in ("token_expansion", "independent_classifiers"):
        if getattr(config, name):
            raise ValueError(
                f"{name}=True, but in models of type {config.model_type!r} all steps share one token and one head: "
                "leave it out."
            )


def _pair(size: int | Sequence[int], name: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise ValueError(f"{name}={size} must be one size or a height and a width.")
    return size[0], size[1]


__all__ = ["DyToxConfig"]
