"""The watch on a training run: its parts add up, and the run is the same."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import Accelerator

from benchmarks.overhead import TIMED, main
from tests.command_line import words
from training.arguments import parse_arguments
from training.incremental import IncrementalRun


def test_the_parts_add_up_and_the_run_is_as_ever(
    tiny_options: dict[str, object],
    run_content: Callable[[Path], dict[str, object]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = [getattr(owner, name) for _, owner, name in TIMED]
    options = tiny_options | {"num_classes": 4}
    assert main(words(options | {"output_dir": tmp_path / "watched"})) == 0
    output = capsys.readouterr().out
    report = json.loads(output[output.index("{\n") :])
    assert [getattr(owner, name) for _, owner, name in TIMED] == before
    wall, overhead = report.pop("wall_seconds"), report.pop("overhead")
    assert sum(report.values()) == pytest.approx(wall)
    assert all(seconds > 0 for seconds in report.values()), report
    assert overhead == pytest.approx(1 - report["forward_backward_seconds"] / wall)

    unwatched = parse_arguments(words(options | {"output_dir": tmp_path / "unwatched"}))
    IncrementalRun(unwatched, Accelerator()).run()
    assert run_content(tmp_path / "watched") == run_content(tmp_path / "unwatched")


def test_bad_input_ends_it_as_it_ends_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset_name", "digits", "--num_epochs", "0"]) == 2
    assert "--num_epochs 0 must be at least 1" in capsys.readouterr().err
