"""One process and several give the same run at the same global batch, launched as a user would."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file


Launch = Callable[..., Path]


@pytest.fixture(scope="module")
def runs(launch: Launch) -> dict[str, Path]:
    return {
        "one": launch(1, per_device_train_batch_size=24),
        "two": launch(2, per_device_train_batch_size=12),
        "two machines": launch(2, per_device_train_batch_size=12, machines=True),
        "accumulated": launch(1, per_device_train_batch_size=8, gradient_accumulation_steps=3),
        "eager": launch(1, per_device_train_batch_size=24, attn_implementation="eager"),
    }


OTHERS = ["two", "two machines", "accumulated", "eager"]


def losses(folder: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record for record in records if "loss" in record]


def accuracies(folder: Path) -> list[float]:
    return [step["accuracy"] for step in json.loads((folder / "results.json").read_text())["steps"]]


def exemplars(folder: Path, step: int) -> set[int]:
    return set(pq.read_table(folder / "memory" / f"step{step}.parquet")["source_index"].to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS)
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
@pytest.mark.parametrize("other", OTHERS)
def test_models_memories_and_accuracies_agree(runs: dict[str, Path], other: str) -> None:
    for mine, theirs in zip(accuracies(runs["one"]), accuracies(runs[other]), strict=True):
        assert abs(mine - theirs) <= 0.02
    for step in (1, 2, 3):
        mine, theirs = exemplars(runs["one"], step), exemplars(runs[other], step)
        assert len(mine) == len(theirs) and len(mine & theirs) >= 0.95 * len(mine)
    weights, others = (load_file(runs[name] / "step1" / "model.safetensors") for name in ("one", other))
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_every_test_image_counts_once(runs: dict[str, Path]) -> None:
    # Digits 0 and 1 have 36 test images each: accuracies are whole numbers of 72nds.
    correct = accuracies(runs["two"])[0] * 72
    assert correct == pytest.approx(round(correct), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("augmented", [False, True])
def test_from_the_same_weights_exemplars_and_metrics_are_the_same(
    root: Path,
    environment: dict[str, str],
    small_options: dict[str, object],
    torchrun: Callable[..., list[str]],
    tmp_path: Path,
    augmented: bool,
) -> None:
    found = []
    for num_processes in (1, 2, 3):
        output = tmp_path / f"{num_processes}.json"
        # Batches of seven: neither images nor batches divide evenly among the processes.
        options = small_options | {"output_dir": tmp_path / "out", "per_device_eval_batch_size": 7}
        script = [str(Path(__file__).with_name("same_weights.py")), str(output)]
        command = torchrun(num_processes, *script, **options, augmented_herding=augmented)
        done = subprocess.run(
            command, cwd=root, env=environment | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(output.read_text()))
    assert found[0] == found[1] == found[2]
    # A memory of 30 for 2, 4 and 6 classes.
    assert [len(set(step["exemplars"])) for step in found[0]] == [30, 28, 30]
    assert len({step["expected_calibration_error"] for step in found[0]}) == 3


@pytest.mark.slow
def test_two_processes_broken_off_go_on_as_if_they_were_not(
    root: Path,
    environment: dict[str, str],
    small_options: dict[str, object],
    torchrun: Callable[..., list[str]],
    logged: Callable[[Path], list[tuple[object, ...]]],
    runs: dict[str, Path],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    options = small_options | {"per_device_train_batch_size": 12, "output_dir": output}
    command = torchrun(2, "training/incremental.py", **options)
    stopped = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not any(record[:2] == (2, "main") for record in logged(output)):
        assert stopped.poll() is None
        time.sleep(0.01)
    stopped.terminate()
    _, errors = stopped.communicate(timeout=60)
    assert errors.count("stopped by SIGTERM") == 2, errors[-3000:]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("loss", "step", "epoch", "learning_rate"):
        assert [log[name] for log in losses(output)] == pytest.approx([log[name] for log in losses(runs["two"])])
    assert accuracies(output) == pytest.approx(accuracies(runs["two"]))
    assert exemplars(output, 3) == exemplars(runs["two"], 3)


@pytest.mark.slow
def test_machines_with_folders_of_their_own_are_refused(
    root: Path,
    environment: dict[str, str],
    small_options: dict[str, object],
    on_two_machines: Callable,
    tmp_path: Path,
) -> None:
    # The same relative name, but another folder on each machine.
    started = []
    for name, command in zip(
        ("a", "b"), on_two_machines(str(root / "training/incremental.py"), **small_options), strict=True
    ):
        (tmp_path / name / "out").mkdir(parents=True)
        command += ["--output_dir", "out"]
        started.append(
            subprocess.Popen(
                command,
                cwd=tmp_path / name,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode != 0 and "is not the same folder for every process" in errors, errors[-3000:]
