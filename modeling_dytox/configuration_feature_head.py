"""Configuration of the architecture with one linear head on the features of a frozen encoder."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_dytox import DyToxConfig, check_shared_by_steps


@strict
class FeatureHeadConfig(DyToxConfig):
    r"""
    Configuration of a [`FeatureHeadForImageClassification`]: a vision model of `transformers` that never trains, and
    one linear head for all classes, whose weights have a closed form. The encoder, `class_ranges` and `problem_type`
    are those of [`DyToxConfig`]; the sizes of the paper's own encoder and decoder are not used.

    Args:
        head (`"ncm"` or `"ridge"`, *optional*, defaults to `"ncm"`): what the head reads: normalised features, or the
            features themselves.
        projection_dim (`int`, *optional*, defaults to 0): for `"ridge"`, width of the random features
            `relu(features @ projection)` that the head reads in place of the features. 0 for none; the head then has a
            bias.
        regularization (`float`, *optional*): with which the weights of `"ridge"` were solved for. A record: the model
            does not use it.

    Raises:
        `StrictDataclassClassValidationError`: if there is no `encoder_config`, the encoder is not frozen, or the other
            fields contradict each other.

    Example:

    ```python
    >>> from transformers import ViTConfig
    >>> from modeling_dytox import FeatureHeadConfig

    >>> sizes = {"encoder_hidden_size": 768, "encoder_pooled_size": 768, "num_prefix_tokens": 1, "image_size": 224}
    >>> config = FeatureHeadConfig(encoder_config=ViTConfig(), class_ranges=[[0, 10]], head="ridge", **sizes)
    >>> config.has_bias, config.num_labels
    (True, 10)
    ```
    """

    model_type = "feature_head"
    # There is no default encoder.
    has_no_defaults_at_init = True

    token_expansion: bool = False
    independent_classifiers: bool = False
    freeze_encoder: bool = True
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = (
        "single_label_classification"
    )
    head: Literal["ncm", "ridge"] = "ncm"
    projection_dim: int = 0
    regularization: float | int | None = None

    @property
    def has_bias(self) -> bool:
        """Whether the head has a bias."""
        return self.head == "ridge" and not self.projection_dim

    def validate_head(self) -> None:
        """Raises `ValueError` if there is no frozen encoder, or the head is given what it does not use."""
        check_shared_by_steps(self)
        if self.encoder_config is None or not self.freeze_encoder:
            lacking = "encoder_config=None" if self.encoder_config is None else "freeze_encoder=False"
            raise ValueError(
                f"{lacking}, but models of type {self.model_type!r} have a vision model of transformers that never "
                "trains: give its config, and leave freeze_encoder out."
            )
        if self.projection_dim < 0 or (self.projection_dim and self.head != "ridge"):
            raise ValueError(
                f"projection_dim={self.projection_dim} with head={self.head!r}: give at least 0 for 'ridge', 0 for "
                "'ncm'."
            )


__all__ = ["FeatureHeadConfig"]
