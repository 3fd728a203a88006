"""Run folders with every file a real one has, made in milliseconds: tiny weights, consistent config and results."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from hub.cards.model_card import complete_step_folder


# What a revision holds, but for what only some runs have.
STEP_FILES = {
    "README.md",
    "config.json",
    "configuration_dytox.py",
    "figures/accuracy_matrix.png",
    "figures/accuracy_per_step.png",
    "model.safetensors",
    "modeling_dytox.py",
    "preprocessor_config.json",
    "results.json",
    "training_config.yaml",
}
REMOTE_CODE = ("configuration_dytox.py", "modeling_dytox.py")


def fake_results(
    num_steps: int = 3,
    classes_per_step: int = 2,
    *,
    names: list[str] | None = None,
    seed: int = 0,
    dataset: str = "digits",
    method: str = "dytox",
) -> dict[str, Any]:
    """A whole run's `results.json`. Accuracies are random but keep the relations that real ones have."""
    names = names or [f"class {i}" for i in range(num_steps * classes_per_step)]
    generator = np.random.default_rng(seed)
    first = generator.uniform(0.75, 0.98, num_steps)
    decay = generator.uniform(0.01, 0.5 / num_steps, num_steps)
    steps = []
    for t in range(1, num_steps + 1):
        per_step = [max(0.05, float(first[j] - decay[j] * (t - 1 - j))) for j in range(t)]
        steps.append(
            {
                "step": t,
                "classes": names[(t - 1) * classes_per_step : t * classes_per_step],
                "num_seen_classes": t * classes_per_step,
                "accuracy": sum(per_step) / t,
                "top5_accuracy": min(1.0, sum(per_step) / t + 0.02),
                "accuracy_per_step": per_step,
                "expected_calibration_error": float(generator.uniform(0.01, 0.1)),
                "num_parameters": 10_000 + 500 * t,
                "memory_size": 20 * t,
                "train_seconds": float(generator.uniform(1, 9)),
            }
        )
    head = {"dataset": dataset, "num_steps": num_steps, "class_order": names, "seed": seed, "method": method}
    return up_to_step({**head, "steps": steps}, num_steps)


def with_calibration(results: dict[str, Any], num_images: int = 400) -> dict[str, Any]:
    """The same run with the bins of an overconfident model after each step, and the error that they give."""
    steps = []
    for row in results["steps"]:
        generator = np.random.default_rng([row["step"], results["seed"]])
        confidences = generator.beta(4, 1.2, num_images)
        correct = generator.random(num_images) < confidences**1.6
        held = np.minimum((confidences * 15).astype(int), 14)
        bins = [
            {
                "confidence": float(confidences[held == number].mean()),
                "accuracy": float(correct[held == number].mean()),
                "count": int((held == number).sum()),
            }
            for number in np.unique(held)
        ]
        gaps = [each["count"] / num_images * abs(each["confidence"] - each["accuracy"]) for each in bins]
        steps.append({**row, "calibration": bins, "expected_calibration_error": float(sum(gaps))})
    return {**results, "steps": steps}


def continued(
    results: dict[str, Any],
    *num_steps: int,
    model: str = "org/dytox-cifar100",
    dataset: str = "uoft-cs/cifar100",
    revision: str | None = None,
) -> dict[str, Any]:
    """
    The same run as one that continues models of so many steps, learned on other data sets: the first of these has no
    images in common with later ones, the others are told apart by their names alone.
    """
    names = [f"{text}-{i}" if i > 1 else text for i in range(1, len(num_steps) + 1) for text in (model, dataset)]
    ancestors = [
        {
            "model": name,
            "revision": revision or f"step{count}",
            "commit": "0a" * 20,
            "num_steps": count,
            "dataset": data,
        }
        for name, data, count in zip(names[::2], names[1::2], num_steps, strict=True)
    ]
    steps = []
    for row in results["steps"]:
        per_step = list(row["accuracy_per_step"])
        if row["step"] > num_steps[0]:
            per_step[: num_steps[0]] = [None] * num_steps[0]
        measured = [value for value in per_step if value is not None]
        mean = sum(measured) / len(measured)
        steps.append({**row, "accuracy_per_step": per_step, "accuracy": mean, "top5_accuracy": min(1.0, mean + 0.02)})
    return up_to_step({**results, "steps": steps, "ancestors": ancestors}, len(steps))


def up_to_step(results: dict[str, Any], step: int) -> dict[str, Any]:
    """The copy of `results` that belongs into the folder of `step`, its summary computed by numpy's own means."""
    steps = results["steps"][:step]
    matrix = np.full((step, step), np.nan)
    for i, row in enumerate(steps):
        matrix[i, : i + 1] = np.array(row["accuracy_per_step"], dtype=float)
    summary: dict[str, float | None] = {"forgetting": None, "backward_transfer": None}
    if np.isfinite(matrix[-1, :-1]).any():
        best_before = np.nanmax(matrix[:-1, :-1], axis=0)
        summary["forgetting"] = float(np.nanmean(best_before - matrix[-1, :-1]))
        summary["backward_transfer"] = float(np.nanmean(matrix[-1, :-1] - np.diag(matrix)[:-1]))
    summary["average_incremental_accuracy"] = float(np.mean([row["accuracy"] for row in steps]))
    summary["last_accuracy"] = steps[-1]["accuracy"]
    return {**results, "steps": steps, **summary}


def write_trained_files(folder: Path, results: dict[str, Any], step: int) -> Path:
    """What training leaves for `hub`: every file of the step folder but card and figures."""
    folder.mkdir(parents=True)
    own = up_to_step(results, step)
    write_json(folder / "config.json", _config(own))
    write_json(folder / "results.json", own)
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "ViTImageProcessor"})
    weights = {"task_tokens": np.arange(8 * step, dtype=np.float32).reshape(step, 8)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name in REMOTE_CODE:
        (folder / name).write_text(f'"""Stands for {name}."""\n')
    write_recipe(folder, results)
    return folder


def write_recipe(folder: Path, results: dict[str, Any]) -> None:
    """A `training_config.yaml` as training writes it."""
    recipe = {"dataset_name": results["dataset"], "method": results["method"], "num_epochs": 2}
    (folder / "training_config.yaml").write_text(yaml.safe_dump(recipe))


def _config(own: dict[str, Any]) -> dict[str, Any]:
    stops = [row["num_seen_classes"] for row in own["steps"]]
    names = [name for row in own["steps"] for name in row["classes"]]
    return {
        "model_type": "dytox",
        "class_ranges": [list(pair) for pair in zip([0, *stops], stops, strict=False)],
        "num_task_tokens": len(own["steps"]),
        "id2label": {str(label): name for label, name in enumerate(names)},
    }


def write_run(output_dir: Path, results: dict[str, Any] | None = None, *, hub_model_id: str | None = None) -> Path:
    """`OUTPUT_DIR` of a finished run: `results.json` and the complete folders of the steps that it learned itself."""
    results = results or fake_results()
    learned_before = max((each["num_steps"] for each in results.get("ancestors", [])), default=0)
    for row in results["steps"][learned_before:]:
        folder = write_trained_files(output_dir / f"step{row['step']}", results, row["step"])
        complete_step_folder(folder, hub_model_id)
    write_json(output_dir / "results.json", results)
    return output_dir


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` as UTF-8 JSON, names as they are unless UTF-8 cannot hold them."""
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
