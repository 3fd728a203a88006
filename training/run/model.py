"""The model of a run: made for the first step, loaded after a later one, rebuilt within one."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedConfig

from hub.run.layout import CONFIG_FILE
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from training.arguments import Arguments
from training.data.scenario import Step


# What a folder or a revision without a usable model makes `transformers` raise.
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, StrictDataclassError)


class MissingWeightsError(ValueError):
    """Weights are missing: they would be drawn at random."""


def load_model(source: str | Path, **options: Any) -> DyToxForImageClassification:
    """
    The model of a step as it was when it was saved, to continue it or to measure it again.

    Args:
        source (`str` or `Path`): a step folder, or a repository on the Hub.
        **options: of `from_pretrained`.

    Raises:
        MissingWeightsError: the model is not complete.
        `LOADING_ERRORS`: it does not exist, is damaged, or of another architecture.
    """
    config, _ = PreTrainedConfig.get_config_dict(source, revision=options.get("revision"))
    check_architecture(config.get("model_type"))
    # With the loading information there are two results, which the types of `transformers` do not tell.
    loaded: Any = DyToxForImageClassification.from_pretrained(source, output_loading_info=True, **options)
    model, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing:
        raise MissingWeightsError(f"{len(missing)} weights are missing, e.g. {missing[0]}")
    # Clone: memory-mapped tensors are misaligned, which changes rounding.
    return copy.deepcopy(model)


def check_architecture(model_type: Any) -> None:
    """
    Refuses a model that this project does not train.

    Args:
        model_type: as in `config.json`.

    Raises:
        ValueError: it is of an unknown architecture.
    """
    if model_type != DyToxConfig.model_type:
        raise ValueError(f"its model_type is {model_type!r}, expected {DyToxConfig.model_type!r}")


def check_code_files(folder: Path) -> None:
    """
    Refuses a step folder without the code that its `config.json` names, which its revisions need.

    Args:
        folder (`Path`): the step folder.

    Raises:
        ValueError: a file is missing, or `config.json` cannot be read.
    """
    named = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("auto_map") or {}
    modules = sorted({reference.rpartition("--")[2].partition(".")[0] for reference in named.values()})
    missing = [f"{module}.py" for module in modules if not (folder / f"{module}.py").is_file()]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing, which {CONFIG_FILE} names")


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
    return _with_attention(DyToxForImageClassification(config), sizes.attn_implementation)


def rebuild_model(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], attn_implementation: str
) -> DyToxForImageClassification:
    """
    A model from the config and the tensors that a saved state holds: its shape may be one that growth never makes.

    Args:
        config (`Mapping[str, Any]`): as `to_dict` of the config gives it.
        tensors (`Mapping[str, Tensor]`): all weights, by name.
        attn_implementation (`str`): attention backend.

    Raises:
        `LOADING_ERRORS`: the config is of another architecture, or the tensors are not those of the config.
    """
    check_architecture(config.get("model_type"))
    model = DyToxForImageClassification(DyToxConfig.from_dict(dict(config)))
    model.load_state_dict(dict(tensors))
    return _with_attention(model, attn_implementation)


def _with_attention(model: DyToxForImageClassification, attn_implementation: str) -> DyToxForImageClassification:
    model.set_attn_implementation(attn_implementation)
    return model
