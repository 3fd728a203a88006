"""Looks at the images before anything is trained on them."""

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from training.errors import InputError
from training.examples import Examples
from training.logs import progress_bar
from training.scenario import Scenario


# Reading a larger data set would take longer than finding a broken image on the way.
MAX_CHECKED_IMAGES = 100_000


def check_images(scenario: Scenario, accelerator: Accelerator) -> None:
    """
    Reads the images of both splits, shared out over the processes; of a large split evenly spread ones.

    Raises:
        InputError: an image cannot be read; raised on every process.
    """
    for name, examples in (("training", scenario.train), ("test", scenario.test)):
        # Every process learns of an error, or some would wait for the others for ever.
        for error in gather_object([_first_error(examples, name, accelerator)]):
            if error:
                raise InputError(error)


def _first_error(examples: Examples, split: str, accelerator: Accelerator) -> str | None:
    positions = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), MAX_CHECKED_IMAGES)).astype(int))
    mine = positions[accelerator.process_index :: accelerator.num_processes]
    for position in progress_bar(accelerator, mine, desc=f"check {split} images", unit="image"):
        try:
            examples.image(int(position))
        except InputError as error:
            return f"In the {split} split: {error}"
    return None
