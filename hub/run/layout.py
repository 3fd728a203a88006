"""
Names in the folder of a run, in its step folders and in the repositories they are published to.

    OUTPUT_DIR/
        training_config.yaml         the recipe: every option that decides the result
        data_fingerprint.json        a digest of each split, and of a memory that the run started with
        results.json                 what was measured so far
        log.jsonl                    losses and accuracies, epoch by epoch
        step1/                       a complete model, and what a revision on the Hub holds
            config.json                  with the class ranges and the names of the code files
            model.safetensors            or several shards and their index
            preprocessor_config.json
            statistics.safetensors       sums over images, with which some methods go on without old images
            modeling_….py                the code that `config.json` names, and what it imports from beside it
            training_config.yaml         the recipe
            results.json                 what was measured up to this step
            confusion.csv                test images of each class by predicted class; not from earlier versions
            seeds.json                   the same of runs with other seeds, if some were added
            README.md                    the card
            figures/
        step2/
        memory/step1.parquet         the rehearsal memory after step 1
        checkpoints/                 states within the step that is being learned
        tracker/                     files of the tracker
        .lock                        held by the run that writes here
"""

import re
from pathlib import Path


CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
PROCESSOR_FILE = "preprocessor_config.json"
STATISTICS_FILE = "statistics.safetensors"
RESULTS_FILE = "results.json"
CONFUSION_FILE = "confusion.csv"
RECIPE_FILE = "training_config.yaml"
SEEDS_FILE = "seeds.json"
CARD_FILE = "README.md"

FINGERPRINT_FILE = "data_fingerprint.json"
LOG_FILE = "log.jsonl"
LOCK_FILE = ".lock"
MEMORY_FOLDER = "memory"
CHECKPOINT_FOLDER = "checkpoints"
TRACKER_FOLDER = "tracker"

#: A published memory is a data set `{hub_model_id}-memory` with the same tags as the model, and this one file.
MEMORY_SUFFIX = "-memory"
MEMORY_FILE = "data/train.parquet"
#: In a repository alone, not in a folder: what each revision knows, see `hub.run.steps_file`.
STEPS_FILE = "steps.json"

_STEP_NAME = re.compile(r"step([1-9][0-9]*)")


def step_name(step: int) -> str:
    """The name of a step's folder and of its revision: `step3`."""
    return f"step{step}"


def step_number(name: str) -> int | None:
    """The step that a folder or a tag is named after; None where the name is not that of a step."""
    match = _STEP_NAME.fullmatch(name)
    return int(match[1]) if match else None


def step_folder(output_dir: Path, step: int) -> Path:
    """Where the model of a step is, or will be."""
    return output_dir / step_name(step)


def memory_file(output_dir: Path, step: int) -> Path:
    """Where the exemplars after a step are, or will be."""
    return output_dir / MEMORY_FOLDER / f"{step_name(step)}.parquet"
