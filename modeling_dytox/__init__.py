"""
Image classifiers that learn new classes step by step, for `transformers`. Importing this package registers its model
types with the Auto classes.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .class_ranges import IncrementalModel
from .configuration_branched import BranchedConfig
from .configuration_dytox import DyToxConfig
from .configuration_feature_head import FeatureHeadConfig
from .configuration_growing_head import GrowingHeadConfig
from .modeling_branched import BranchedForImageClassification, BranchedModel
from .modeling_dytox import (
    DyToxForImageClassification,
    DyToxImageClassifierOutput,
    DyToxModel,
    DyToxModelOutput,
    DyToxPreTrainedModel,
)
from .modeling_feature_head import FeatureHeadForImageClassification, FeatureHeadModel
from .modeling_growing_head import GrowingHeadForImageClassification, GrowingHeadModel


__version__ = "0.2.0.dev0"

_ARCHITECTURES = (
    (DyToxConfig, DyToxModel, DyToxForImageClassification),
    (GrowingHeadConfig, GrowingHeadModel, GrowingHeadForImageClassification),
    (BranchedConfig, BranchedModel, BranchedForImageClassification),
    (FeatureHeadConfig, FeatureHeadModel, FeatureHeadForImageClassification),
)
#: Image classifiers by the `model_type` of their config.
MODELS: dict[str, type[IncrementalModel]] = {config.model_type: model for config, _, model in _ARCHITECTURES}

for config_class, base_class, classifier_class in _ARCHITECTURES:
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, base_class)
    AutoModelForImageClassification.register(config_class, classifier_class)
    # `save_pretrained` then copies the code beside the weights, so that the folder loads without this package.
    config_class.register_for_auto_class()
    base_class.register_for_auto_class("AutoModel")
    classifier_class.register_for_auto_class("AutoModelForImageClassification")

__all__ = [
    "MODELS",
    "BranchedConfig",
    "BranchedForImageClassification",
    "BranchedModel",
    "DyToxConfig",
    "DyToxForImageClassification",
    "DyToxImageClassifierOutput",
    "DyToxModel",
    "DyToxModelOutput",
    "DyToxPreTrainedModel",
    "FeatureHeadConfig",
    "FeatureHeadForImageClassification",
    "FeatureHeadModel",
    "GrowingHeadConfig",
    "GrowingHeadForImageClassification",
    "GrowingHeadModel",
    "IncrementalModel",
]
