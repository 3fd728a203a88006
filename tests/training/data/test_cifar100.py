"""The script on real CIFAR-100, where the data set lies beside the project; it is not ours to ship."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import words


CIFAR100 = Path(__file__).parents[4] / "shared" / "data" / "cifar100"
DATA = (
    "--label_column fine_label --class_order cifar100_order1 --num_classes 20 --classes_per_step 5 --num_workers 1 "
    "--max_train_samples_per_class 60 --max_eval_samples_per_class 20 --memory_size 60 --auto_augment none"
)
MODEL = "--hidden_size 48 --num_attention_heads 4 --num_hidden_layers 2"
TRAINING = (
    "--num_epochs 8 --finetuning_epochs 1 --learning_rate 2e-3 --learning_rate_batch_size 0 "
    "--per_device_train_batch_size 32"
)


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR100.is_dir(), reason="CIFAR-100 is not beside the project")
def test_four_steps_of_five_classes(root: Path, tmp_path: Path) -> None:
    options = [
        *words({"dataset_name": CIFAR100, "output_dir": tmp_path / "run"}),
        *f"{DATA} {MODEL} {TRAINING}".split(),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "training/incremental.py", *options]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    # The first classes of order 1 by their names in the data set.
    assert results["steps"][0]["classes"] == ["television", "apple", "oak_tree", "pickup_truck", "lizard"]
    assert [step["num_seen_classes"] for step in results["steps"]] == [5, 10, 15, 20]
    assert results["steps"][0]["accuracy"] > 0.3
    assert str(CIFAR100.parent) not in (tmp_path / "run" / "step4" / "training_config.yaml").read_text()
