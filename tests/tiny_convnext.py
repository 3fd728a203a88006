"""A small encoder with random weights, in a folder as `save_pretrained` writes it."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def tiny_convnext() -> Path:
    """The folder, made once for all tests of a process; beside it is room for the features of its runs."""
    parent = Path(tempfile.mkdtemp(prefix="tiny_convnext"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    write_tiny_convnext(parent / "encoder")
    return parent / "encoder"


def write_tiny_convnext(folder: Path) -> None:
    """Writes an encoder of images of 8 pixels."""
    import torch
    from transformers import ConvNextConfig, ConvNextModel, ViTImageProcessor

    config = ConvNextConfig(num_stages=2, hidden_sizes=[16, 32], depths=[1, 1], patch_size=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ConvNextModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
