"""The encoder that a run begins with, where it is not the paper's own: its config, its weights and its processor."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import model_info, resolve_revision
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RevisionResolutionError
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, ViTImageProcessor
from transformers.utils import logging

from hub.run.errors import InputError, first_line
from hub.run.text import is_repo_id
from modeling_dytox import DyToxModel, FeatureHeadModel, IncrementalModel
from modeling_dytox.encoders import measure_encoder, without_pooler
from modeling_dytox.image_processing import make_image_processor
from training.arguments import DEFAULT_IMAGE_SIZE, Arguments, EncoderArguments
from training.data.augmentation import output_size
from training.methods import DEFAULT_METHOD, method_named
from training.run.encoder_processor import make_encoder_processor


#: Encoders of the field by name: the model_type and the fields of their config.
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": (
        "resnet",
        {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
    ),
}


@dataclass(frozen=True)
class Encoder:
    """
    A vision model of `transformers` as the encoder of new models.

    Args:
        fields (`dict[str, Any]`): fields of the config of a model that has this encoder.
        processor (`ViTImageProcessor`): prepares images as the encoder expects them.
        num_patches (`int`): patch tokens that it makes of an image.
        trains_batch_norm (`bool`): whether it has a batch normalisation that trains.
        pretrained (`PreTrainedModel`, *optional*): has the weights to begin with; None to draw them.
    """

    fields: dict[str, Any]
    processor: ViTImageProcessor
    num_patches: int
    trains_batch_norm: bool = False
    pretrained: PreTrainedModel | None = None

    @torch.no_grad()
    def copy_into(self, model: IncrementalModel) -> None:
        """Gives the encoders of a new model the pretrained weights."""
        if self.pretrained is not None and model.device.type != "meta":
            for module in model.modules():
                if isinstance(module, (DyToxModel, FeatureHeadModel)):
                    module.encoder.load_state_dict(self.pretrained.state_dict())


def load_encoder(arguments: Arguments) -> tuple[Arguments, Encoder | None]:
    """
    The encoder that the options name, and the options with what it decides: the size of the images, whether it is
    frozen, and the commit of its revision.

    Args:
        arguments (`Arguments`): the options.

    Returns:
        `tuple[Arguments, Encoder | None]`: None where the encoder is the paper's own.

    Raises:
        InputError: the encoder does not exist, or cannot be used as one.
    """
    options = arguments.encoder
    if options.is_own:
        return arguments, None
    if options.encoder_name_or_path is None:
        name = f"--encoder_type {options.encoder_type}"
        config, pretrained = _new_config(options), None
        model = AutoModel.from_config(config)
        size = arguments.model.image_size or _side(getattr(config, "image_size", None)) or DEFAULT_IMAGE_SIZE
        processor = make_image_processor(size)
    else:
        name = f"--encoder_name_or_path {options.encoder_name_or_path}"
        options = replace(options, encoder_revision=_commit_of(options))
        config = _pretrained_config(options)
        model = pretrained = _pretrained_model(options, config)
        processor = make_encoder_processor(
            str(options.encoder_name_or_path),
            options.encoder_revision,
            config,
            arguments.model.image_size,
            options.center_crop,
        )
        size, _ = output_size(processor)
    frozen = options.freeze_encoder if options.freeze_encoder is not None else pretrained is not None
    if frozen and method_named(arguments.method.method or DEFAULT_METHOD).architecture == "branched":
        raise InputError(
            f"--method {arguments.method.method} copies the encoder for each step, and frozen copies would learn "
            "nothing: add --freeze_encoder false, or choose another method."
        )
    views = options.cached_views if options.cached_views is not None else int(frozen)
    if views and not frozen:
        raise InputError(
            f"--cached_views {views} keeps what a frozen encoder makes: leave it out, or freeze the encoder."
        )
    options = replace(options, freeze_encoder=frozen, cached_views=views)
    fields = {
        "image_size": size,
        "encoder_config": config.to_dict(),
        "encoder_output": options.encoder_output,
        "freeze_encoder": frozen,
        **_base_model(options),
    }
    try:
        measured = measure_encoder(model, (size, size), options.encoder_output)
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"{name} cannot be used as an encoder of images of {size} pixels ({first_line(error)}): choose another "
            "encoder, --image_size or --encoder_output."
        ) from error
    arguments = replace(arguments, encoder=options, model=replace(arguments.model, image_size=size))
    trains_batch_norm = not frozen and has_batch_norm(model)
    encoder = Encoder(fields | measured.fields, processor, measured.num_patches, trains_batch_norm, pretrained)
    return arguments, encoder


def has_batch_norm(model: PreTrainedModel) -> bool:
    """Whether a model normalises by the mean and the deviation of the images of a batch."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def _side(size: Any) -> int | None:
    return size if isinstance(size, int) else size[0] if size else None


