"""Configuration of the architecture with an encoder a step."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_dytox import DyToxConfig, check_shared_by_steps


@strict
class BranchedConfig(DyToxConfig):
    r"""
    Configuration of a [`BranchedForImageClassification`]: a branch a step, each the encoder of DyTox with a single
    token. The sizes, which are those of a branch, `class_ranges` and `problem_type` are those of [`DyToxConfig`].

    Raises:
        `StrictDataclassClassValidationError`: if the sizes, `class_ranges` and `id2label` contradict each other, or
            each step would have a token or a classifier of its own.

    Example:

    ```python
    >>> from modeling_dytox import BranchedConfig

    >>> config = BranchedConfig(class_ranges=[[0, 10], [10, 20]])
    >>> config.num_branches
    2
    ```
    """

    model_type = "branched"

    token_expansion: bool = False
    independent_classifiers: bool = False
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = (
        "single_label_classification"
    )

    @property
    def num_branches(self) -> int:
        """Branches of the model: one a step."""
        return len(self.step_class_ranges)

    def validate_branches(self) -> None:
        """Raises `ValueError` if a step would have a token or a classifier of its own."""
        check_shared_by_steps(self)


__all__ = ["BranchedConfig"]
