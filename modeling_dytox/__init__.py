"""DyTox for `transformers`. Importing this package registers the model type `dytox` with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .configuration_dytox import DyToxConfig
from .modeling_dytox import (
    DyToxForImageClassification,
    DyToxImageClassifierOutput,
    DyToxModel,
    DyToxModelOutput,
    DyToxPreTrainedModel,
)


__version__ = "0.2.0.dev0"

AutoConfig.register("dytox", DyToxConfig)
AutoModel.register(DyToxConfig, DyToxModel)
AutoModelForImageClassification.register(DyToxConfig, DyToxForImageClassification)

# `save_pretrained` then copies the modeling files beside the weights, so that the folder loads without this package.
DyToxConfig.register_for_auto_class()
DyToxModel.register_for_auto_class("AutoModel")
DyToxForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = [
    "DyToxConfig",
    "DyToxForImageClassification",
    "DyToxImageClassifierOutput",
    "DyToxModel",
    "DyToxModelOutput",
    "DyToxPreTrainedModel",
]
