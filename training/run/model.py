"""The model of a run: loaded after a step, rebuilt within one."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import logging

from hub.run.errors import first_line, one_line
from hub.run.layout import CONFIG_FILE
from hub.run.schema import read_json
from modeling_dytox import MODELS, IncrementalModel
from training.methods.building import set_attention


# What a folder or a revision without a usable model makes `transformers` raise.
LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)


def loading_problem(error: BaseException) -> str:
    """One of `LOADING_ERRORS` on one line: whole for a damaged config, else its first line, as some are pages long."""
    return one_line(error) if isinstance(error, StrictDataclassError) else first_line(error)


class WeightsError(ValueError):
    """The weights are not those of the config: some would be drawn at random, or left out."""


def load_model(source: str | Path, **options: Any) -> IncrementalModel:
    """
    The model of a step as it was when it was saved, to continue it or to measure it again.

    Args:
        source (`str` or `Path`): a repository on the Hub, or the path of a step folder.
        **options: of `from_pretrained`.

    Raises:
        WeightsError: the model is not complete.
        `LOADING_ERRORS`: it does not exist, is damaged, or is of another architecture.
    """
    if isinstance(source, Path):
        check_code_files(source)
    config, _ = PreTrainedConfig.get_config_dict(source, revision=options.get("revision"))
    kind = architecture(config.get("model_type"))
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with _quiet():
        # With the loading information there are two results, which the types of `transformers` do not say.
        loaded: Any = kind.from_pretrained(source, **options)
    model, loading = loaded
    _check_weights(loading)
    # Clone: memory-mapped tensors are misaligned, which changes rounding.
    return copy.deepcopy(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the report of `transformers` on weights, which is pages long; [`_check_weights`] names the first."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _check_weights(loading: Mapping[str, Any]) -> None:
    other_shapes = [name for name, *_ in loading["mismatched_keys"]]
    found = {
        "are missing": loading["missing_keys"],
        "are of another shape than config.json says": other_shapes,
        "are not of this model": loading["unexpected_keys"],
    }
    for problem, names in found.items():
        if names:
            raise WeightsError(f"{len(names)} weights {problem}, e.g. {min(names)}")


def architecture(model_type: Any) -> type[IncrementalModel]:
    """
    The class of the models of a type.

    Args:
        model_type: as in `config.json`.

    Raises:
        ValueError: this project has no such models.
    """
    if model_type not in MODELS:
        raise ValueError(f"its model_type is {model_type!r}, expected {' or '.join(map(repr, MODELS))}")
    return MODELS[model_type]


def check_code_files(folder: Path) -> None:
    """
    Refuses a step folder without the code that its `config.json` names, which its revisions need.

    Args:
        folder (`Path`): the step folder.

    Raises:
        ValueError: a file is missing, or `config.json` cannot be read.
    """
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE} holds a {type(config).__name__}, expected an object")
    auto_map = config.get("auto_map") or {}
    modules = sorted({reference.rpartition("--")[2].partition(".")[0] for reference in auto_map.values()})
    missing = [f"{module}.py" for module in modules if not (folder / f"{module}.py").is_file()]
    if missing:
        raise ValueError(f"{' and '.join(missing)}, which {CONFIG_FILE} names, cannot be found")


def rebuild_model(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    attn_implementation: str,
    frozen_encoder: Mapping[str, Tensor] | None = None,
) -> IncrementalModel:
    """
    A model from the config and the tensors that a saved state holds: its shape may be one that growth never makes.

    Args:
        config (`Mapping[str, Any]`): as `to_dict` of the config gives it.
        tensors (`Mapping[str, Tensor]`): all weights, by name.
        attn_implementation (`str`): attention backend.
        frozen_encoder (`Mapping[str, Tensor]`, *optional*): weights of a frozen encoder, which states lack.

    Raises:
        WeightsError: the tensors are not those of the config.
        `LOADING_ERRORS`: the config is damaged, or of another architecture.
    """
    kind = architecture(config.get("model_type"))
    config_class: Any = kind.config_class
    model = kind(config_class.from_dict(dict(config)))
    try:
        model.load_state_dict({**(frozen_encoder or {}), **tensors})
    except RuntimeError as error:
        raise WeightsError("its weights are not those of its config") from error
    set_attention(model, attn_implementation)
    return model
