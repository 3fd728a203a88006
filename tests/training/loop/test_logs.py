"""What a run writes down: `log.jsonl`, and the same numbers to a tracker."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.command_line import words
from training.loop.logs import RunLog


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_epoch_and_step_is_written_down_and_given_to_the_tracker(
    run_script: Callable[..., Any], tiny_options: dict[str, object], tmp_path: Path
) -> None:
    options = {"num_classes": 4, "output_dir": tmp_path, "report_to": "tensorboard", "task_aware_eval": True}
    outcome = run_script(*words(tiny_options | options))
    assert outcome.status == 0, outcome.errors
    records = records_of(tmp_path)
    places = [(record["step"], record.get("phase"), record.get("epoch")) for record in records]
    first = [(1, "main", 1), (1, "main", 2), (1, None, None)]
    assert places == [*first, (2, "main", 1), (2, "main", 2), (2, "finetuning", 1), (2, None, None)]
    for record in records:
        if record.get("phase"):
            terms = {name.removeprefix("loss/") for name in record if name.startswith("loss/")}
            is_second_main = (record["step"], record["phase"]) == (2, "main")
            assert terms == {"classification"} | ({"distillation", "divergence"} if is_second_main else set())
            assert record["loss"] == pytest.approx(sum(record[f"loss/{name}"] for name in terms))
            assert record["images_per_second"] > 0
        else:
            number = record["step"]
            assert len(record["accuracy_per_step"]) == len(record["task_aware_accuracy_per_step"]) == number

    tracked = EventAccumulator(str(tmp_path / "tracker" / "dytox"))
    tracked.Reload()
    for name in ("loss/distillation", "learning_rate", "images_per_second", "accuracy"):
        expected = [(at, record[name]) for at, record in enumerate(records, start=1) if name in record]
        assert [(event.step, event.value) for event in tracked.Scalars(name)] == [
            (at, pytest.approx(value, rel=1e-5)) for at, value in expected
        ]
    last_of_first_step = tracked.Scalars("accuracy_per_step/1")[-1].value
    assert last_of_first_step == pytest.approx(records[-1]["accuracy_per_step"][0])


def test_a_log_resumes_after_what_was_kept(tmp_path: Path) -> None:
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
    assert again.num_records == 3
