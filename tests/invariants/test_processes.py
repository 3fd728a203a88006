"""One process and several give the same run at the same global batch; also stopped as a user would stop them."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.command_line import words
from tests.invariants.conftest import ENVIRONMENT
from tests.tiny_convnext import write_tiny_convnext
from tests.warm import ROOT
from tests.weights import load_weights
from training.methods import METHODS


pytestmark = pytest.mark.slow
Logged = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(nursery: Any, small_options: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run on one process, with eager attention, with accumulated batches, and on two machines."""
    folders = {name: tmp_path_factory.mktemp("runs") / name for name in ("one", "eager", "accumulated", "machines")}
    one, eager, accumulated, machines = (small_options | {"output_dir": folder} for folder in folders.values())
    nursery.complete(one | {"per_device_train_batch_size": 24})
    nursery.complete(eager | {"per_device_train_batch_size": 24, "attn_implementation": "eager"})
    nursery.complete(accumulated | {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 3})
    nursery.complete(machines | {"per_device_train_batch_size": 12}, machines=(ROOT, ROOT))
    return folders


def accuracies(folder: Path) -> list[float]:
    return [step["accuracy"] for step in json.loads((folder / "results.json").read_text())["steps"]]


def exemplars(folder: Path, step: int) -> set[int]:
    return set(pq.read_table(folder / "memory" / f"step{step}.parquet")["source_index"].to_pylist())


@pytest.mark.parametrize("other", ["eager", "accumulated", "machines"])
def test_losses_models_memories_and_accuracies_agree(runs: dict[str, Path], logged: Logged, other: str) -> None:
    ours, theirs = ([record for record in logged(runs[name]) if "learning_rate" in record] for name in ("one", other))
    for name in ("step", "phase", "epoch", "learning_rate"):
        assert [record[name] for record in ours] == [record[name] for record in theirs]
    first, others = ([record["loss"] for record in records if record["step"] == 1] for records in (ours, theirs))
    assert first == pytest.approx(others, abs=1e-4)
    assert accuracies(runs["one"]) == pytest.approx(accuracies(runs[other]), abs=0.02)
    for step in (1, 2, 3):
        mine, chosen = exemplars(runs["one"], step), exemplars(runs[other], step)
        assert len(mine) == len(chosen) and len(mine & chosen) >= 0.95 * len(mine)
    weights, other_weights = (load_file(runs[name] / "step1" / "model.safetensors") for name in ("one", other))
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, other_weights[name], atol=1e-3, rtol=1e-3)


def test_from_the_same_weights_exemplars_and_metrics_are_the_same(
    nursery: Any, small_options: dict[str, object], tmp_path: Path
) -> None:
    script = Path(__file__).with_name("same_weights.py")
    found = []
    for num_processes in (1, 3):
        # Batches of seven over three processes: neither images nor batches divide evenly.
        options = small_options | {"output_dir": tmp_path / str(num_processes), "per_device_eval_batch_size": 7}
        output = nursery.complete(options, num_processes=num_processes, script=script)
        found.append(json.loads((output / "found.json").read_text()))
    assert found[0] == found[1]
    for steps in found[0]:
        # A memory of 30 for 2, 4 and 6 classes.
        assert [len(set(step["exemplars"])) for step in steps] == [30, 28, 30]
        assert len({step["expected_calibration_error"] for step in steps}) == 3
    plain, augmented = ([step["exemplars"] for step in steps] for steps in found[0])
    assert plain != augmented, "augmented herding looks at other pixels"


def test_every_method_gives_the_same_run_on_one_process_and_on_two(
    nursery: Any, small_options: dict[str, object], logged: Logged, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("every_method.py")
    options = small_options | {"num_classes": 4, "num_epochs": 2, "finetuning_epochs": None}
    for num_processes in (1, 2):
        folder = tmp_path / str(num_processes)
        batch = {"per_device_train_batch_size": 24 // num_processes, "output_dir": folder}
        write_tiny_convnext(folder / "encoder")
        nursery.complete(options | batch, num_processes=num_processes, script=script)
    for method in METHODS:
        one, two = (tmp_path / str(number) / method for number in (1, 2))
        losses = [[record["loss"] for record in logged(folder) if "loss" in record] for folder in (one, two)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-3), method
        assert accuracies(one) == pytest.approx(accuracies(two), abs=0.02), method
        if METHODS[method].uses_memory:
            mine, chosen = exemplars(one, 2), exemplars(two, 2)
            assert len(mine & chosen) >= 0.9 * len(mine) == 0.9 * len(chosen), method
        weights, others = (load_weights(folder / "step2") for folder in (one, two))
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, others[name], atol=5e-3, rtol=1e-2, msg=f"{method}: {name}")


def test_two_processes_that_were_stopped_end_as_those_that_were_not(
    nursery: Any, small_options: dict[str, object], runs: dict[str, Path], logged: Logged, tmp_path: Path
) -> None:
    options = small_options | {"per_device_train_batch_size": 12, "output_dir": tmp_path / "run"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "training/incremental.py", *words(options)]
    streams: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    stopped = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **streams)
    while not any(record.get("phase") == "main" for record in logged(tmp_path / "run") if record["step"] == 2):
        assert stopped.poll() is None, stopped.communicate()[1]
        time.sleep(0.01)
    stopped.terminate()
    _, errors = stopped.communicate(timeout=60)
    assert errors.count("stopped by SIGTERM") == 2, errors[-3000:]
    nursery.complete(options, num_processes=2)
    found, expected = (
        [record for record in logged(folder) if "loss" in record] for folder in (tmp_path / "run", runs["machines"])
    )
    for name in ("loss", "step", "epoch", "learning_rate"):
        assert [record[name] for record in found] == pytest.approx([record[name] for record in expected])
    assert accuracies(tmp_path / "run") == pytest.approx(accuracies(runs["machines"]))
    assert exemplars(tmp_path / "run", 3) == exemplars(runs["machines"], 3)


def test_machines_with_folders_of_their_own_are_refused(
    nursery: Any, small_options: dict[str, object], tmp_path: Path
) -> None:
    # The same relative name, but another folder on each machine.
    machines = (tmp_path / "a", tmp_path / "b")
    for machine in machines:
        (machine / "out").mkdir(parents=True)
    nursery.start(small_options | {"output_dir": "out"}, machines=machines)
    for end in nursery.ends():
        assert end["status"] == 2 and "is not the same folder for every process" in end["errors"], end["errors"]
