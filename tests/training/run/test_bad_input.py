"""Bad input ends the script with one line and exit status 2, before anything is trained."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.conftest import Outcome


ROOT = Path(__file__).parents[3]
RECIPE = ["--config", str(ROOT / "training" / "recipes" / "digits.yaml")]
# Too long to wait for: a value that is not refused at once shows as a time-out.
ENDLESS = ["--num_epochs", "1000000"]

CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "no data set": ("--dataset_name=", ("--dataset_name is missing", "digits")),
    "unknown data set folder": ("--dataset_name ./no/such/folder", ("--dataset_name ./no/such/folder", "existing")),
    "unknown label column": ("--label_column fine", ("--label_column fine", "it has image, label")),
    "unknown option": ("--memory_sice 3", ("--memory_sice", "did you mean --memory_size?")),
    "unknown word": ("digits", ("Unknown option digits", "--help")),
    "unknown method": ("--method magic", ("--method 'magic'", "choose one of dytox")),
    "class named twice": ("--class_order 0 1 2 3 4 5 6 7 8 9 3", ("'3' more than once", "once")),
    "steps of other classes": ("--classes_per_step 5 3", ("8 classes", "of the 10", "change the numbers")),
    "memory too small": ("--memory_size 9", ("--memory_size 9", "at least 10")),
    "no repository": ("--push_to_hub", ("--push_to_hub", "--hub_model_id org/name")),
    "updates beside copies": (
        "--updates_per_epoch 18 20 --repeated_augmentation 3",
        ("--updates_per_epoch 18 20: --repeated_augmentation 3 decides", "give one of them"),
    ),
    "one class for a softmax": (
        "--method replay --initial_classes 1",
        ("The first step has one class, which a softmax cannot learn from", "give --initial_classes 2 or more"),
    ),
    "margin under MixUp": (
        "--method ucir --mixup_alpha 0.8",
        ("--mixup_alpha 0.8 leaves no image of one class, which the margin of ucir needs", "give --ucir_margin 0"),
    ),
    "memory without model": ("--push_memory", ("--push_memory publishes beside the model", "add --push_to_hub")),
    "malformed repository": ("--push_to_hub --hub_model_id a/b/c", ("--hub_model_id", "'a/b/c'", "namespace/name")),
    "patches that do not fit": ("--image_size 18", ("--image_size 18", "--patch_size 4", "change one")),
    "heads that do not fit": ("--num_attention_heads 5", ("--hidden_size 64", "--num_attention_heads 5", "change")),
    "bad policy": ("--auto_augment rand-q9", ("--auto_augment 'rand-q9'", "or none")),
    "bad word": ("--encoder_attention sparse", ("--encoder_attention", "'sparse'", "'gated', 'plain'")),
    "bad boolean": ("--distillation perhaps", ("--distillation", "perhaps", "true/false")),
    "fraction of an epoch": ("--num_epochs 0.5", ("--num_epochs", "'0.5'", "int")),
    "bad number": ("--num_epochs many", ("--num_epochs", "'many'", "int")),
    "infinite number": ("--learning_rate inf", ("--learning_rate inf", "finite")),
    "no value": ("--hub_model_id", ("--hub_model_id", "expected one argument")),
    "missing recipe": ("--config missing.yaml", ("--config missing.yaml", "training/recipes/")),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_with_what_to_do(
    run_script: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    words, parts = CASES[case]
    monkeypatch.chdir(tmp_path)
    outcome = run_script(*ENDLESS, *RECIPE, *words.split())
    for part in parts:
        assert part in outcome.refusal
    assert outcome.errors.count("\n") == 1 and outcome.output == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_from_a_shell_in_another_folder_the_script_ends_with_one_line(tmp_path: Path) -> None:
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    words = ["--dataset_name", "nobody/no-such-data-set", "--output_dir", "run"]
    process = subprocess.run(
        [sys.executable, str(ROOT / "training" / "incremental.py"), *ENDLESS, *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    for part in ("nobody/no-such-data-set", "cannot be loaded", "Hub id"):
        assert part in line
    assert not (tmp_path / "run").exists()
