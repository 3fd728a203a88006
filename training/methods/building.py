"""New models of any architecture, from the options of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageClassification, PreTrainedModel

import modeling_dytox  # noqa: F401  # makes the architectures known to the Auto classes
from hub.run.errors import InputError
from modeling_dytox import IncrementalModel
from training.arguments import ModelArguments
from training.data.scenario import Step


if TYPE_CHECKING:
    from training.run.encoder import Encoder


def build_model(
    architecture: str, sizes: ModelArguments, step: Step, fields: Mapping[str, Any], encoder: Encoder | None = None
) -> IncrementalModel:
    """
    A new model that knows the classes of the first step.

    Args:
        architecture (`str`): `model_type` of its config.
        sizes (`ModelArguments`): its sizes.
        step (`Step`): the first.
        fields (`Mapping[str, Any]`): further fields of the config.
        encoder (`Encoder`, *optional*): in place of the paper's own.

    Raises:
        InputError: the first step has one class, and the loss is a softmax over classes.
    """
    kind: Any = CONFIG_MAPPING[architecture]
    problem_type = fields.get("problem_type", kind.problem_type)
    if len(step.class_names) == 1 and problem_type == "single_label_classification":
        raise InputError(
            "The first step has one class, which a softmax cannot learn from: give --initial_classes 2 or more, or a "
            "--method with a score of its own for each class, such as dytox or icarl."
        )
    options = asdict(sizes)
    options["image_size"] = sizes.side
    attn_implementation = options.pop("attn_implementation")
    options["intermediate_size"] = sizes.intermediate_size or 4 * sizes.hidden_size
    config = AutoConfig.for_model(
        architecture,
        **options | ({} if encoder is None else encoder.fields),
        class_ranges=[list(step.class_range)],
        id2label=dict(enumerate(step.class_names)),
        label2id={name: label for label, name in enumerate(step.class_names)},
        **fields,
    )
    model: IncrementalModel = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    set_attention(model, attn_implementation)
    if encoder is not None:
        encoder.copy_into(model)
    return model


def set_attention(model: IncrementalModel, attn_implementation: str) -> None:
    """
    Sets the attention backend of a model, and of its encoder where that one has it.

    Args:
        model (`IncrementalModel`): changed in place.
        attn_implementation (`str`): `sdpa` or `eager`.
    """
    chosen = {"": attn_implementation}
    encoders = [module for name, module in model.named_modules() if name.endswith(".encoder")]
    if encoders and isinstance(encoders[0], PreTrainedModel) and encoders[0]._can_set_attn_implementation():
        try:
            chosen["encoder_config"] = encoders[0].get_correct_attn_implementation(attn_implementation)
        except ValueError:
            # Convolutions, say, for which transformers knows no backend.
            chosen["encoder_config"] = "eager"
    model.set_attn_implementation(chosen)
