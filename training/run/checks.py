"""Looks at precision, images and folders before anything is trained."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from hub.run.errors import InputError
from training.arguments import Arguments
from training.data.examples import Examples
from training.data.scenario import Scenario
from training.loop.logs import progress_bar
from training.run.model import make_model


# Reading a larger data set would take longer than finding a broken image on the way.
MAX_CHECKED_IMAGES = 100_000


def check_precision(arguments: Arguments, accelerator: Accelerator) -> None:
    """
    Makes sure that float16 is used where it works.

    Raises:
        InputError: on the CPU, where the accelerator would train in float32 without a word, or together with
            sharpness-aware minimisation.
    """
    if accelerator.mixed_precision != "fp16":
        return
    if accelerator.device.type == "cpu":
        raise InputError("--mixed_precision fp16 needs a GPU: choose bf16 or no.")
    if arguments.method.sam_rho > 0:
        raise InputError(
            f"--sam_rho {arguments.method.sam_rho} does not work in float16, whose gradients overflow at times: "
            "choose --mixed_precision bf16 or no."
        )


def check_no_memory_asked_for(arguments: Arguments) -> None:
    """
    Makes sure that no option speaks of a rehearsal memory, where the method keeps none.

    Raises:
        InputError: one does.
    """
    options = {
        "push_memory": arguments.output.push_memory,
        "memory_name_or_path": arguments.continuation.memory_name_or_path,
    }
    for name, value in options.items():
        if value:
            raise InputError(
                f"--{name}: --method {arguments.method.method} keeps no rehearsal memory; leave it out, or choose "
                "another method."
            )


def check_images(scenario: Scenario, accelerator: Accelerator) -> dict[str, str]:
    """
    Reads the images of both splits, shared out over the processes; of a large split evenly spread ones.

    Returns:
        `dict[str, str]`: for each split a fingerprint of class names, labels and the pixels that were read. Equal
        data give equal fingerprints, on any number of processes.

    Raises:
        InputError: an image cannot be read; raised on every process.
    """
    fingerprints = {}
    for name, examples in (("training", scenario.train), ("test", scenario.test)):
        # Every process learns of an error, or some would wait for the others for ever.
        looks = gather_object([_look_at_images(examples, name, accelerator)])
        for error, _ in looks:
            if error:
                raise InputError(error)
        fingerprints[name] = _fingerprint(examples, scenario.class_names, sum(pixels for _, pixels in looks))
    return fingerprints


def check_disk(
    folder: Path, scenario: Scenario, arguments: Arguments, last_step: int, memory_size: int, released: Path
) -> None:
    """
    Makes sure that what the run will write has room on the disk: the models, memories and states of all steps.

    Args:
        folder (`Path`): the folder of the run.
        scenario (`Scenario`): its steps.
        arguments (`Arguments`): the options of the run.
        last_step (`int`): the last step that is complete.
        memory_size (`int`): exemplars that are kept, 0 without a memory.
        released (`Path`): a folder of which everything will be replaced.

    Raises:
        InputError: it has not.
    """
    steps = [step for step in scenario.steps if step.number > last_step]
    if not steps:
        return
    everything = replace(steps[0], class_names=scenario.class_names, class_range=(0, len(scenario.class_names)))
    with torch.device("meta"):
        weights = 4 * make_model(arguments, everything).num_parameters()
    table = scenario.train.images.data
    memories = len(steps) * memory_size * table.nbytes / max(1, table.num_rows)
    # A state holds the weights and two moments of each; the newest, one before, those of past phases and a new one.
    needed = len(steps) * weights + memories + 4 * 3 * weights
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    released_bytes = sum(file.stat().st_size for file in released.rglob("*") if file.is_file())
    free = shutil.disk_usage(existing).free + released_bytes
    if needed > free:
        raise InputError(
            f"--output_dir {folder} has {free / 1e9:.1f} GB of free disk, the run needs about {needed / 1e9:.1f} GB: "
            "make room, or choose a folder on another disk."
        )


def check_shared(folder: Path, accelerator: Accelerator) -> None:
    """
    Makes sure that every process sees the very folder that the main process has made.

    Raises:
        InputError: some do not, e.g. on another machine; raised on every process.
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


def _look_at_images(examples: Examples, split: str, accelerator: Accelerator) -> tuple[str | None, int]:
    """The first error in this process's share, if any, and the sum of the digests of its images."""
    positions = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), MAX_CHECKED_IMAGES)).astype(int))
    mine = positions[accelerator.process_index :: accelerator.num_processes]
    pixels = 0
    for position in progress_bar(accelerator, mine, desc=f"check {split} images", unit="image"):
        try:
            image = examples.image(int(position))
        except InputError as error:
            return f"In the {split} split: {error}", 0
        # A sum does not depend on how the images are shared out; each digest knows its place.
        content = repr((int(position), image.size)).encode() + image.tobytes()
        pixels += int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "big")
    return None, pixels


def _fingerprint(examples: Examples, class_names: list[str], pixels: int) -> str:
    digest = hashlib.blake2b(repr(class_names).encode(), digest_size=16)
    digest.update(examples.labels.tobytes())
    digest.update(examples.source_indices.tobytes())
    digest.update(str(pixels).encode())
    return digest.hexdigest()
