"""Looks at the images before anything is trained on them."""

import numpy as np
from accelerate import Accelerator
from tqdm.auto import tqdm

from training.errors import InputError
from training.examples import Examples
from training.scenario import Scenario


# Reading a larger data set would take longer than finding a broken image on the way.
MAX_CHECKED_IMAGES = 100_000


def check_images(scenario: Scenario, accelerator: Accelerator) -> None:
    """
    Reads the images of both splits, shared out over the processes; of a large split evenly spread ones.

    Raises:
        InputError: an image cannot be read.
    """
    for name, examples in (("training", scenario.train), ("test", scenario.test)):
        positions = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), MAX_CHECKED_IMAGES)).astype(int))
        mine = positions[accelerator.process_index :: accelerator.num_processes]
        # None: no progress bar where the output is no terminal.
        disable = None if accelerator.is_main_process else True
        progress = tqdm(mine, desc=f"check {name} images", disable=disable, leave=False)
        for position in progress:
            _check(examples, int(position), name)


def _check(examples: Examples, position: int, split: str) -> None:
    try:
        examples.image(position)
    except InputError as error:
        raise InputError(f"In the {split} split: {error}") from error
