"""The same weights and inputs give what the authors' code gives, part by part."""

import ast
import json
import math
import zlib
from typing import Any

import numpy as np
import pytest
import torch

from modeling_dytox import DyToxConfig, DyToxForImageClassification
from modeling_dytox.convert_original_to_hf import config_from_state_dict, convert_state_dict, original_to_hf_names
from tests.modeling_dytox.small import FIXTURES, every_backend


# The authors' own float32 and float64 runs differ by about 1e-6.
TOLERANCE = 1e-5
# Bounds on drawn numbers lie this many standard errors away: less than one in a million draws falls outside.
STANDARD_ERRORS = 5

Arrays = dict[str, np.ndarray]
MODEL_A: Arrays = dict(np.load(FIXTURES / "model_a.npz"))
INPUT = torch.from_numpy(MODEL_A["input"])


def assert_near(actual: torch.Tensor, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(actual.detach(), torch.from_numpy(expected), rtol=0, atol=tolerance)


def build(parameters: Arrays, backend: str = "eager") -> DyToxForImageClassification:
    state_dict = {name: torch.from_numpy(values) for name, values in parameters.items()}
    config = config_from_state_dict(state_dict)
    config._attn_implementation = backend
    model = DyToxForImageClassification(config).eval()
    model.load_state_dict(convert_state_dict(state_dict))
    return model


def build_model_a(backend: str = "eager") -> DyToxForImageClassification:
    prefix = "param/"
    return build({name.removeprefix(prefix): MODEL_A[name] for name in MODEL_A if name.startswith(prefix)}, backend)


def test_every_part() -> None:
    model = build_model_a()
    assert_near(model.dytox.embeddings.patch_embeddings(INPUT).flatten(2).transpose(1, 2), MODEL_A["out/patch_embed"])
    outputs = model(INPUT, output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    assert_near(outputs.hidden_states[0], MODEL_A["out/embed_pos"])
    for block in range(model.config.num_hidden_layers):
        assert_near(outputs.hidden_states[block + 1], MODEL_A[f"out/sab{block}_out"])
        assert_near(outputs.attentions[block], MODEL_A[f"out/sab{block}_attn"])
    (attention,) = outputs.task_attentions
    for step in range(model.config.num_task_tokens):
        assert_near(attention[:, :, step : step + 1], MODEL_A[f"out/tab_attn{step}"])


@every_backend
def test_every_step(backend: str) -> None:
    model = build_model_a(backend)
    outputs = model(INPUT)
    for step, (start, stop) in enumerate(model.config.class_ranges):
        assert_near(outputs.task_embeddings[:, step], MODEL_A[f"out/task_embed{step}"])
        assert_near(outputs.logits[:, start:stop], MODEL_A[f"out/head_logits{step}"])
    assert_near(outputs.logits, MODEL_A["out/logits"])
    # Herding compares images by all task embeddings side by side.
    assert_near(outputs.task_embeddings.flatten(1), MODEL_A["out/icarl_all_features"])
    assert_near(model.double()(INPUT.double()).logits, MODEL_A["logits_f64"], tolerance=1e-12)


def full_cifar_parameter(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    """The weights of full_cifar_a.npz, drawn as they were for the authors' code."""
    seed = zlib.crc32((salt + name).encode())
    noise = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if "norm" in name and name.endswith("weight"):
        return 1 + np.float32(0.1) * noise
    if name.endswith("bias"):
        return np.float32(0.1) * noise
    if name.endswith("gating_param"):
        return noise
    if name.endswith("pos_proj.weight") or name == "pos_embed" or name.startswith("task_tokens"):
        return np.float32(0.5) * noise
    return noise / np.float32(math.sqrt(math.prod(shape[1:])))


@every_backend
def test_full_cifar_model(backend: str) -> None:
    full = dict(np.load(FIXTURES / "full_cifar_a.npz"))
    parameters = {}
    for name, shape, total in zip(full["names"], full["shapes"], full["sums"], strict=True):
        parameters[str(name)] = full_cifar_parameter(name, ast.literal_eval(str(shape)), str(full["salt"]))
        assert parameters[name].sum(dtype=np.float64) == pytest.approx(total, abs=TOLERANCE)
    model = build(parameters, backend)
    outputs = model(torch.from_numpy(full["input"]))
    assert_near(outputs.task_embeddings.transpose(0, 1), full["tokens"])
    assert_near(outputs.logits, full["logits"])
    in_float64 = model.double()(torch.from_numpy(full["input"]).double())
    assert_near(in_float64.logits, full["logits_f64"], tolerance=1e-12)


# Counted in the authors' models; their paper gives 10.73, 10.74 and 10.77 million.
@pytest.mark.parametrize(
    ("num_steps", "classes_per_step", "expected"), [(10, 10, 10_733_584), (20, 5, 10_745_104), (50, 2, 10_779_664)]
)
def test_number_of_parameters(num_steps: int, classes_per_step: int, expected: int) -> None:
    ranges = [[step * classes_per_step, (step + 1) * classes_per_step] for step in range(num_steps)]
    with torch.device("meta"):
        model = DyToxForImageClassification(DyToxConfig(class_ranges=ranges))
    assert model.num_parameters() == expected


@pytest.fixture(scope="module")
def fresh_model() -> DyToxForImageClassification:
    """The CIFAR model of one step as it is drawn."""
    torch.manual_seed(0)
    return DyToxForImageClassification(DyToxConfig(class_ranges=[[0, 10]]))


def test_local_heads(fresh_model: DyToxForImageClassification) -> None:
    local = torch.from_numpy(np.load(FIXTURES / "gpsa_local_init.npz")["pos_proj_weight_first9"])
    weights = [layer.attention.position_proj.weight.detach() for layer in fresh_model.dytox.layers]
    assert all(torch.equal(weight[: len(local)], local) for weight in weights)
    drawn = torch.cat([weight[len(local) :].flatten() for weight in weights])
    std = fresh_model.config.initializer_range
    assert abs(drawn.std() / std - 1) < STANDARD_ERRORS / math.sqrt(2 * len(drawn))
    assert abs(drawn.mean()) < STANDARD_ERRORS * std / math.sqrt(len(drawn))


def test_initial_parameters_are_drawn_as_the_authors_draw(fresh_model: DyToxForImageClassification) -> None:
    statistics: dict[str, dict[str, Any]] = json.loads((FIXTURES / "init_stats_cifar_t1.json").read_text())
    parameters = {name: parameter.detach() for name, parameter in fresh_model.named_parameters()}
    compared = set()
    for name, hf_names in original_to_hf_names(statistics).items():
        expected = statistics[name]
        values = torch.cat([parameters[hf_name].flatten() for hf_name in hf_names]).double()
        assert values.numel() == math.prod(expected["shape"])
        # Both means and both deviations are of one sample each, of this size.
        mean_error = expected["std"] * math.sqrt(2 / values.numel())
        std_error = expected["std"] * math.sqrt(1 / values.numel())
        float32_error = 1e-6 * max(abs(expected["mean"]), expected["std"])
        assert abs(values.mean() - expected["mean"]) <= STANDARD_ERRORS * mean_error + float32_error, name
        assert abs(values.std() - expected["std"]) <= STANDARD_ERRORS * std_error + float32_error, name
        for hf_name in hf_names:
            assert_fixed_or_bounded(name, hf_name, parameters, expected)
        compared.update(hf_names)
    assert compared == set(parameters)


def assert_fixed_or_bounded(
    name: str, hf_name: str, parameters: dict[str, torch.Tensor], expected: dict[str, Any]
) -> None:
    values = parameters[hf_name]
    if expected["min"] == expected["max"]:
        assert (values == expected["min"]).all(), name
    elif name.endswith("attn.v.weight") and name.startswith("sabs"):
        assert torch.equal(values, torch.eye(len(values))), name
    elif name.startswith(("patch_embed", "head.")):
        # Uniform in +-1 / sqrt(inputs), as PyTorch draws its own layers.
        inputs = parameters[hf_name.replace(".bias", ".weight")][0].numel()
        assert values.abs().max() <= 1 / math.sqrt(inputs), name
