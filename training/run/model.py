"""The model of a run: made for the first step, loaded after a later one."""

import copy
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from modeling_dytox import DyToxConfig, DyToxForImageClassification
from training.arguments import Arguments
from training.data.scenario import Step


# What a folder or a revision without a usable model makes `transformers` raise.
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, StrictDataclassError)


class MissingWeightsError(ValueError):
    """Weights are missing: they would be drawn at random."""


def load_model(source: str | Path, **options: Any) -> DyToxForImageClassification:
    """
    The model of a step as it was when it was saved, to go on from or to measure again.

    Args:
        source (`str` or `Path`): a step folder, or a repository on the Hub.
        **options: of `from_pretrained`.

    Raises:
        MissingWeightsError: the model is not complete.
        `LOADING_ERRORS`: it does not exist, or is damaged.
    """
    # With the loading information there are two results, which the types of `transformers` do not tell.
    loaded: Any = DyToxForImageClassification.from_pretrained(source, output_loading_info=True, **options)
    model, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing:
        raise MissingWeightsError(f"lacks {len(missing)} weights, {missing[0]} first")
    # Tensors of a memory-mapped file lie at odd addresses, where sums round otherwise than in the run before.
    return copy.deepcopy(model)


def make_model(arguments: Arguments, step: Step) -> DyToxForImageClassification:
    """A new model that knows the classes of the first step."""
    sizes, method = arguments.model, arguments.method
    config = DyToxConfig(
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_task_attention_layers=sizes.num_task_attention_layers,
        num_attention_heads=sizes.num_attention_heads,
        intermediate_size=sizes.intermediate_size or 4 * sizes.hidden_size,
        drop_path_rate=sizes.drop_path_rate,
        encoder_attention=sizes.encoder_attention,
        class_ranges=[list(step.class_range)],
        token_expansion=method.token_expansion,
        independent_classifiers=method.independent_classifiers,
        id2label=dict(enumerate(step.class_names)),
        label2id={name: label for label, name in enumerate(step.class_names)},
    )
    model = DyToxForImageClassification(config)
    model.set_attn_implementation(sizes.attn_implementation)
    return model
