"""Bad input ends the script with one line and exit status 2, before anything is trained."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage


ROOT = Path(__file__).parents[3]
RECIPE = ["--config", str(ROOT / "training" / "recipes" / "digits.yaml")]
# Much too long to be waited for: whatever is not refused at once shows as a time-out.
ENDLESS = ["--num_epochs", "1000000"]

Refuse = Callable[..., str]

CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown data set folder": ("--dataset_name ./no/such/folder", ("--dataset_name ./no/such/folder", "existing")),
    "no data set": ("--dataset_name=", ("--dataset_name is missing", "digits")),
    "unknown image column": ("--image_column picture", ("--image_column picture", "it has image, label")),
    "unknown label column": ("--label_column fine", ("--label_column fine", "it has image, label")),
    "column without images": ("--image_column label", ("--image_column label", "name a column of images")),
    "unknown option": ("--memory_sice 3", ("--memory_sice", "did you mean --memory_size?")),
    "unknown word": ("digits", ("Unknown option digits", "--help")),
    "unknown method": ("--method icarl", ("--method 'icarl'", "choose one of dytox")),
    "unknown train split": ("--train_split learn", ("--train_split learn", "has train, test")),
    "unknown test split": ("--test_split exam", ("--test_split exam", "has train, test")),
    "unknown class": ("--class_order 0 1 2 3 4 5 6 7 8 nine", ("'nine'",)),
    "class named twice": ("--class_order 0 1 2 3 4 5 6 7 8 9 3", ("'3' more than once", "once")),
    "class order not complete": ("--class_order 0 1 2 3", ("misses 6 of 10", "'4'", "--num_classes N")),
    "unknown class order": ("--class_order alphabetical", ("--class_order alphabetical", "cifar100_order1")),
    "bad seed of a class order": ("--class_order seed:today", ("seed:today", "seed:1993")),
    "too large seed of a class order": ("--class_order seed:4294967296", ("seed:4294967296", "below 2**32")),
    "steps that do not divide": ("--classes_per_step 3", ("10 classes", "steps of 3", "change --classes_per_step")),
    "first step too large": ("--initial_classes 12", ("first step of 12", "--initial_classes")),
    "too many classes": ("--num_classes 11", ("--num_classes 11", "10 classes")),
    "memory too small": ("--memory_size 9", ("--memory_size 9", "at least 10")),
    "no repository": ("--push_to_hub", ("--push_to_hub", "--hub_model_id org/name")),
    "malformed repository": ("--push_to_hub --hub_model_id a/b/c", ("--hub_model_id", "'a/b/c'", "namespace/name")),
    "patches that do not fit": ("--image_size 18", ("--image_size 18", "--patch_size 4", "change one")),
    "heads that do not fit": ("--num_attention_heads 5", ("--hidden_size 64", "--num_attention_heads 5", "change")),
    "bad policy": ("--auto_augment rand-q9", ("--auto_augment 'rand-q9'", "or none")),
    "policy with an unknown part": ("--auto_augment rand-m9-mstd", ("--auto_augment 'rand-m9-mstd'", "or none")),
    "bad crop": ("--train_crop centre", ("--train_crop", "'centre'", "'pad', 'resize', 'none'")),
    "bad attention": ("--encoder_attention sparse", ("--encoder_attention", "'sparse'", "'gated', 'plain'")),
    "bad backend": ("--attn_implementation flash", ("--attn_implementation", "'flash'", "'sdpa', 'eager'")),
    "bad tracker": ("--report_to paper", ("--report_to", "'paper'", "'none'")),
    "bad boolean": ("--distillation perhaps", ("--distillation", "perhaps", "true/false")),
    "bad number": ("--num_epochs many", ("--num_epochs", "'many'", "int")),
    "fraction of an epoch": ("--num_epochs 0.5", ("--num_epochs", "'0.5'", "int")),
    "no value": ("--hub_model_id", ("--hub_model_id", "expected one argument")),
    "missing recipe": ("--config missing.yaml", ("--config missing.yaml", "training/recipes/")),
    "drop path of 1.5": ("--drop_path_rate 1.5", ("--drop_path_rate 1.5", "[0, 1)")),
    "drop path of 1": ("--drop_path_rate 1", ("--drop_path_rate 1.0", "[0, 1)")),
    "label smoothing of 2": ("--mixup_label_smoothing 2", ("--mixup_label_smoothing 2.0", "[0, 1)")),
    "temperature of 0": ("--distillation_temperature 0", ("--distillation_temperature 0.0", "greater than 0")),
    "learning rate that is no number": ("--learning_rate nan", ("--learning_rate nan", "finite")),
    "infinite learning rate": ("--learning_rate inf", ("--learning_rate inf", "finite")),
}
# Every other number has a lower bound: below it the value is refused with the bound.
BOUNDS = {
    1: (
        "classes_per_step initial_classes num_classes max_train_samples_per_class max_eval_samples_per_class "
        "image_size patch_size hidden_size num_hidden_layers num_task_attention_layers num_attention_heads "
        "intermediate_size num_epochs per_device_train_batch_size gradient_accumulation_steps "
        "per_device_eval_batch_size repeated_augmentation"
    ),
    0: (
        "finetuning_epochs finetuning_learning_rate memory_size divergence_weight mixup_alpha sam_rho learning_rate "
        "learning_rate_batch_size warmup_epochs warmup_learning_rate min_learning_rate weight_decay num_workers seed"
    ),
}
TOO_SMALL = [(name, bound) for bound, names in BOUNDS.items() for name in names.split()]


@pytest.fixture
def refuse(run_script: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Runs the script in an empty folder and returns the one line with which it ends; nothing else may come of it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*command_line: str) -> str:
        outcome = run_script(*ENDLESS, *command_line)
        assert outcome.status == 2
        (line,) = outcome.errors.splitlines()
        assert line.startswith("error: ")
        assert outcome.output == ""
        assert list(work.iterdir()) == []
        return line

    return run


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_with_what_to_do(refuse: Refuse, case: str) -> None:
    words, parts = CASES[case]
    line = refuse(*RECIPE, *words.split())
    for part in parts:
        assert part in line


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "bound"), TOO_SMALL)
def test_a_number_below_its_bound_is_refused_with_the_bound(refuse: Refuse, name: str, bound: int) -> None:
    line = refuse(*RECIPE, f"--{name}", str(bound - 1))
    assert f"--{name} {bound - 1}" in line
    assert f"must be at least {bound}." in line


def test_every_number_among_the_options_has_a_bound() -> None:
    from training.arguments import GROUPS

    numbers = {
        option
        for group in GROUPS
        for option, annotation in group.__annotations__.items()
        if str(annotation).removesuffix(" | None") in ("<class 'int'>", "<class 'float'>", "int", "float")
    }
    fractions = {"drop_path_rate", "mixup_label_smoothing", "distillation_temperature"}
    assert numbers == {name for name, _ in TOO_SMALL} | fractions


def test_an_option_that_the_recipe_misspells_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset_name: digits\nclass_per_step: 2\n")
    line = refuse("--config", str(recipe))
    assert f"class_per_step in {recipe}: did you mean --classes_per_step?" in line


def test_a_step_without_images_is_refused(
    refuse: Refuse, tmp_path: Path, marked_image: Callable[[int], PILImage.Image]
) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["ant", "bee", "cat"])})
    for split in ("train", "test"):
        rows = {"image": [marked_image(0), marked_image(1)], "label": [0, 2]}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    line = refuse("--dataset_name", str(tmp_path / "*.parquet").removesuffix("*.parquet"), "--classes_per_step", "1")
    assert "Class 'bee' has no training image" in line
    assert "--class_order" in line


@pytest.mark.parametrize("overwrite", [[], ["--overwrite_output_dir"]])
def test_an_output_folder_that_is_a_file_is_refused(refuse: Refuse, tmp_path: Path, overwrite: list[str]) -> None:
    (tmp_path / "file").write_text("mine")
    line = refuse(*RECIPE, "--output_dir", str(tmp_path / "file"), *overwrite)
    assert f"--output_dir {tmp_path / 'file'} cannot be written" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [[], ["--overwrite_output_dir"]])
def test_an_output_folder_of_something_else_is_refused(refuse: Refuse, tmp_path: Path, overwrite: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    line = refuse(*RECIPE, "--output_dir", str(tmp_path / "mine"), *overwrite)
    assert str(tmp_path / "mine") in line
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


# As a user runs it: from a shell, in a folder of their own.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--dataset_name", "nobody/no-such-data-set"], ("nobody/no-such-data-set", "cannot be loaded", "Hub id")),
        ([*RECIPE, "--auto_augment", "rand-q9", "--num_workers", "1"], ("--auto_augment 'rand-q9'", "or none")),
    ],
)
def test_the_script_itself_ends_with_one_line(tmp_path: Path, words: list[str], parts: tuple[str, ...]) -> None:
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, str(ROOT / "training" / "incremental.py"), *ENDLESS, *words, "--output_dir", "run"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()
