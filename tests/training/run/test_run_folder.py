"""The folder of a run: complete steps or none, one recipe, nothing deleted that is no run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoImageProcessor

from hub.run.errors import InputError
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from modeling_dytox.image_processing import make_image_processor
from training.arguments import Arguments
from training.run.results import Results, StepResults
from training.run.run_folder import RunFolder, publishable, recipe_of


Save = Callable[..., Path]
# Fingerprints of the images of a run.
DATA = {"training": "1a", "test": "2b"}
# Files of a run before its first step.
WRITTEN = {"training_config.yaml", "data_fingerprint.json", ".lock"}


class Killed(BaseException):
    """Stands for the end of the process."""


def results_after(step: int) -> Results:
    steps = [
        StepResults(number, [f"class{number}"], number, 0.5, 1.0, [0.5] * number, 0.1, 10, 4, 1.0)
        for number in range(1, step + 1)
    ]
    return Results("digits", 3, ["class1", "class2", "class3"], 0, "dytox", steps)


def nothing(folder: Path) -> None:
    """Adds nothing to the folder of a step."""


@pytest.fixture
def make_folder(tmp_path: Path, make_arguments: Callable[..., Arguments]) -> Callable[..., RunFolder]:
    """Makes the [`RunFolder`] of these options, always the same folder; the run before has ended."""
    made: list[RunFolder] = []

    def make(**options: Any) -> RunFolder:
        for before in made:
            before.close()
        made.append(RunFolder(tmp_path / "run", recipe_of(make_arguments(**options), 1, mixed_precision="no")))
        return made[-1]

    return make


@pytest.fixture
def save() -> Save:
    """Saves a step with a small model: `save(folder, step, finish)`."""
    config = DyToxConfig(
        image_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        class_ranges=[[0, 2]],
    )
    model = DyToxForImageClassification(config)

    def save(folder: RunFolder, step: int, finish: Callable[[Path], None] = nothing) -> Path:
        return folder.save_step(step, model, make_image_processor(8), results_after(step), finish)

    return save


def error_of(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_folder_holds_the_recipe_and_no_step(make_folder: Callable[..., RunFolder]) -> None:
    folder = make_folder(num_epochs=3)
    folder.open(DATA)
    assert folder.last_step() == 0
    assert {entry.name for entry in folder.path.iterdir()} == WRITTEN
    assert yaml.safe_load((folder.path / "training_config.yaml").read_text()) == folder.recipe
    assert folder.recipe["num_epochs"] == 3


def test_a_step_folder_loads_and_holds_what_finish_adds(make_folder: Callable[..., RunFolder], save: Save) -> None:
    folder = make_folder()
    folder.open(DATA)
    step_folder = save(folder, 1, lambda path: (path / "README.md").write_text("card") and None)
    assert step_folder == folder.path / "step1"
    assert (step_folder / "README.md").read_text() == "card"
    assert DyToxForImageClassification.from_pretrained(step_folder).num_labels == 2
    assert AutoImageProcessor.from_pretrained(step_folder).size == {"height": 8, "width": 8}
    assert folder.results_after(1) == results_after(1) == Results.read(folder.path / "results.json")
    assert folder.last_step() == 1
    assert {entry.name for entry in folder.path.iterdir()} == {"step1", "results.json"} | WRITTEN


@pytest.mark.parametrize("end", [Killed, OSError, KeyboardInterrupt])
def test_an_interrupted_step_leaves_no_step_folder_and_is_cleaned_up(
    make_folder: Callable[..., RunFolder], save: Save, end: type[BaseException]
) -> None:
    folder = make_folder()
    folder.open(DATA)
    save(folder, 1)
    at_the_end = []

    def killed(path: Path) -> None:
        at_the_end.append((folder.path / "step2").exists())
        raise end

    with pytest.raises(InputError if end is OSError else end):
        save(folder, 2, killed)
    assert at_the_end == [False]
    assert not (folder.path / "step2").exists()
    # What the run had measured is not ahead of its models.
    assert Results.read(folder.path / "results.json") == results_after(1)

    again = make_folder()
    again.open(DATA)
    assert again.last_step() == 1
    assert {entry.name for entry in again.path.iterdir()} == {"step1", "results.json"} | WRITTEN
    save(again, 2)
    assert again.last_step() == 2


def test_a_leftover_of_an_earlier_try_does_not_get_into_the_step(
    make_folder: Callable[..., RunFolder], save: Save
) -> None:
    folder = make_folder()
    folder.open(DATA)

    def killed(path: Path) -> None:
        (path / "half.txt").write_text("half")
        raise Killed

    with pytest.raises(Killed):
        save(folder, 1, killed)
    assert not (save(folder, 1) / "half.txt").exists()


def test_the_last_step_is_the_one_before_the_first_gap(make_folder: Callable[..., RunFolder], save: Save) -> None:
    folder = make_folder()
    folder.open(DATA)
    for step in (1, 2, 3, 4):
        save(folder, step)
    assert folder.last_step() == 4
    shutil.rmtree(folder.step_folder(3))
    assert folder.last_step() == 2
    # A folder without results is not complete.
    (folder.step_folder(2) / "results.json").unlink()
    assert folder.last_step() == 1


def test_steps_after_a_gap_are_replaced(make_folder: Callable[..., RunFolder], save: Save) -> None:
    folder = make_folder()
    folder.open(DATA)
    for step in (1, 2):
        save(folder, step, lambda path: (path / "README.md").write_text("old") and None)
    shutil.rmtree(folder.step_folder(1))
    for step in (1, 2):
        save(folder, step)
    assert folder.last_step() == 2
    assert not (folder.step_folder(2) / "README.md").exists()


def test_the_same_recipe_continues(make_folder: Callable[..., RunFolder], save: Save) -> None:
    folder = make_folder(seed=3)
    folder.open(DATA)
    save(folder, 1)
    again = make_folder(seed=3, num_workers=0, per_device_eval_batch_size=1)
    again.open(DATA)
    assert again.last_step() == 1


def test_another_recipe_is_refused_with_all_differences(make_folder: Callable[..., RunFolder], save: Save) -> None:
    folder = make_folder(seed=3)
    folder.open(DATA)
    save(folder, 1)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    message = error_of(make_folder(seed=4, num_epochs=2, class_order="seed:1").open, DATA)
    for difference in ("seed was 3, is 4", "num_epochs was 500, is 2", "class_order was None, is ['seed:1']"):
        assert difference in message
    assert "--overwrite_output_dir" in message
    assert "memory_size" not in message
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_of_batches_only_the_global_size_makes_the_recipe(
    make_folder: Callable[..., RunFolder], make_arguments: Callable[..., Arguments]
) -> None:
    folder = make_folder(per_device_train_batch_size=24)
    folder.open(DATA)
    folder.close()
    for batch_size, accumulation, num_processes in ((12, 2, 1), (12, 1, 2), (4, 3, 2)):
        arguments = make_arguments(per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation)
        RunFolder(folder.path, recipe_of(arguments, num_processes, "no")).open(DATA)
    of_two = RunFolder(
        folder.path, recipe_of(make_arguments(per_device_train_batch_size=24), num_processes=2, mixed_precision="no")
    )
    assert "24, is 48" in error_of(of_two.open, DATA)


def test_a_disk_that_fills_while_a_step_is_written_is_named_and_nothing_of_it_stays(
    make_folder: Callable[..., RunFolder], save: Save
) -> None:
    folder = make_folder()
    folder.open(DATA)
    save(folder, 1)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    message = error_of(save, folder, 2, full)
    assert f"{folder.path / 'step2'} cannot be written (No space left on device): make room" in message
    assert {entry.name for entry in folder.path.iterdir()} == {"step1", "results.json"} | WRITTEN


@pytest.mark.parametrize("split", ["training", "test"])
def test_other_data_are_refused_and_named(make_folder: Callable[..., RunFolder], save: Save, split: str) -> None:
    folder = make_folder()
    folder.open(DATA)
    save(folder, 1)
    message = error_of(folder.open, DATA | {split: "3c"})
    assert f"the {split} images or their labels have changed since" in message
    assert folder.last_step() == 1
    folder.open(DATA)
    folder.open(DATA | {split: "3c"}, overwrite=True)
    assert folder.last_step() == 0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"training": "1a"}', "null"])
def test_a_damaged_fingerprint_is_named(make_folder: Callable[..., RunFolder], save: Save, content: str) -> None:
    folder = make_folder()
    folder.open(DATA)
    (folder.path / "data_fingerprint.json").write_text(content)
    assert "data_fingerprint.json is damaged" in error_of(folder.open, DATA)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_in_use_is_refused_and_left_alone(
    make_folder: Callable[..., RunFolder], save: Save, overwrite: bool
) -> None:
    folder = make_folder()
    folder.open(DATA)
    save(folder, 1)
    (folder.path / ".step2.partial").mkdir()
    other = RunFolder(folder.path, folder.recipe)
    assert f"{folder.path} is in use by another run" in error_of(other.open, DATA, overwrite=overwrite)
    assert folder.last_step() == 1 and (folder.path / ".step2.partial").is_dir()
    folder.close()
    other.open(DATA, overwrite=overwrite)
    assert other.last_step() == (0 if overwrite else 1)


def test_overwrite_deletes_the_run(make_folder: Callable[..., RunFolder], save: Save) -> None:
    folder = make_folder(seed=3)
    folder.open(DATA)
    save(folder, 1)
    folder.memory_file(1).parent.mkdir()
    folder.memory_file(1).write_bytes(b"exemplars")
    (folder.path / "log.jsonl").write_text("{}\n")
    (folder.path / "notes.txt").write_text("mine")
    make_folder(seed=4).open(DATA, overwrite=True)
    # What the run did not write stays.
    assert {entry.name for entry in folder.path.iterdir()} == {"notes.txt"} | WRITTEN
    assert yaml.safe_load((folder.path / "training_config.yaml").read_text())["seed"] == 4


def test_overwrite_that_was_interrupted_goes_on(
    make_folder: Callable[..., RunFolder], save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    folder.open(DATA)
    for step in (1, 2, 3):
        save(folder, step)
    rmtree = shutil.rmtree
    deleted: list[Path] = []

    def killed_at_the_second(path: Path, **options: Any) -> None:
        if deleted:
            raise Killed
        deleted.append(path)
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", killed_at_the_second)
    with pytest.raises(Killed):
        folder.open(DATA, overwrite=True)
    monkeypatch.undo()
    folder.open(DATA, overwrite=True)
    assert folder.last_step() == 0
    assert {entry.name for entry in folder.path.iterdir()} == WRITTEN


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_left_alone(make_folder: Callable[..., RunFolder], overwrite: bool) -> None:
    folder = make_folder()
    # It looks like a run, but there is no recipe.
    (folder.path / "step1").mkdir(parents=True)
    (folder.path / "step1" / "thesis.tex").write_text("years of work")
    assert str(folder.path) in error_of(folder.open, DATA, overwrite=overwrite)
    assert (folder.path / "step1" / "thesis.tex").read_text() == "years of work"
    assert [entry.name for entry in folder.path.iterdir()] == ["step1"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_or_a_missing_folder_is_fine(make_folder: Callable[..., RunFolder], overwrite: bool) -> None:
    folder = make_folder()
    folder.open(DATA, overwrite=overwrite)
    shutil.rmtree(folder.path)
    folder.path.mkdir()
    folder.open(DATA, overwrite=overwrite)
    assert folder.last_step() == 0


def test_a_run_killed_while_it_wrote_its_recipe_starts_again(make_folder: Callable[..., RunFolder]) -> None:
    folder = make_folder()
    folder.path.mkdir()
    (folder.path / ".training_config.yaml.partial").write_text("dataset_name: dig")
    folder.open(DATA)
    assert {entry.name for entry in folder.path.iterdir()} == WRITTEN


@pytest.mark.parametrize("content", [b"", b"- a\n", b"a: [", b"\xff\xfe\x00"])
def test_a_damaged_recipe_is_named(make_folder: Callable[..., RunFolder], save: Save, content: bytes) -> None:
    folder = make_folder()
    folder.open(DATA)
    save(folder, 1)
    (folder.path / "training_config.yaml").write_bytes(content)
    assert "training_config.yaml is damaged" in error_of(folder.open, DATA)
    assert folder.last_step() == 1
    folder.open(DATA, overwrite=True)
    assert folder.last_step() == 0


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, make_arguments: Callable[..., Arguments], name: str, overwrite: bool
) -> None:
    (tmp_path / "file").write_text("no folder")
    folder = RunFolder(tmp_path / name, recipe_of(make_arguments(), num_processes=1, mixed_precision="no"))
    message = error_of(folder.open, DATA, overwrite=overwrite)
    assert f"--output_dir {tmp_path / name} cannot be written" in message
    assert (tmp_path / "file").read_text() == "no folder"


def test_the_published_recipe_tells_no_path_of_the_machine(
    tmp_path: Path, make_arguments: Callable[..., Arguments], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flowers").mkdir()
    (tmp_path / "order.txt").write_text("rose")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, published in (
        (tmp_path / "flowers", "flowers"),
        (tmp_path / "gone", "gone"),
        ("./flowers", "flowers"),
        ("~/flowers", "flowers"),
        ("~/gone", "gone"),
        (".", tmp_path.name),
        ("org/name", "org/name"),
        ("digits", "digits"),
    ):
        assert publishable(recipe_of(make_arguments(dataset_name=name), 1, "no"))["dataset_name"] == published
    for order, kept in (
        (tmp_path / "order.txt", ["order.txt"]),
        (tmp_path / "gone.txt", ["gone.txt"]),
        ("~/order.txt", ["order.txt"]),
        ("seed:1993", ["seed:1993"]),
        ("cifar100_order1", ["cifar100_order1"]),
        (["a", "b"], ["a", "b"]),
    ):
        assert publishable(recipe_of(make_arguments(class_order=order), 1, "no"))["class_order"] == kept
    assert publishable(recipe_of(make_arguments(), 1, "no"))["class_order"] is None


def test_a_step_folder_tells_no_path_of_the_machine(
    tmp_path: Path, make_arguments: Callable[..., Arguments], save: Save
) -> None:
    arguments = make_arguments(dataset_name=tmp_path / "flowers", class_order=tmp_path / "order.txt")
    folder = RunFolder(tmp_path / "run", recipe_of(arguments, 1, "no"))
    folder.open(DATA)
    step_folder = save(folder, 1)
    # The run itself remembers what it was asked for.
    assert str(tmp_path / "flowers") in (folder.path / "training_config.yaml").read_text()
    for path in step_folder.rglob("*"):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_a_run_of_another_precision_is_another_recipe(
    make_arguments: Callable[..., Arguments], tmp_path: Path
) -> None:
    RunFolder(tmp_path / "run", recipe_of(make_arguments(), 1, "no")).open(DATA)
    with pytest.raises(InputError, match="mixed_precision was no, is bf16"):
        RunFolder(tmp_path / "run", recipe_of(make_arguments(), 1, "bf16")).open(DATA)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_step_folder_is_named(make_folder: Callable[..., RunFolder], save: Save, file: str) -> None:
    folder = make_folder()
    folder.open(DATA)
    damaged = save(folder, 1) / file
    damaged.write_bytes(damaged.read_bytes()[:20])
    with pytest.raises(InputError, match="step1 cannot be loaded .* delete it to learn step 1 again"):
        folder.load_model(1, "sdpa")
