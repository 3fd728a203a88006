"""Run folders with every file a real one has, made in milliseconds: tiny weights, consistent config and results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from hub.cards.model_card import add_card_and_figures
from hub.run.confusion import Confusion
from hub.run.results import Ancestor, MethodCard, ReliabilityBin, RunResults, StepResults


# What a revision holds, but for what only some runs have.
STEP_FILES = set(
    "README.md config.json configuration_dytox.py figures/accuracy_matrix.png figures/accuracy_per_step.png "
    "model.safetensors modeling_dytox.py preprocessor_config.json results.json training_config.yaml".split()
)
METHOD_CARD = MethodCard(
    title="Some method",
    sentence="Trained with [some method](https://arxiv.org/abs/1234.56789).",
    citation="@inproceedings{some2022method,\n  title = {Some Method},\n}",
    tags=("some-method", "arxiv:1234.56789"),
)


def make_results(
    num_steps: int = 3,
    classes_per_step: int = 2,
    *,
    names: Sequence[str] | None = None,
    ancestors: Sequence[Ancestor] = (),
    seed: int = 0,
    dataset: str = "digits",
    method: str = "some_method",
) -> RunResults:
    """
    The results of a whole run. Accuracies are random but keep the relations that real ones have. The classes of the
    first of `ancestors` have no test images after its steps.
    """
    names = names or [f"class {label}" for label in range(num_steps * classes_per_step)]
    generator = np.random.default_rng(seed)
    first = generator.uniform(0.75, 0.98, num_steps)
    decay = generator.uniform(0.01, 0.5 / num_steps, num_steps)
    column, row = np.arange(num_steps), np.arange(num_steps)[:, None]
    matrix = np.maximum(0.05, first - decay * (row - column))
    matrix[column > row] = -np.inf
    if ancestors:
        matrix[ancestors[0].num_steps :, : ancestors[0].num_steps] = np.nan
    steps = []
    for index, (error, seconds) in enumerate(generator.uniform(0.01, 0.1, (num_steps, 2))):
        seen, start = names[: (index + 1) * classes_per_step], index * classes_per_step
        accuracies, earlier = matrix[index, : index + 1], matrix[:index, :index]
        mean, measured = float(np.nanmean(accuracies)), np.isfinite(accuracies).repeat(classes_per_step)
        over_all = {"accuracy": mean, "top5_accuracy": min(1, mean + 0.02), "expected_calibration_error": float(error)}
        partly = {"accuracy_of_measured": mean, "measured_classes": tuple(np.array(seen, dtype=object)[measured])}
        steps.append(
            StepResults(
                step=index + 1,
                classes=tuple(seen[start:]),
                num_seen_classes=len(seen),
                accuracy_per_step=tuple(map(_or_none, accuracies)),
                num_parameters=10_500 + 500 * index,
                memory_size=20 * index + 20,
                train_seconds=float(100 * seconds),
                forgetting=_or_none((earlier.max(axis=0) - accuracies[:-1]).mean()) if index else None,
                backward_transfer=_or_none((accuracies[:-1] - earlier.diagonal()).mean()) if index else None,
                **(over_all if measured.all() else {"accuracy": None} | partly),
            )
        )
    whole = RunResults(
        dataset=dataset,
        num_steps=num_steps,
        class_order=tuple(names),
        seed=seed,
        method=method,
        steps=tuple(steps),
        ancestors=tuple(ancestors),
        code_version="1.2.3",
        method_card=METHOD_CARD,
    )
    return up_to_step(whole, num_steps)


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def fake_results(*arguments: Any, **options: Any) -> dict[str, Any]:
    """The results that `make_results` makes, as `results.json` holds them."""
    return make_results(*arguments, **options).to_json_object()


def make_ancestors(*num_steps: int, model: str = "org/first", dataset: str = "uoft-cs/cifar100") -> list[Ancestor]:
    """Ancestors that end with these steps; those after the first have a number in their names."""
    suffixes = ["", *(f"-{number}" for number in range(2, len(num_steps) + 1))]
    return [
        Ancestor(model + suffix, count, dataset + suffix, f"step{count}", "0a" * 20, "some_method")
        for suffix, count in zip(suffixes, num_steps, strict=True)
    ]


def up_to_step(results: RunResults, step: int) -> RunResults:
    """The copy of `results` that belongs into the folder of `step`."""
    steps = results.steps[:step]
    accuracies = np.array([one.accuracy for one in steps], dtype=float)
    return replace(
        results,
        steps=steps,
        average_incremental_accuracy=_or_none(accuracies.mean()),
        last_accuracy=steps[-1].accuracy,
        forgetting=steps[-1].forgetting,
        backward_transfer=steps[-1].backward_transfer,
    )


def with_calibration(results: RunResults, num_images: int = 400) -> RunResults:
    """The same run with the bins of an overconfident model after each step, and the error that they give."""
    steps = []
    for step in results.steps:
        generator = np.random.default_rng([step.step, results.seed])
        confidences = generator.beta(4, 1.2, num_images)
        correct = generator.random(num_images) < confidences**1.6
        numbers = np.minimum((confidences * 15).astype(int), 14)
        masks = [numbers == number for number in np.unique(numbers)]
        bins = [
            ReliabilityBin(float(confidences[mask].mean()), float(correct[mask].mean()), int(mask.sum()))
            for mask in masks
        ]
        error = sum(entry.count * abs(entry.confidence - entry.accuracy) for entry in bins) / num_images
        known = replace(step, calibration=tuple(bins), expected_calibration_error=error)
        steps.append(step if step.accuracy is None else known)
    return replace(results, steps=tuple(steps))


def make_confusion(results: RunResults, images_per_class: int = 1000) -> Confusion:
    """
    A confusion after the last step that gives its accuracies: within a step the first classes are easier, and mistakes
    go to the two classes that follow. Classes that were not measured have no images; there are at least three.
    """
    counts: dict[tuple[int, int], int] = {}
    num_classes = results.last.num_seen_classes
    for step, accuracy in zip(results.steps, results.last.accuracy_per_step, strict=True):
        for place in range(len(step.classes) if accuracy is not None else 0):
            label = step.num_seen_classes - len(step.classes) + place
            easier = 0.02 * min(1 - (accuracy or 0), 0.5) * (len(step.classes) - 1 - 2 * place)
            correct = round(images_per_class * ((accuracy or 0) + easier))
            mistakes = [
                (images_per_class - correct) // 3,
                images_per_class - correct - (images_per_class - correct) // 3,
            ]
            row = {label: correct} | {
                (label + 1 + offset) % num_classes: count for offset, count in enumerate(mistakes)
            }
            counts |= {(label, predicted): row[predicted] for predicted in sorted(row) if row[predicted]}
    return Confusion(counts)


def write_trained_files(folder: Path, results: RunResults, step: int) -> Path:
    """What training leaves for `hub`: every file of the step folder but card and figures."""
    folder.mkdir(parents=True)
    own = up_to_step(results, step)
    own.write(folder / "results.json")
    write_json(folder / "config.json", _config(own))
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "ViTImageProcessor"})
    weights = {"tokens": np.arange(8 * step, dtype=np.float32).reshape(step, 8)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "configuration_dytox.py").write_text('"""Stands for the configuration."""\n')
    (folder / "modeling_dytox.py").write_text("from .configuration_dytox import Configuration\n")
    recipe = {"dataset_name": results.dataset, "method": results.method, "num_epochs": 2}
    (folder / "training_config.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def _config(results: RunResults) -> dict[str, Any]:
    stops = [step.num_seen_classes for step in results.steps]
    return {
        "auto_map": {"AutoModelForImageClassification": "modeling_dytox.Model"},
        "class_ranges": [list(pair) for pair in zip([0, *stops], stops, strict=False)],
        "id2label": dict(enumerate(results.class_names)),
        "problem_type": "multi_label_classification",
    }


def write_run(
    output_dir: Path, results: RunResults | Mapping[str, Any] | None = None, *, hub_model_id: str | None = None
) -> Path:
    """`OUTPUT_DIR` of a finished run: `results.json` and the complete folders of the steps that it learned itself."""
    results = make_results() if results is None else results
    results = results if isinstance(results, RunResults) else RunResults.from_dict(results)
    for step in results.steps[results.first_own_step - 1 :]:
        add_card_and_figures(write_trained_files(output_dir / f"step{step.step}", results, step.step), hub_model_id)
    results.write(output_dir / "results.json")
    return output_dir


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as JSON in ASCII: escapes stand for what UTF-8 cannot hold."""
    path.write_text(json.dumps(content, indent=2))
