"""
What any number of processes must agree on, given the weights: takes the options of a run.

The model is not trained; its weights are drawn large, so that features and logits differ from image to image. Writes
`found.json` into the folder of the run: one list a way of herding, with one object a step.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from training.incremental import begin_step, update_memory
from training.parsing import parse_arguments
from training.run.setup import set_up
from training.seeding import seed_everything


def main() -> None:
    words = sys.argv[1:]
    accelerator = Accelerator()
    found = [look(accelerator, [*words, "--augmented_herding", augmented]) for augmented in ("false", "true")]
    if accelerator.is_main_process:
        (Path(parse_arguments(words).output.output_dir) / "found.json").write_text(json.dumps(found))
    accelerator.wait_for_everyone()
    # Threads of the process group that still run when Python ends can abort the process.
    accelerator.end_training()


def look(accelerator: Accelerator, words: list[str]) -> list[dict[str, Any]]:
    """Exemplars and metrics of each step."""
    setup = set_up(parse_arguments(words), accelerator)
    setup.folder.path.mkdir(parents=True, exist_ok=True)
    found = []
    model = None
    for step in setup.scenario.steps:
        context = begin_step(setup, step, model, None)
        model = context.model
        seed_everything(0, step.number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
        update_memory(setup, context)
        evaluation = setup.evaluator.evaluate(model, setup.scenario.seen_test(step), task_aware=True)
        assert setup.memory is not None and setup.memory.examples is not None
        found.append({"exemplars": setup.memory.examples.source_indices.tolist(), **asdict(evaluation)})
    return found


if __name__ == "__main__":
    main()
