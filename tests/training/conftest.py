"""Inputs that the tests of `training` share: options, images, image folders and the script itself."""

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from accelerate import Accelerator
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from tests.command_line import words as command_line
from training import incremental
from training.arguments import Arguments
from training.data.examples import Examples
from training.parsing import parse_arguments


Folder = Mapping[str, Mapping[str, Sequence[PILImage.Image | bytes]]]


@dataclass(frozen=True)
class Outcome:
    """How the script ended: exit status, and what it wrote."""

    status: int
    output: str
    errors: str

    @property
    def refusal(self) -> str:
        """The one line of bad input, without the warnings before it."""
        assert self.status == 2, self.output
        (line,) = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        assert self.errors.endswith(f"{line}\n")
        return line


def to_bytes(image: PILImage.Image | bytes, file_format: str = "PNG", **options: Any) -> bytes:
    """The image as the content of a file; bytes stay as they are."""
    if isinstance(image, bytes):
        return image
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what `datasets` caches of local folders out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))


def train(options: Mapping[str, object]) -> Path:
    """Learns with these options in this process; returns the folder of the run."""
    arguments = parse_arguments(command_line(options))
    incremental.run(arguments, Accelerator())
    return Path(arguments.output.output_dir)


@pytest.fixture
def encode_image() -> Callable[..., bytes]:
    """Encodes an image: `encode_image(image, file_format="PNG", **options)`."""
    return to_bytes


@pytest.fixture
def make_arguments() -> Callable[..., Arguments]:
    """Parses options given by keyword, as from a command line; the data set is 'digits' unless they say otherwise."""

    return lambda **options: parse_arguments(command_line({"dataset_name": "digits"} | options))


@pytest.fixture
def make_tiny_arguments(tiny_options: dict[str, object], tmp_path: Path) -> Callable[..., Arguments]:
    """Parses the options of a run that takes seconds, changed by keyword; its folder is `run`."""
    return lambda **options: parse_arguments(command_line(tiny_options | {"output_dir": tmp_path / "run"} | options))


@pytest.fixture
def make_examples() -> Callable[..., Examples]:
    """Makes [`Examples`] of images or of encoded images (None for a missing one); labels are 0 unless given."""

    def make(
        images: Sequence[PILImage.Image | bytes | None],
        labels: Sequence[int] | None = None,
        source_indices: Sequence[int] | None = None,
    ) -> Examples:
        rows = [None if image is None else {"bytes": to_bytes(image), "path": None} for image in images]
        return Examples(
            Dataset.from_dict({"image": rows}, features=Features({"image": Image()})),
            np.array(labels if labels is not None else [0] * len(rows), dtype=np.int64),
            np.array(source_indices if source_indices is not None else range(len(rows)), dtype=np.int64),
        )

    return make


@pytest.fixture
def noise_image() -> Callable[..., PILImage.Image]:
    """Makes an RGB image of random pixels: `noise_image(seed, width=16, height=16)`."""

    def make(seed: int, width: int = 16, height: int = 16) -> PILImage.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return PILImage.fromarray(pixels)

    return make


@pytest.fixture
def marked_image() -> Callable[[int], PILImage.Image]:
    """Makes the 8x8 image of a number below 65,536: red holds the low byte, green the high."""
    return lambda number: PILImage.new("RGB", (8, 8), (number % 256, number // 256, 7))


@pytest.fixture
def number_of() -> Callable[[PILImage.Image], int]:
    """Reads the number of a `marked_image`."""

    def read(image: PILImage.Image) -> int:
        pixels = np.asarray(image)
        assert (pixels == pixels[0, 0]).all(), "not a marked image"
        return int(pixels[0, 0, 0]) + 256 * int(pixels[0, 0, 1])

    return read


@pytest.fixture
def write_image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes `{split: {class: images}}` as an image folder; bytes are written as they are."""

    def write(splits: Folder, name: str = "images") -> Path:
        for split, classes in splits.items():
            for class_name, images in classes.items():
                folder = tmp_path / name / split / class_name
                folder.mkdir(parents=True)
                for number, image in enumerate(images):
                    (folder / f"{number:03}.png").write_bytes(to_bytes(image))
        return tmp_path / name

    return write


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `training/incremental.py`, or the script with another `main`, with these arguments in this process."""

    def run(*words: str, main: Callable[[], None] = incremental.main) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["script.py", *words])
        capsys.readouterr()
        status: Any = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        return Outcome(status, *capsys.readouterr())

    return run
