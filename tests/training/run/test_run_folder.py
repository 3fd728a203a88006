"""The folder of a run: finished steps or none, one recipe, one writer, nothing deleted that is no run."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor

from hub.run.errors import InputError
from hub.run.results import RunResults, StepResults
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from modeling_dytox.image_processing import make_image_processor
from training.arguments import Arguments
from training.parsing import REMOVED, RemovedOption, parse_arguments
from training.run.model_source import ModelSource
from training.run.recipe import recipe_of, without_local_paths
from training.run.results import with_metrics
from training.run.run_folder import RunFolder


MakeFolder = Callable[..., RunFolder]
Save = Callable[..., Path]
# Fingerprints of the images of a run.
DATA = {"training": "1a", "test": "2b"}
# Files of a run before its first step.
WRITTEN = {"training_config.yaml", "data_fingerprint.json", ".lock"}
EARLIER_RUN = Path(__file__).parents[2] / "fixtures" / "run_of_0_1_0.tar.gz"


class Killed(BaseException):
    """Stands for the end of the process."""


def results_after(step: int) -> RunResults:
    measured = {"accuracy": 0.5, "top5_accuracy": 1.0, "expected_calibration_error": 0.1, "num_parameters": 10}
    steps = [
        StepResults(step=n, classes=(f"class{n}",), num_seen_classes=n, accuracy_per_step=(0.5,) * n, **measured)
        for n in range(1, step + 1)
    ]
    names = tuple(f"class{n}" for n in range(1, 5))
    run = RunResults(dataset="digits", num_steps=4, class_order=names, seed=0, method="dytox", steps=tuple(steps))
    return with_metrics(run)


def content_of(folder: RunFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def names_in(folder: RunFolder) -> set[str]:
    return {entry.name for entry in folder.path.iterdir()}


def error_of(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def make_folder(tmp_path: Path, make_arguments: Callable[..., Arguments]) -> MakeFolder:
    """Makes the [`RunFolder`] of these options, always the same folder; the run before has ended."""
    made: list[RunFolder] = []

    def make(num_processes: int = 1, precision: str = "no", **options: Any) -> RunFolder:
        for before in made:
            before.close()
        recipe = recipe_of(make_arguments(**options), num_processes, mixed_precision=precision)
        made.append(RunFolder(tmp_path / "run", recipe))
        return made[-1]

    return make


@pytest.fixture
def folder(make_folder: MakeFolder) -> RunFolder:
    """The open folder of a run with default options."""
    folder = make_folder()
    folder.open(DATA)
    return folder


@pytest.fixture
def save() -> Save:
    """Saves a step with a small model: `save(folder, step, finish)`; returns its folder."""
    sizes = {"image_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DyToxForImageClassification(DyToxConfig(**sizes, intermediate_size=8, class_ranges=[[0, 2]]))

    def save(folder: RunFolder, step: int, finish: Callable[[Path], object] = lambda path: None) -> Path:
        folder.save_step(step, model, make_image_processor(8), results_after(step), finish)
        return folder.step_folder(step)

    return save


def test_a_new_folder_holds_the_recipe_and_a_finished_step_loads(make_folder: MakeFolder, save: Save) -> None:
    folder = make_folder(num_epochs=3)
    folder.open(DATA)
    assert folder.last_step() == 0 and names_in(folder) == WRITTEN
    assert yaml.safe_load((folder.path / "training_config.yaml").read_text()) == folder.recipe
    assert folder.recipe["num_epochs"] == 3

    step = save(folder, 1, lambda path: (path / "README.md").write_text("card"))
    assert step == folder.path / "step1" and (step / "README.md").read_text() == "card"
    assert DyToxForImageClassification.from_pretrained(step).num_labels == 2
    assert folder.load_model(1, "sdpa").num_labels == 2
    assert AutoImageProcessor.from_pretrained(step).size == {"height": 8, "width": 8}
    assert folder.results_after(1) == results_after(1) == RunResults.read(folder.path / "results.json")
    assert folder.last_step() == 1 and names_in(folder) == WRITTEN | {"step1", "results.json"}


@pytest.mark.parametrize("end", [Killed(), OSError(28, "No space left on device")], ids=["killed", "full disk"])
def test_an_interrupted_step_leaves_no_step_folder_and_nothing_for_the_next_try(
    make_folder: MakeFolder, folder: RunFolder, save: Save, end: BaseException
) -> None:
    save(folder, 1)

    def interrupted(path: Path) -> None:
        (path / "half.txt").write_text("half")
        assert not folder.step_folder(2).exists()
        raise end

    with pytest.raises(Killed if isinstance(end, Killed) else InputError) as caught:
        save(folder, 2, interrupted)
    if isinstance(end, OSError):
        assert f"{folder.path / 'step2'} cannot be written (No space left on device): " in str(caught.value)
        assert names_in(folder) == WRITTEN | {"step1", "results.json"}, "the disk is full"
    # What the run had measured is not ahead of its models.
    assert RunResults.read(folder.path / "results.json") == results_after(1)
    again = make_folder()
    again.open(DATA)
    assert again.last_step() == 1 and names_in(again) == WRITTEN | {"step1", "results.json"}
    assert not (save(again, 2) / "half.txt").exists() and again.last_step() == 2


def test_the_last_step_is_the_one_before_the_first_gap_and_steps_after_it_are_replaced(
    folder: RunFolder, save: Save
) -> None:
    for step in (1, 2, 3, 4):
        save(folder, step, lambda path: (path / "README.md").write_text("old"))
    assert folder.last_step() == 4
    shutil.rmtree(folder.step_folder(3))
    assert folder.last_step() == 2
    # A folder without results is not finished.
    (folder.step_folder(2) / "results.json").unlink()
    assert folder.last_step() == 1
    for step in (2, 3, 4):
        save(folder, step)
    assert folder.last_step() == 4 and not (folder.step_folder(4) / "README.md").exists()


def test_a_run_of_another_recipe_is_refused_with_all_differences(make_folder: MakeFolder, save: Save) -> None:
    folder = make_folder(seed=3, per_device_train_batch_size=24)
    folder.open(DATA)
    save(folder, 1)
    # Of batches only the global size counts.
    for batch_size, accumulation, num_processes in ((24, 1, 1), (12, 2, 1), (12, 1, 2), (4, 3, 2)):
        batches = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        again = make_folder(num_processes, seed=3, num_workers=0, per_device_eval_batch_size=1, **batches)
        again.open(DATA)
        assert again.last_step() == 1
    before = content_of(folder)
    changed = {"seed": 4, "class_order": "seed:1", "per_device_train_batch_size": 24}
    message = error_of(make_folder(2, "bf16", **changed).open, DATA)
    differences = (
        "class_order was None, is ['seed:1']; mixed_precision was no, is bf16; "
        "per_device_train_batch_size was 24, is 48; seed was 3, is 4"
    )
    assert f"holds a run of another recipe ({differences}): " in message and "--overwrite_output_dir" in message
    assert content_of(folder) == before


def test_a_recipe_of_an_earlier_version_is_continued(tmp_path: Path) -> None:
    with tarfile.open(EARLIER_RUN) as archive:
        archive.extractall(tmp_path, filter="data")
    recipe = tmp_path / "run" / "training_config.yaml"
    arguments = parse_arguments(["--config", str(recipe), "--output_dir", "elsewhere"])
    folder = RunFolder(tmp_path / "run", recipe_of(arguments, 1, "no"))
    assert folder.recipe == yaml.safe_load(recipe.read_text()) | folder.recipe
    folder.check_recipe()
    assert folder.last_step() == 2 and folder.results_after(2).last.num_seen_classes == 4


@pytest.mark.parametrize(
    ("lines", "options", "error"),
    [
        # An option that the recipe lacks was not there yet: it counts as its default.
        ({"sam_rho": ...}, {}, None),
        ({"sam_rho": ...}, {"sam_rho": 3}, "sam_rho was 0.0, is 3.0"),
        # One value or a list of it.
        ({"class_order": "seed:7", "num_epochs": [500]}, {"class_order": "seed:7"}, None),
        ({"class_order": ["a", "b"]}, {"class_order": "a"}, "class_order was ['a', 'b'], is ['a']"),
        ({"method": ...}, {}, None),
        ({"dataset_name": "photos/"}, {"dataset_name": "photos"}, None),
        # Earlier versions saved the options of DyTox for every method.
        ({"method": "replay"}, {"method": "replay"}, None),
        (
            {"method": "replay", "sam_rho": 2},
            {"method": "replay"},
            "sam_rho was 2, which --method replay no longer has",
        ),
        ({"finetuning_epochs": 5}, {"method": "der"}, "method was dytox, is der"),
        # Options that this version no longer has.
        ({"warm_restarts": 0}, {}, None),
        ({"warm_restarts": [0]}, {}, None),
        ({"warm_restarts": 2}, {}, "warm_restarts was 2, which this version no longer has: use --warmup_epochs."),
        ({"of_the_future": 0}, {}, "of_the_future was 0, which this version does not have"),
        ({3: 4}, {}, "3 was 4, which this version does not have"),
    ],
)
def test_recipes_of_other_versions(
    make_folder: MakeFolder, folder: RunFolder, monkeypatch: Any, lines: Any, options: Any, error: str | None
) -> None:
    monkeypatch.setitem(REMOVED, "warm_restarts", RemovedOption(0, "use --warmup_epochs."))
    recipe = {name: value for name, value in (folder.recipe | lines).items() if value is not ...}
    (folder.path / "training_config.yaml").write_text(yaml.safe_dump(recipe))
    now = make_folder(**options)
    if error is None:
        now.open(DATA)
    else:
        assert f"holds a run of another recipe ({error}): choose another" in error_of(now.open, DATA)


UNREADABLE = [
    *(("training_config.yaml", content) for content in (b"", b"- a\n", b"a: [", b"\xff\xfe\x00")),
    *(("data_fingerprint.json", content) for content in (b"", b"[]", b"{}", b'{"training": "1a"}', b"null")),
]


@pytest.mark.parametrize(("file", "content"), UNREADABLE)
def test_a_damaged_file_of_the_run_is_named(folder: RunFolder, save: Save, file: str, content: bytes) -> None:
    save(folder, 1)
    (folder.path / file).write_bytes(content)
    assert f"{file} is damaged" in error_of(folder.open, DATA)
    assert folder.last_step() == 1
    folder.open(DATA, overwrite=True)
    assert folder.last_step() == 0


@pytest.mark.parametrize("split", ["training", "test"])
def test_other_data_are_refused_and_named(folder: RunFolder, save: Save, split: str) -> None:
    save(folder, 1)
    message = error_of(folder.open, DATA | {split: "3c"})
    assert f"the {split} images or their labels have changed since" in message
    folder.open(DATA)
    assert folder.last_step() == 1
    folder.open(DATA | {split: "3c"}, overwrite=True)
    assert folder.last_step() == 0


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_in_use_is_refused_and_left_alone(folder: RunFolder, save: Save, overwrite: bool) -> None:
    save(folder, 1)
    (folder.path / ".step2.partial").mkdir()
    other = RunFolder(folder.path, folder.recipe)
    assert f"{folder.path} is in use by another run" in error_of(other.open, DATA, overwrite=overwrite)
    assert folder.last_step() == 1 and (folder.path / ".step2.partial").is_dir()
    folder.close()
    other.open(DATA, overwrite=overwrite)
    assert other.last_step() == (0 if overwrite else 1)


def test_overwrite_deletes_the_run_alone_and_can_be_interrupted(
    make_folder: MakeFolder, folder: RunFolder, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        save(folder, step)
    folder.memory_file(1).parent.mkdir()
    folder.memory_file(1).write_bytes(b"exemplars")
    (folder.path / "log.jsonl").write_text("{}\n")
    (folder.path / "notes.txt").write_text("mine")
    rmtree, deleted = shutil.rmtree, list[Path]()

    def killed_at_the_second(path: Path, **options: Any) -> None:
        if deleted:
            raise Killed
        deleted.append(path)
        rmtree(path, **options)

    other = make_folder(seed=4)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", killed_at_the_second)
        other.open(DATA, overwrite=True)
    other.open(DATA, overwrite=True)
    assert other.last_step() == 0 and names_in(other) == WRITTEN | {"notes.txt"}
    assert yaml.safe_load((folder.path / "training_config.yaml").read_text())["seed"] == 4


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_is_left_alone(make_folder: MakeFolder, tmp_path: Path, overwrite: bool) -> None:
    folder = make_folder()
    # It looks like a run, but there is no recipe.
    (folder.path / "step1").mkdir(parents=True)
    (folder.path / "step1" / "thesis.tex").write_text("years of work")
    before = content_of(folder)
    assert str(folder.path) in error_of(folder.open, DATA, overwrite=overwrite)
    assert content_of(folder) == before and names_in(folder) == {"step1"}

    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        message = error_of(RunFolder(path, folder.recipe).open, DATA, overwrite=overwrite)
        assert f"--output_dir {path} cannot be written" in message
    assert (tmp_path / "file").read_text() == "no folder"


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_and_one_of_a_run_killed_at_its_first_file_are_fine(
    make_folder: MakeFolder, overwrite: bool
) -> None:
    folder = make_folder()
    folder.path.mkdir()
    (folder.path / ".training_config.yaml.123.partial").write_text("dataset_name: dig")
    folder.open(DATA, overwrite=overwrite)
    assert folder.last_step() == 0 and names_in(folder) == WRITTEN


def test_the_published_recipe_has_no_path_of_the_machine(
    tmp_path: Path, make_arguments: Callable[..., Arguments], save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flowers").mkdir()
    (tmp_path / "order.txt").write_text("rose")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = {tmp_path / "flowers": "flowers", tmp_path / "gone": "gone", "./flowers": "flowers", ".": tmp_path.name}
    names |= {"~/flowers": "flowers", "~/gone": "gone", "org/name": "org/name", "digits": "digits"}
    for name, published in names.items():
        recipe = recipe_of(make_arguments(dataset_name=name), 1, "no")
        assert without_local_paths(recipe)["dataset_name"] == published and recipe["class_order"] is None
    orders = {tmp_path / "order.txt": "order.txt", tmp_path / "gone.txt": "gone.txt", "~/order.txt": "order.txt"}
    for order, kept in (orders | {"seed:1993": "seed:1993", "cifar100_order1": "cifar100_order1"}).items():
        assert without_local_paths(recipe_of(make_arguments(class_order=order), 1, "no"))["class_order"] == [kept]
    assert without_local_paths({"class_order": ["a", "b"]}) == {"class_order": ["a", "b"]}

    arguments = make_arguments(dataset_name=tmp_path / "flowers", class_order=tmp_path / "order.txt")
    folder = RunFolder(tmp_path / "run", recipe_of(arguments, 1, "no"))
    folder.open(DATA)
    step = save(folder, 1)
    # The run itself remembers what it was asked for.
    assert str(tmp_path / "flowers") in (folder.path / "training_config.yaml").read_text()
    assert not [path for path in step.rglob("*") if str(tmp_path).encode() in path.read_bytes()]


def edit_config(step: Path, **entries: Any) -> None:
    config = json.loads((step / "config.json").read_text())
    (step / "config.json").write_text(json.dumps(config | entries))


def edit_weights(step: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    weights = load_file(step / "model.safetensors")
    edit(weights)
    save_file(weights, step / "model.safetensors", {"format": "pt"})


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another architecture": (lambda step: edit_config(step, model_type="vit"), "is 'vit', expected 'dytox'"),
    "no code": (lambda step: (step / "modeling_dytox.py").unlink(), "modeling_dytox.py, which config.json names"),
    "other sizes": (lambda step: edit_config(step, hidden_size=16), "weights are of another shape than config.json"),
    "damaged sizes": (lambda step: edit_config(step, hidden_size="8"), "'hidden_size' expected int, got str"),
    "config cut off": (lambda step: (step / "config.json").write_text("{"), "config.json: "),
    "config of another kind": (lambda step: (step / "config.json").write_text("[]"), "config.json holds a list"),
    "weights cut off": (lambda step: (step / "model.safetensors").write_bytes(b"no weights"), "cannot be loaded ("),
    "weight missing": (lambda step: edit_weights(step, dict.popitem), "1 weights are missing, e.g. "),
    "weight too many": (
        lambda step: edit_weights(step, lambda weights: weights.update(spare=next(iter(weights.values())).clone())),
        "1 weights are not of this model, e.g. spare",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_folder_is_named(
    folder: RunFolder, save: Save, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    step = save(folder, 1)
    make, expected = DAMAGES[damage]
    make(step)
    capfd.readouterr()
    # The run's own, on resume; and one to continue or to measure again.
    own, other = error_of(folder.load_model, 1, "sdpa"), error_of(ModelSource(str(step)).load)
    assert own.startswith(f"{step} cannot be loaded (") and own.endswith("): delete it to learn step 1 again.")
    assert expected in own and expected in other and other.startswith(f"--model {step}")
    assert "REPORT" not in capfd.readouterr().err, "one line"
