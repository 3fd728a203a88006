"""The tests that `transformers` asks of each of its own models, on ours."""

import copy
import json
import unittest
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor

from modeling_dytox import (
    BranchedConfig,
    BranchedForImageClassification,
    BranchedModel,
    DyToxConfig,
    DyToxForImageClassification,
    DyToxModel,
    FeatureHeadConfig,
    FeatureHeadForImageClassification,
    FeatureHeadModel,
    GrowingHeadConfig,
    GrowingHeadForImageClassification,
    GrowingHeadModel,
)


BATCH_SIZE = 5
SIZES: dict[str, Any] = {
    "image_size": 12,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


@pytest.fixture(scope="module", autouse=True)
def known_to_transformers() -> Iterator[None]:
    """The suite finds out from these tables which class is the base model and which one takes labels."""
    names = {"dytox": "DyTox", "growing_head": "GrowingHead", "branched": "Branched", "feature_head": "FeatureHead"}
    base = {model_type: f"{name}Model" for model_type, name in names.items()}
    classifiers = {model_type: f"{name}ForImageClassification" for model_type, name in names.items()}
    with (
        patch.dict(MODEL_MAPPING_NAMES, base),
        patch.dict(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, classifiers),
    ):
        yield


class DyToxModelTester:
    """Makes the configuration and the inputs that the suite asks for."""

    is_training = True
    batch_size = BATCH_SIZE
    hidden_size = SIZES["hidden_size"]
    num_hidden_layers = SIZES["num_hidden_layers"]
    num_attention_heads = SIZES["num_attention_heads"]
    seq_length = (SIZES["image_size"] // SIZES["patch_size"]) ** 2

    def __init__(
        self, config_class: type[DyToxConfig], class_ranges: list[list[int]] | None, fields: dict[str, Any]
    ) -> None:
        self.config_class = config_class
        self.class_ranges = class_ranges
        self.fields = fields
        # The encoder's own hidden states have its class token.
        self.seq_length = type(self).seq_length + fields.get("num_prefix_tokens", 0)

    def get_config(self) -> DyToxConfig:
        return self.config_class(**SIZES, class_ranges=self.class_ranges, **copy.deepcopy(self.fields))

    def prepare_config_and_inputs_for_common(self) -> tuple[DyToxConfig, dict[str, torch.Tensor]]:
        shape = [BATCH_SIZE, 3, SIZES["image_size"], SIZES["image_size"]]
        return self.get_config(), {"pixel_values": floats_tensor(shape)}


class DyToxModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (DyToxModel, DyToxForImageClassification)
    config_class: type[DyToxConfig] = DyToxConfig
    # There is no vocabulary.
    test_resize_embeddings = False
    class_ranges: list[list[int]] | None = None
    fields: dict[str, Any] = {}

    def setUp(self) -> None:
        self.model_tester = DyToxModelTester(self.config_class, self.class_ranges, self.fields)
        # With the fields as a config writes them: the nested one is completed.
        written = json.loads(self.model_tester.get_config().to_json_string())
        fields = {name: written[name] for name in self.fields}
        self.config_tester = ConfigTester(
            self, config_class=self.config_class, has_text_modality=False, hidden_size=36, **fields
        )

    def test_config(self) -> None:
        has_defaults = not getattr(self.config_class, "has_no_defaults_at_init", False)
        self.config_tester.run_common_tests(can_init_without_params=has_defaults)

    @unittest.skip(reason="DyTox takes images alone, there are no inputs_embeds.")
    def test_inputs_embeds(self) -> None:
        pass

    def test_model_get_set_embeddings(self) -> None:
        # The suite expects a table of word embeddings, here patches are embedded.
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), nn.Conv2d)
            self.assertIsNone(model.get_output_embeddings())


class DyToxTwoStepsModelTest(DyToxModelTest):
    """The same with the class ranges of two steps written out."""

    class_ranges = [[0, 2], [2, 5]]

    @unittest.skip(reason="It changes num_labels alone, which contradicts class ranges that are written out.")
    def test_problem_types(self) -> None:
        pass

    @unittest.skip(reason="It changes num_labels alone, which contradicts class ranges that are written out.")
    def test_can_load_ignoring_mismatched_shapes(self) -> None:
        pass


class NestedEncoderModelTest(DyToxModelTest):
    """The same with a vision transformer as encoder."""

    fields = {
        "encoder_config": {
            "model_type": "vit",
            **{name: size for name, size in SIZES.items() if not name.endswith("_prob")},
        },
        "encoder_hidden_size": 32,
        "encoder_pooled_size": 32,
        "num_prefix_tokens": 1,
    }

    def test_model_get_set_embeddings(self) -> None:
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIs(model.get_input_embeddings(), model.base_model.encoder.get_input_embeddings())


class GrowingHeadModelTest(DyToxModelTest):
    """The architecture with one growing head."""

    all_model_classes = (GrowingHeadModel, GrowingHeadForImageClassification)
    config_class = GrowingHeadConfig


class BranchedModelTest(DyToxModelTest):
    """The architecture with a branch a step."""

    all_model_classes = (BranchedModel, BranchedForImageClassification)
    config_class = BranchedConfig


class FeatureHeadModelTest(NestedEncoderModelTest):
    """The architecture with a frozen encoder and one linear head on its pooled features."""

    all_model_classes = (FeatureHeadModel, FeatureHeadForImageClassification)
    config_class = FeatureHeadConfig

    @unittest.skip(reason="The encoder is frozen: nothing has a gradient but the head.")
    def test_retain_grad_hidden_states_attentions(self) -> None:
        pass

    # Both look for one file; the frozen encoder has one of its own.
    @patch("modeling_dytox.modeling_dytox.save_encoder_apart")
    def test_load_save_without_tied_weights(self, _: Any) -> None:
        super().test_load_save_without_tied_weights()

    @patch("modeling_dytox.modeling_dytox.save_encoder_apart")
    def test_reverse_loading_mapping(self, _: Any) -> None:
        super().test_reverse_loading_mapping()
