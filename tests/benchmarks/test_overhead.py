"""The watch on a training run: its parts add up, and the run is the same."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import overhead
from tests.command_line import words
from training import incremental


@pytest.mark.slow
def test_the_parts_add_up_and_the_run_is_as_ever(
    tiny_options: dict[str, object],
    run_content: Callable[[Path], dict[str, object]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = tiny_options | {"num_classes": 4}
    assert overhead.main(words(options | {"output_dir": tmp_path / "watched"})) == 0
    output = capsys.readouterr().out
    report = json.loads(output[output.index("{\n") :])
    wall, share = report.pop("wall_seconds"), report.pop("overhead")
    parts = (
        "waiting_for_images evaluation herding saving_states saving_steps preparation other forward_backward".split()
    )
    assert set(report) == {f"{part}_seconds" for part in parts}
    assert sum(report.values()) == pytest.approx(wall)
    assert all(seconds > 0 for seconds in report.values()), report
    assert share == pytest.approx(1 - report["forward_backward_seconds"] / wall)

    monkeypatch.setattr(sys, "argv", ["incremental.py", *words(options | {"output_dir": tmp_path / "unwatched"})])
    incremental.main()
    assert run_content(tmp_path / "watched") == run_content(tmp_path / "unwatched")


def test_bad_input_ends_it_as_it_ends_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main(["--dataset_name", "digits", "--num_epochs", "0"]) == 2
    assert "--num_epochs 0 must be at least 1" in capsys.readouterr().err
