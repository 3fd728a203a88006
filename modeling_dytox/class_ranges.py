"""What all architectures share: a model knows classes in ranges, one a step, and grows by a step at a time."""

import sys
from collections.abc import Sequence

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel


# How the classes of a module end that the Auto classes find.
AUTO_CLASSES = {"AutoModel": "Model", "AutoModelForImageClassification": "ForImageClassification"}


class IncrementalModel(PreTrainedModel):
    """
    An image classifier that learns new classes step by step.

    Its config has `class_ranges`, `step_class_ranges`, `class_names` and `problem_type`. Its `forward(pixel_values,
    labels=None, step=None)` gives finite `logits` of shape `(B, num_labels)` and `embeddings` of shape `(B, d)`; with
    `step`, counted from 1, only the classes of that step compete.
    """

    num_labels: int
    #: Which features of a frozen encoder `forward` takes in place of `pixel_values`: `tokens` or `pooled`.
    cached_input = "tokens"

    @property
    def frozen_patterns(self) -> tuple[str, ...]:
        """Patterns (`fnmatch`) of the names of parameters that never train: those of a frozen encoder."""
        return ("*.encoder.*",) if self.config.freeze_encoder else ()

    @property
    def other_readouts(self) -> tuple[str, ...]:
        """Names of the outputs, beside `logits`, by which the model could predict as well."""
        return ()

    def add_task(self, class_names: Sequence[str]) -> None:
        """
        Grows the model by one step. What earlier steps learned does not change, unless the architecture says so. An
        optimizer made before does not hold the new parameters: make a new one.

        Args:
            class_names (`Sequence[str]`): names of the new classes, in the order of their label ids.

        Raises:
            `ValueError`: if there is no class name, or one is repeated or already known.
        """
        new_names = new_class_names(self.config.class_names, class_names)
        names = [*self.config.class_names, *new_names]
        ranges = [*self.config.step_class_ranges, [self.num_labels, len(names)]]
        self.config.id2label = dict(enumerate(names))
        self.config.label2id = {name: label for label, name in enumerate(names)}
        self.config.class_ranges = ranges
        self.num_labels = len(names)
        self.grow(len(new_names))
        self.config.validate()

    def grow(self, num_new_classes: int) -> None:
        """Makes room for new classes, which the config names already; part of [`add_task`]."""
        raise NotImplementedError

    def only_step(self, logits: torch.Tensor, step: int | None) -> torch.Tensor:
        """
        Lets only the classes of one step compete.

        Args:
            logits (`torch.Tensor` of shape `(B, num_labels)`): of all classes.
            step (`int`, *optional*): the step, from 1; None leaves the logits as they are.

        Returns:
            `torch.Tensor` of shape `(B, num_labels)`: other classes have the lowest finite value.

        Raises:
            `ValueError`: if the model knows no such step.
        """
        if step is None:
            return logits
        ranges = self.config.step_class_ranges
        if not 1 <= step <= len(ranges):
            raise ValueError(f"step={step} is not known: give one of 1 to {len(ranges)}, or None for all classes.")
        start, stop = ranges[step - 1]
        labels = torch.arange(logits.shape[-1], device=logits.device)
        return logits.masked_fill((labels < start) | (labels >= stop), torch.finfo(logits.dtype).min)

    def loss_of(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The loss that `config.problem_type` asks for; label ids `(B,)` or targets `(B, num_labels)`."""
        if self.config.problem_type == "multi_label_classification":
            if labels.ndim == 1:
                labels = nn.functional.one_hot(labels.long(), num_classes=logits.shape[-1])
            labels = labels.to(logits.dtype)
        return self.loss_function(labels, logits, self.config)


def new_class_names(known_names: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """
    Checks the names of new classes.

    Args:
        known_names (`Sequence[str]`): of the classes that the model has.
        class_names (`Sequence[str]`): of the new ones.

    Raises:
        `ValueError`: if there is no class name, or one is repeated or already known.
    """
    if isinstance(class_names, str) or not class_names:
        raise ValueError(f"class_names={class_names!r} must be a list of at least one class name.")
    class_names = list(class_names)
    known = set(known_names)
    for position, name in enumerate(class_names):
        if not isinstance(name, str):
            raise ValueError(f"class_names[{position}]={name!r} must be a string.")
        if name in known:
            raise ValueError(f"class_names[{position}]={name!r} is a class the model has already: name it once.")
        known.add(name)
    return class_names


def auto_map_of(model: PreTrainedModel) -> dict[str, str]:
    """The classes in the file of a model that the Auto classes find, as `auto_map` in its config names them."""
    module = type(model).__module__
    names = [
        name
        for name, kind in vars(sys.modules[module]).items()
        if isinstance(kind, type) and issubclass(kind, PreTrainedModel) and kind.__module__ == module
    ]
    stem = module.rpartition(".")[2]
    return {
        auto_class: f"{stem}.{name}"
        for auto_class, ending in AUTO_CLASSES.items()
        for name in names
        if name.endswith(ending) and not name.endswith("PreTrainedModel")
    }
