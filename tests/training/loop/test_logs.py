"""What a run writes down: `log.jsonl`, and the same numbers to a tracker."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modeling_dytox import DyToxConfig, DyToxForImageClassification
from tests.command_line import words
from training.loop.logs import RunLog, token_distances


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def run(run_script: Callable[..., Any], tiny_options: dict[str, object], tmp_path: Path) -> Path:
    """A run of three steps that reports to TensorBoard."""
    options = tiny_options | {"output_dir": tmp_path / "run", "report_to": "tensorboard", "task_aware_eval": True}
    outcome = run_script(*words(options))
    assert outcome.status == 0, outcome.errors
    return tmp_path / "run"


def test_every_epoch_and_step_is_written_down_and_told_to_the_tracker(run: Path) -> None:
    records = records_of(run)
    epochs = [record for record in records if "epoch" in record]
    steps = [record for record in records if "epoch" not in record]
    assert len(epochs) == 2 + 3 + 3 and len(steps) == 3
    for epoch in epochs:
        terms = {name for name in epoch if name.startswith("loss/")}
        expected = {"loss/classification"}
        if epoch["step"] > 1 and epoch["phase"] == "main":
            expected |= {"loss/distillation", "loss/divergence"}
        assert terms == expected
        assert epoch["loss"] == pytest.approx(sum(epoch[name] for name in terms))
        assert epoch["learning_rate"] > 0 and epoch["images_per_second"] > 0
    assert "token_distance/mean" not in steps[0]
    for number, step in enumerate(steps[1:], start=2):
        assert 0 < step["token_distance/min"] <= step["token_distance/mean"] <= step["token_distance/max"]
        assert len(step["accuracy_per_step"]) == len(step["task_aware_accuracy_per_step"]) == number

    tracked = EventAccumulator(str(run / "tracker" / "dytox"))
    tracked.Reload()
    for name in ("loss/distillation", "learning_rate", "images_per_second", "token_distance/max", "accuracy"):
        expected = [(at, record[name]) for at, record in enumerate(records, start=1) if name in record]
        assert [(event.step, event.value) for event in tracked.Scalars(name)] == [
            (at, pytest.approx(value, rel=1e-5)) for at, value in expected
        ]
    last_of_first_step = tracked.Scalars("accuracy_per_step/1")[-1].value
    assert last_of_first_step == pytest.approx(steps[-1]["accuracy_per_step"][0])


def test_token_distances_are_those_of_all_pairs() -> None:
    config = DyToxConfig(image_size=8, hidden_size=8, num_attention_heads=2, class_ranges=[[0, 1], [1, 2], [2, 3]])
    model = DyToxForImageClassification(config)
    tokens = torch.cat(list(model.dytox.task_tokens)).double()
    distances = [(tokens[one] - tokens[other]).square().sum().sqrt().item() for one, other in ((0, 1), (0, 2), (1, 2))]
    found = token_distances(model)
    assert found["token_distance/mean"] == pytest.approx(sum(distances) / 3, rel=1e-5)
    assert found["token_distance/min"] == pytest.approx(min(distances), rel=1e-5)
    assert found["token_distance/max"] == pytest.approx(max(distances), rel=1e-5)


def test_a_log_goes_on_after_what_was_kept(tmp_path: Path) -> None:
    log = RunLog(Accelerator(), tmp_path)
    for step, epoch in ((1, 1), (1, 2), (2, 1), (2, 2)):
        log.write({"step": step, "epoch": epoch})
    with log.path.open("a") as file:
        file.write('{"step": 2, "ep')
    again = RunLog(Accelerator(), tmp_path)
    again.resume_after_record(3)
    again.write({"step": 2, "epoch": 20})
    assert [(record["step"], record["epoch"]) for record in records_of(tmp_path)] == [(1, 1), (1, 2), (2, 1), (2, 20)]
    again.resume_after_step(1)
    again.write({"step": 2, "epoch": 200})
    assert [(record["step"], record["epoch"]) for record in records_of(tmp_path)] == [(1, 1), (1, 2), (2, 200)]
