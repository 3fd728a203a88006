"""Runs in this process, whose method can be another than the registered one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import Accelerator

from tests.command_line import words
from training.incremental import run
from training.methods import METHODS, Method
from training.parsing import parse_arguments


Train = Callable[..., Path]


@pytest.fixture
def train(tiny_options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """
    Learns with the tiny options and others: `train("name", method, accelerator, **options)`. The run is in a folder of
    this name; `method` is used under its own name in place of the registered one.
    """

    def train(
        name: str = "run",
        method: type[Method] | None = None,
        accelerator: Accelerator | None = None,
        **options: object,
    ) -> Path:
        folder = tmp_path / name
        named = {} if method is None else {"method": method.name}
        arguments = parse_arguments(words(tiny_options | {"output_dir": folder} | named | options))
        with monkeypatch.context() as patched:
            if method is not None:
                patched.setitem(METHODS, method.name, method)
            run(arguments, accelerator or Accelerator())
        return folder

    return train
