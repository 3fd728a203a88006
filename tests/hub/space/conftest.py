"""Runs of small real models, to be walked through."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import ViTImageProcessor

from hub.cards.model_card import add_card_and_figures
from tests.hub.fake_run import make_confusion, make_results, up_to_step, write_trained_files
from tests.modeling_dytox.small import make_model


#: One of them is no word.
NAMES = ["owl", "fox", "<b>bee</b>", "cat", "eel", "ant", "emu", "cod", "yak", "gnu"]


def write_explored_run(output_dir: Path, num_steps: int) -> Path:
    """`OUTPUT_DIR` of a run of steps of two classes, whose models predict something; step 1 is without a confusion."""
    results = make_results(num_steps, 2, names=NAMES[: 2 * num_steps])
    for step in range(1, num_steps + 1):
        folder = write_trained_files(output_dir / f"step{step}", results, step)
        own = up_to_step(results, step)
        ranges = [[2 * index, 2 * index + 2] for index in range(step)]
        make_model(class_ranges=ranges, id2label=dict(enumerate(own.class_names))).save_pretrained(folder)
        ViTImageProcessor(size={"height": 12, "width": 12}).save_pretrained(folder)
        if step > 1:
            make_confusion(own).write(folder, own.class_names)
        add_card_and_figures(folder, None)
    results.write(output_dir / "results.json")
    return output_dir


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A function that gives a run of so many steps; each is made once."""
    made: dict[int, Path] = {}

    def run(num_steps: int) -> Path:
        if num_steps not in made:
            made[num_steps] = write_explored_run(tmp_path_factory.mktemp("explored") / "run", num_steps)
        return made[num_steps]

    return run
