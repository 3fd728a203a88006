"""Where draws depend on how a batch is split, processes differ, but no more than seeds do."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_with_drop_path_and_mixup_processes_differ_no_more_than_seeds(
    nursery: Any, small_options: dict[str, object], tmp_path: Path
) -> None:
    options = small_options | {"drop_path_rate": 0.1, "mixup_alpha": 0.8, "num_classes": 4, "num_epochs": 12}
    averages = {}
    for seed, processes in itertools.product((0, 1, 2), (1, 2)):
        folder = tmp_path / f"{seed}_{processes}"
        run = options | {"seed": seed, "output_dir": folder, "per_device_train_batch_size": 24 // processes}
        nursery.complete(run, num_processes=processes)
        results = json.loads((folder / "results.json").read_text())
        averages[seed, processes] = results["average_incremental_accuracy"]
    between_processes = [abs(averages[seed, 1] - averages[seed, 2]) for seed in (0, 1, 2)]
    between_seeds = [
        abs(averages[one, processes] - averages[other, processes])
        for one, other in itertools.combinations((0, 1, 2), 2)
        for processes in (1, 2)
    ]
    # No process count is better on the whole, and none further off than seeds are from each other.
    assert max(between_processes) <= max(between_seeds)
    mean = {processes: sum(averages[seed, processes] for seed in (0, 1, 2)) / 3 for processes in (1, 2)}
    assert abs(mean[1] - mean[2]) <= max(between_seeds)
