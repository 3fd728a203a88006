"""
What any number of processes must agree on, given the weights: run with `torchrun`, writes a JSON file.

    torchrun --nproc_per_node 2 same_weights.py OUTPUT.json --option value ...

The model is not trained; its weights are drawn large, so that features and logits differ from image to image.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator

from training.arguments import parse_arguments
from training.incremental import IncrementalRun
from training.run.model import make_model
from training.seeding import seed_everything


def main() -> None:
    output, *words = sys.argv[1:]
    accelerator = Accelerator()
    run = IncrementalRun(parse_arguments(words), accelerator)
    run.folder.path.mkdir(parents=True, exist_ok=True)
    found = []
    model = None
    for step in run.scenario.steps:
        seed_everything(0, step.number)
        model = make_model(run.arguments, step) if model is None else run.method.grow(model, step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
        run.renew_memory(model, step)
        evaluation = run.evaluator.evaluate(model, run.scenario.seen_test(step), task_aware=True)
        assert run.memory is not None and run.memory.examples is not None
        found.append({"exemplars": run.memory.examples.source_indices.tolist(), **asdict(evaluation)})
    if accelerator.is_main_process:
        Path(output).write_text(json.dumps(found))
    accelerator.wait_for_everyone()
    # Threads of the process group that still run when Python ends can abort the process.
    accelerator.end_training()


if __name__ == "__main__":
    main()