def _new_config(options: EncoderArguments) -> PreTrainedConfig:
    kind, fields = NAMED.get(str(options.encoder_type), (str(options.encoder_type), {}))
    try:
        given = json.loads(options.encoder_options or "{}")
        if not isinstance(given, dict):
            raise ValueError(f"it holds a {type(given).__name__}, expected an object")
    except ValueError as error:
        raise InputError(
            f"--encoder_options {options.encoder_options} is not JSON of fields ({first_line(error)}): give e.g. "
            "'{\"num_hidden_layers\": 6}'."
        ) from error
    if kind not in CONFIG_MAPPING:
        raise InputError(
            f"--encoder_type {kind} is unknown: give {', '.join(NAMED)} or the model_type of a vision model of "
            "transformers, such as vit, resnet or convnext."
        )
    try:
        config: PreTrainedConfig = AutoConfig.for_model(kind, **fields | given)
    except Exception as error:
        # Configs check their fields with errors of many kinds.
        raise InputError(
            f"--encoder_options {options.encoder_options} do not fit {kind} ({first_line(error)})."
        ) from error
    return _checked(config, f"--encoder_type {options.encoder_type}")


def _checked(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """The config of the part that sees images; what cannot be an encoder is refused."""
    config = getattr(config, "vision_config", None) or config
    if config.model_type.startswith("siglip2"):
        raise InputError(f"{name} takes patches of any size (NaFlex), not images: choose a siglip encoder.")
    try:
        kind = AutoModel._model_mapping[type(config)]
    except KeyError:
        kind = None
    if "pixel_values" not in inspect.signature(getattr(kind, "forward", print)).parameters:
        raise InputError(
            f"{name} is a {config.model_type}, no vision model: choose one such as vit, dinov2 or convnext."
        )
    if (channels := getattr(config, "num_channels", 3)) != 3:
        raise InputError(
            f"{name} takes images of {channels} channels, images are read as RGB: choose one that takes 3."
        )
    return config


def _commit_of(options: EncoderArguments) -> str | None:
    name = str(options.encoder_name_or_path)
    if not is_repo_id(name) or _is_folder(name):
        return options.encoder_revision
    try:
        commit: str = resolve_revision(name, revision=options.encoder_revision).resolved
        return commit
    except (OSError, ValueError, HTTPError, RevisionResolutionError) as error:
        raise InputError(
            f"--encoder_name_or_path {name} cannot be found on the Hub ({first_line(error)}): give a repository or a "
            "folder."
        ) from error


def _is_folder(name: str) -> bool:
    return Path(name).expanduser().is_dir()


def _pretrained_config(options: EncoderArguments) -> PreTrainedConfig:
    name = f"--encoder_name_or_path {options.encoder_name_or_path}"
    try:
        config = AutoConfig.from_pretrained(
            str(options.encoder_name_or_path), revision=options.encoder_revision, trust_remote_code=False
        )
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{name} needs code of its own, which a step could not carry: choose an encoder that transformers "
                "knows."
            ) from error
        raise InputError(
            f"{name} has no config that transformers can read ({first_line(error)}): give a model of the Hub or a "
            "folder with config.json."
        ) from error
    return _checked(config, name)


def _pretrained_model(options: EncoderArguments, config: PreTrainedConfig) -> PreTrainedModel:
    name = f"--encoder_name_or_path {options.encoder_name_or_path}"
    verbosity = logging.get_verbosity()
    # Its report names the head that is left out, line by line.
    logging.set_verbosity_error()
    try:
        loaded: Any = AutoModel.from_pretrained(
            str(options.encoder_name_or_path),
            config=config,
            revision=options.encoder_revision,
            trust_remote_code=False,
            output_loading_info=True,
            **without_pooler(config),
            dtype=torch.float32,
            use_safetensors=True,
        )
    except ImportError as error:
        raise InputError(f"{name} needs a package that is missing ({first_line(error)}): pip install timm.") from error
    except Exception as error:
        raise InputError(f"{name} cannot be loaded ({first_line(error)}): choose another encoder.") from error
    finally:
        logging.set_verbosity(verbosity)
    model, loading = loaded
    # A pooler is not used, and many encoders come without one.
    missing = [weight for weight in loading["missing_keys"] if "pooler" not in weight and "head." not in weight]
    if missing:
        raise InputError(f"{name} lacks {len(missing)} weights, e.g. {min(missing)}: choose a complete encoder.")
    # transformers draws them at random; unused, they are the same for every run.
    with torch.no_grad():
        for weight in loading["missing_keys"]:
            model.get_parameter(weight).zero_()
    return model.eval()


def _base_model(options: EncoderArguments) -> Mapping[str, str | None]:
    """What cards say of a pretrained encoder: its repository and its licence; nothing of a local folder."""
    name = options.encoder_name_or_path
    if name is None or _is_folder(name):
        return {}
    try:
        card = model_info(name, revision=options.encoder_revision).card_data
    except (OSError, ValueError, HfHubHTTPError):
        card = None
    return {"base_model": name, "base_model_license": None if card is None else card.get("license")}
