"""The authors' checkpoints convert to folders that predict as theirs do; anything else is refused in one line."""

import argparse
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from modeling_dytox import DyToxConfig
from modeling_dytox.convert_original_to_hf import (
    config_from_state_dict,
    convert,
    convert_state_dict,
    load_original_checkpoint,
    main,
)
from modeling_dytox.image_processing import make_image_processor
from tests.modeling_dytox.small import FIXTURES


StateDict = dict[str, torch.Tensor]
CLASS_NAMES = [f"class of step {step}, number {number}" for step in range(2) for number in range(5)]


CHECKPOINT = FIXTURES / "model_a.safetensors"


@pytest.fixture
def state_dict() -> StateDict:
    return load_file(CHECKPOINT)


def with_options(state_dict: StateDict) -> dict[str, Any]:
    """What the authors' training saves after a step."""
    options = argparse.Namespace(model="convit", lr=5e-4, mixup=0.0, options=["a.yaml"], resume="", device="cuda")
    return {"model": state_dict, "optimizer": {"state": {}, "param_groups": []}, "epoch": 519, "args": options}


def with_data_parallel_names(state_dict: StateDict) -> dict[str, Any]:
    return {"model": {f"module.{name}": tensor for name, tensor in state_dict.items()}}


@pytest.mark.parametrize("wrap", [with_options, with_data_parallel_names, dict])
def test_checkpoint_predicts_as_the_authors_model(
    state_dict: StateDict, tmp_path: Path, wrap: Callable[[StateDict], dict[str, Any]]
) -> None:
    torch.save(wrap(state_dict), tmp_path / "checkpoint_2.pth")
    main(["--checkpoint", str(tmp_path / "checkpoint_2.pth"), "--output_dir", str(tmp_path / "nested" / "converted")])
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "nested" / "converted")
    expected = np.load(FIXTURES / "model_a.npz")
    with torch.no_grad():
        logits = model(torch.from_numpy(expected["input"])).logits
    torch.testing.assert_close(logits, torch.from_numpy(expected["out/logits"]), rtol=0, atol=1e-5)
    assert model.config.class_ranges == [[0, 4], [4, 7], [7, 10]]
    assert not any("div" in name for name in model.state_dict())


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names, folder = tmp_path / "names.txt", tmp_path / "model"
    names.write_text("\n".join(CLASS_NAMES) + "\n", encoding="utf-8")
    words = ["--output_dir", str(folder), "--checkpoint", str(CHECKPOINT), "--class_names", str(names)]
    monkeypatch.setattr(sys, "argv", ["convert", *words])
    runpy.run_module("modeling_dytox.convert_original_to_hf", run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [str(folder)]
    config = DyToxConfig.from_pretrained(folder)
    assert config.id2label == dict(enumerate(CLASS_NAMES))
    assert config.label2id == {name: label for label, name in enumerate(CLASS_NAMES)}
    # The folder is whole and nothing else is left behind.
    assert {path.name for path in tmp_path.iterdir()} == {"names.txt", "model"}
    assert {"config.json", "model.safetensors", "modeling_dytox.py", "preprocessor_config.json"} <= {
        path.name for path in folder.iterdir()
    }


@pytest.mark.parametrize("image_size", [32, 224])
def test_images_are_prepared_as_the_authors_do(image_size: int, tmp_path: Path) -> None:
    make_image_processor(image_size).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    mean, std = {
        32: ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        224: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    }[image_size]
    # 32 x 32 as it is; else the shorter side to 256 and the centre of that.
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3) if image_size == 32 else (256, 384, 3), np.uint8)
    top, left = (pixels.shape[0] - image_size) // 2, (pixels.shape[1] - image_size) // 2
    centre = pixels[top : top + image_size, left : left + image_size].transpose(2, 0, 1) / 255
    expected = (centre - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    prepared = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(prepared, expected, atol=1e-5)


class Canary:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_foreign_objects_are_refused_unseen(state_dict: StateDict, tmp_path: Path, new_format: bool) -> None:
    canary = tmp_path / "canary"
    options = argparse.Namespace(hidden=Canary(canary))
    torch.save({"model": state_dict, "args": options}, tmp_path / "bad.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(ValueError, match=r"bad.pth holds a \S+, and loading such an object could run any code"):
        load_original_checkpoint(tmp_path / "bad.pth")
    assert not canary.exists()
    # The trap works where the file is read without care.
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("content", [b"", b"some text\n" * 10, b"PK\x03\x04 cut short"])
@pytest.mark.parametrize(
    ("name", "message"), [("a.pth", "is not a checkpoint"), ("a.safetensors", "is not a safetensors file")]
)
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_original_checkpoint(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {1: torch.ones(2)}, {"model": {"a": "b"}}], ids=str)
def test_checkpoints_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_original_checkpoint(tmp_path / "file.pth")


def test_missing_and_unexpected_names(state_dict: StateDict) -> None:
    for name in state_dict:
        if not name.startswith("head_div."):
            incomplete = {other: tensor for other, tensor in state_dict.items() if other != name}
            with pytest.raises(ValueError, match=f"'{name}' is missing"):
                convert_state_dict(incomplete)
    with pytest.raises(ValueError, match="'sabs.0.attn.qkv.weight' is unexpected"):
        config_from_state_dict(state_dict | {"sabs.0.attn.qkv.weight": torch.ones(3)})
    with pytest.raises(ValueError, match="'patch_embed.proj.weight' is missing"):
        config_from_state_dict({"fc.weight": torch.ones(2, 2)})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("pos_embed", (1, 60, 48), "60 patches, which make no square"),
        ("pos_embed", (64, 48), "pos_embed has the shape"),
        ("patch_embed.proj.weight", (48, 48), "patch_embed.proj.weight has the shape"),
        ("sabs.0.attn.gating_param", (5,), "hidden_size=48 is not a multiple of num_attention_heads=5"),
        ("sabs.1.mlp.fc1.weight", (100, 48), "dytox.layers.1.mlp.fc1.weight would have the shape"),
        ("sabs.2.attn.qk.weight", (), "dytox.layers.2.attention.q_proj.weight would have the shape"),
        ("task_tokens.1", (1, 1, 40), "dytox.task_tokens.1 would have the shape"),
        ("head.0.head.bias", (3,), "classifiers.0.linear.bias would have the shape"),
    ],
)
def test_tensors_that_do_not_fit(
    state_dict: StateDict, tmp_path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    save_file(state_dict | {name: torch.ones(shape)}, tmp_path / "damaged.safetensors")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "damaged.safetensors", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere.pth"], "nowhere.pth is not a file"),
        (["--class_names", "nowhere.txt"], "nowhere.txt is not a file"),
        (["--class_names", "few.txt"], "there are 2 class names, but the model predicts 10 classes"),
        (["--class_names", "twice.txt"], "class name 'fox' is given more than once"),
        (["--output_dir", "full"], "full exists already"),
        (["--output_dir", "few.txt"], "few.txt exists already"),
    ],
    ids=str,
)
def test_command_line_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("few.txt").write_text("fox\nowl\n")
    Path("twice.txt").write_text("fox\n" * 10)
    Path("full").mkdir()
    Path("full", "kept.txt").write_text("kept")
    valid = ["--checkpoint", str(CHECKPOINT), "--output_dir", "converted"]
    with pytest.raises(SystemExit) as stopped:
        main(valid + arguments)
    assert isinstance(stopped.value.code, str)
    assert message in stopped.value.code
    assert len(stopped.value.code.splitlines()) == 1
    assert not Path("converted").exists()
    assert Path("full", "kept.txt").read_text() == "kept"


def test_nothing_is_left_when_saving_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("transformers.ViTImageProcessor.save_pretrained", fail)
    with pytest.raises(SystemExit, match="error: no space left on device"):
        main(["--checkpoint", str(CHECKPOINT), "--output_dir", str(tmp_path / "model")])
    assert list(tmp_path.iterdir()) == []
