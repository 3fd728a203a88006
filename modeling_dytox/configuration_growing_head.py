"""Configuration of the architecture with one encoder, one embedding and one head that grows."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_dytox import DyToxConfig, check_shared_by_steps


@strict
class GrowingHeadConfig(DyToxConfig):
    r"""
    Configuration of a [`GrowingHeadForImageClassification`]: the encoder of DyTox with a single token, whose embedding
    one head reads for all classes. The sizes, `class_ranges` and `problem_type` are those of [`DyToxConfig`].

    Args:
        head (`"linear"`, `"cosine"` or `"proxy"`, *optional*, defaults to `"linear"`): layer normalisation and a
            linear layer; cosine similarity with a row a class; similarity with several proxies a class.
        head_bias (`bool`, *optional*, defaults to `True`): whether the linear head has a bias.
        head_scale_init (`float`, *optional*, defaults to 16.0): start of the learned scale of the other heads.
        num_proxies (`int`, *optional*, defaults to 10): proxies of each class, for `"proxy"`.
        prediction (`"logits"` or `"nearest_mean"`, *optional*, defaults to `"logits"`): whether the model predicts by
            the logits of the head, or by the prototype nearest to the embedding.
        keeps_prototypes (`bool`, *optional*, defaults to `False`): whether the model has a prototype of each class
            although it predicts by the logits, so that both predictions can be compared.
        bias_correction (`bool`, *optional*, defaults to `False`): whether the logits of each step are scaled and
            shifted by two numbers of this step.

    Raises:
        `StrictDataclassClassValidationError`: if the sizes, `class_ranges` and `id2label` contradict each other, or
            each step would have a token or a classifier of its own.

    Example:

    ```python
    >>> from modeling_dytox import GrowingHeadConfig

    >>> config = GrowingHeadConfig(class_ranges=[[0, 10], [10, 20]], head="cosine")
    >>> config.num_task_tokens, config.num_labels
    (1, 20)
    ```
    """

    model_type = "growing_head"

    token_expansion: bool = False
    independent_classifiers: bool = False
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = (
        "single_label_classification"
    )
    head: Literal["linear", "cosine", "proxy"] = "linear"
    head_bias: bool = True
    head_scale_init: float | int = 16.0
    num_proxies: int = 10
    prediction: Literal["logits", "nearest_mean"] = "logits"
    keeps_prototypes: bool = False
    bias_correction: bool = False

    def validate_head(self) -> None:
        """Raises `ValueError` if a step would have a token or a classifier of its own, or a class no proxy."""
        check_shared_by_steps(self)
        if self.num_proxies < 1:
            raise ValueError(f"num_proxies={self.num_proxies} must be at least 1.")


__all__ = ["GrowingHeadConfig"]
