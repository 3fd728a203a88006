"""Checks of precision, images and folders before anything is trained."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from transformers.utils import logging

from hub.run.errors import InputError
from hub.run.text import shorten
from training.data.examples import Examples
from training.data.scenario import Scenario
from training.loop.logs import progress_bar
from training.methods import Phase


logger = logging.get_logger(__name__)

# Reading a larger data set would take longer than finding a broken image on the way.
MAX_CHECKED_IMAGES = 100_000
_SHARED_MEMORY = Path("/dev/shm")


def check_precision(accelerator: Accelerator, phases: Iterable[Phase]) -> None:
    """
    Refuses float16 on the CPU, where the accelerator would silently train in float32, and with sharpness-aware
    minimisation.

    Args:
        accelerator (`Accelerator`): device and precision.
        phases (`Iterable[Phase]`): of all steps.

    Raises:
        InputError: float16 is asked for there.
    """
    if accelerator.mixed_precision != "fp16":
        return
    if accelerator.device.type == "cpu":
        raise InputError("--mixed_precision fp16 needs a GPU: choose bf16 or no.")
    for phase in phases:
        if phase.sam_rho > 0:
            raise InputError(
                f"--sam_rho {phase.sam_rho} does not work in float16, whose gradients overflow at times: choose "
                "--mixed_precision bf16 or no."
            )


class CheckedImages(NamedTuple):
    """
    Digests of the images that were read. Equal data give equal digests, on any number of processes.

    Args:
        fingerprints (`dict[str, str]`): for each split one of class names, labels and pixels.
        pixels (`dict[str, str]`): for each split one of the pixels alone.
    """

    fingerprints: dict[str, str]
    pixels: dict[str, str]


def check_images(scenario: Scenario, accelerator: Accelerator, exemplars: Examples | None = None) -> CheckedImages:
    """
    Reads the images of both splits, shared out over the processes; of a large split, images at even distances.

    Args:
        scenario (`Scenario`): has the images.
        accelerator (`Accelerator`): processes.
        exemplars (`Examples`, *optional*): a published memory, whose images are learned from as well.

    Returns:
        `CheckedImages`: digests of `training` and `test`.

    Raises:
        InputError: an image cannot be read; raised on every process.
    """
    fingerprints, pixels, contents = {}, {}, {}
    if exemplars is not None:
        contents["memory"] = _read_all(exemplars, "memory", accelerator)
    for name, examples in (("training", scenario.train), ("test", scenario.test)):
        contents[name] = _read_all(examples, name, accelerator)
        fingerprints[name] = _fingerprint(examples, scenario.class_names, contents[name].placed_digests)
        pixels[name] = str(contents[name].placed_digests)
    test = contents.pop("test").digests
    num_equal = len(test & set().union(*(read.digests for read in contents.values())))
    if num_equal and accelerator.is_main_process:
        logger.warning(
            f"{num_equal:,} test image(s) are equal to images that are learned from, pixel by pixel: the accuracy on "
            "them says nothing about new images."
        )
    return CheckedImages(fingerprints, pixels)


class StepSize(NamedTuple):
    """
    What a step takes on the disk.

    Args:
        saved (`int`): bytes of its weights, and of what the method keeps for later steps.
        state (`int`): bytes of a state within it; 0 where the method trains nothing.
    """

    saved: int
    state: int


def check_disk(folder: Path, sizes: Sequence[StepSize], memory_size: int, train: Examples, released: Path) -> str:
    """
    Checks that what the run will write has room on the disk: the models, memories and states of all steps.

    Returns:
        `str`: how much it is, and how much is free, in words.

    Args:
        folder (`Path`): the folder of the run.
        sizes (`Sequence[StepSize]`): of each step that is still to be learned.
        memory_size (`int`): exemplars that are kept, 0 without a memory.
        train (`Examples`): images that exemplars are chosen from.
        released (`Path`): a folder of which everything will be replaced.

    Raises:
        InputError: the disk is too small.
    """
    if not sizes:
        return "nothing"
    table = train.images.data
    memories = len(sizes) * memory_size * table.nbytes / max(1, table.num_rows)
    # The newest state, one before, those of past phases and a new one.
    needed = sum(size.saved for size in sizes) + memories + 4 * sizes[-1].state
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    released_bytes = sum(file.stat().st_size for file in released.rglob("*") if file.is_file())
    free = shutil.disk_usage(existing).free + released_bytes
    if needed > free:
        raise InputError(
            f"--output_dir {folder} has {_size(free)} of free disk, the run needs about {_size(needed)}: make room, "
            "or choose a folder on another disk."
        )
    return f"about {_size(needed)}, of {_size(free)} that are free"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def check_shared_memory(num_workers: int, batch_size: int, image_size: Sequence[int]) -> None:
    """
    Checks that the batches that worker processes hand over have room in shared memory, of which containers may have
    little: a worker without room waits for ever.

    Args:
        num_workers (`int`): worker processes of each process.
        batch_size (`int`): images of the largest batch.
        image_size (`Sequence[int]`): height and width of the pixel values, float32 in three channels.

    Raises:
        InputError: there is too little.
    """
    if not num_workers or not _SHARED_MEMORY.is_dir():
        return
    height, width = image_size
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # A worker loads up to two batches ahead.
    needed = 2 * num_workers * processes * batch_size * 3 * height * width * 4
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise InputError(
            f"--num_workers {num_workers} needs {_size(needed)} of shared memory, {_SHARED_MEMORY} has {_size(free)}: "
            "choose --num_workers 0, or start the container with a larger --shm-size (docker)."
        )


def check_shared(folder: Path, accelerator: Accelerator) -> None:
    """
    Checks that every process sees the same folder as the main process.

    Raises:
        InputError: some see another, e.g. on another machine; raised on every process.
    """
    proof = folder / f".{uuid4().hex}"
    (name,) = broadcast_object_list([proof.name])
    if accelerator.is_main_process:
        proof.touch()
    accelerator.wait_for_everyone()
    seen = gather_object([(folder / name).is_file()])
    if accelerator.is_main_process:
        proof.unlink()
    if not all(seen):
        raise InputError(
            f"--output_dir {folder} is not the same folder for every process: choose one on a disk that all machines "
            "share, and name it with its whole path."
        )


class _Read(NamedTuple):
    """
    What a process found in its share of the images, or all of them together.

    Args:
        errors (`list[tuple[int, str]]`): position of each image that cannot be used, and why.
        placed_digests (`int`): sum of the digests of images with their positions.
        digests (`set[bytes]`): digests of the images alone.
    """

    errors: list[tuple[int, str]]
    placed_digests: int
    digests: set[bytes]


def _read_all(examples: Examples, split: str, accelerator: Accelerator) -> _Read:
    """What all processes found; raises [`InputError`] on each if one did."""
    # Every process is told of an error, or some would wait for the others forever.
    shares: list[_Read] = gather_object([_read_share(examples, split, accelerator)])
    if errors := sorted(error for share in shares for error in share.errors):
        raise InputError(_words_on(errors, examples, split))
    if len(examples) > MAX_CHECKED_IMAGES:
        accelerator.print(f"Checked {MAX_CHECKED_IMAGES:,} of {len(examples):,} {split} images before training.")
    digests = set().union(*(share.digests for share in shares))
    return _Read([], sum(share.placed_digests for share in shares), digests)


def _words_on(errors: Sequence[tuple[int, str]], examples: Examples, split: str) -> str:
    """The first error, and how many more there are: who repairs one file at a time wants to know."""
    (_, first), *others = errors
    if not others:
        return f"In the {split} split: {first}"
    names = [examples.name(position).removeprefix("The image ") for position, _ in others]
    count = f"{len(errors):,} of {len(examples):,} images cannot be used"
    return f"In the {split} split {count}; others: {shorten(names, 200)}. The first: {first}"


def _read_share(examples: Examples, split: str, accelerator: Accelerator) -> _Read:
    positions = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), MAX_CHECKED_IMAGES)).astype(int))
    share = positions[accelerator.process_index :: accelerator.num_processes]
    total, digests, errors = 0, set(), list[tuple[int, str]]()
    for position in progress_bar(accelerator, share, desc=f"check {split} images", unit="image"):
        try:
            image = examples.image(int(position))
        except InputError as error:
            errors.append((int(position), str(error)))
            continue
        pixels = image.tobytes()
        # A sum does not depend on how the images are shared out; each digest includes the position.
        total += int.from_bytes(_digest(repr((int(position), image.size)).encode() + pixels), "big")
        digests.add(_digest(repr(image.size).encode() + pixels))
    return _Read(errors, total, digests)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _fingerprint(examples: Examples, class_names: list[str], digests: int) -> str:
    digest = hashlib.blake2b(repr(class_names).encode(), digest_size=16)
    digest.update(examples.labels.tobytes())
    digest.update(examples.source_indices.tobytes())
    digest.update(str(digests).encode())
    return digest.hexdigest()
