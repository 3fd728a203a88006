"""One process and two give the same run at the same global batch, launched as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file


# Both launches use one thread a process, so that sums are taken in the same order.
ENVIRONMENT = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def launch(root: Path, num_processes: int, options: dict[str, object]) -> Path:
    """Runs the script with `torchrun` and gives its output folder."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    command += [
        "training/incremental.py",
        *(part for name, value in options.items() for part in (f"--{name}", str(value))),
    ]
    done = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(str(options["output_dir"]))


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, object] = {
        "dataset_name": "digits",
        "num_classes": 6,
        "classes_per_step": 2,
        "max_train_samples_per_class": 30,
        "image_size": 8,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "drop_path_rate": 0.0,
        "num_epochs": 4,
        "finetuning_epochs": 2,
        "memory_size": 30,
        "learning_rate": 2e-3,
        "learning_rate_batch_size": 0,
        "num_workers": 0,
    }
    return {
        "one": launch(root, 1, options | {"per_device_train_batch_size": 24, "output_dir": folder / "one"}),
        "two": launch(root, 2, options | {"per_device_train_batch_size": 12, "output_dir": folder / "two"}),
        "accumulated": launch(
            root,
            1,
            options
            | {
                "per_device_train_batch_size": 8,
                "gradient_accumulation_steps": 3,
                "output_dir": folder / "accumulated",
            },
        ),
    }


def losses(folder: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record for record in records if "loss" in record]


@pytest.mark.slow
@pytest.mark.parametrize("other", ["two", "accumulated"])
def test_losses_agree_from_the_first_epoch(runs: dict[str, Path], other: str) -> None:
    ours, theirs = losses(runs["one"]), losses(runs[other])
    assert [(log["step"], log["phase"], log["epoch"]) for log in ours] == [
        (log["step"], log["phase"], log["epoch"]) for log in theirs
    ]
    for mine, other_log in zip(ours, theirs, strict=True):
        assert mine["learning_rate"] == other_log["learning_rate"]
        if mine["step"] == 1:
            assert mine["loss"] == pytest.approx(other_log["loss"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["two", "accumulated"])
def test_models_memories_and_accuracies_agree(runs: dict[str, Path], other: str) -> None:
    ours, theirs = (json.loads((runs[name] / "results.json").read_text()) for name in ("one", other))
    for mine, step in zip(ours["steps"], theirs["steps"], strict=True):
        assert abs(mine["accuracy"] - step["accuracy"]) <= 0.02
        assert mine["memory_size"] == step["memory_size"]
    memories = [
        set(pq.read_table(runs[name] / "memory" / "step3.parquet")["source_index"].to_pylist())
        for name in ("one", other)
    ]
    assert len(memories[0] & memories[1]) >= 0.95 * len(memories[0])
    weights, others = (load_file(runs[name] / "step1" / "model.safetensors") for name in ("one", other))
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_every_test_image_counts_once(runs: dict[str, Path]) -> None:
    results = json.loads((runs["two"] / "results.json").read_text())
    # Digits 0 and 1 have 36 test images each: accuracies are whole numbers of 72nds.
    correct = results["steps"][0]["accuracy"] * 72
    assert correct == pytest.approx(round(correct), abs=1e-9)
