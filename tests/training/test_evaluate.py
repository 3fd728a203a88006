"""Published steps measured again: the recorded numbers, from any source of the same images, on one process or two."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from transformers import pipeline

from tests.command_line import words as command_line
from tests.training.conftest import Outcome, train
from tests.warm import ranks, warm_python, without_hub_settings
from training import evaluate
from training.data.digits import load_digits_dataset
from training.data.examples import Examples
from training.loop.evaluation import Evaluation
from training.run.comparison import compare, conclusion
from training.run.predictions import file_names


# Numbers as names, in an order in which none is its own label id.
CLASSES = ["7", "2", "0", "9", "4", "1"]
NEW_CLASSES = ["5", "3", "8", "6"]
OPTIONS = {"dataset_name": "digits", "num_classes": 6, "class_order": CLASSES, "classes_per_step": 2}
OPTIONS |= {"max_train_samples_per_class": 30, "image_size": 8, "hidden_size": 32, "num_attention_heads": 4}
OPTIONS |= {"num_hidden_layers": 2, "method": "replay", "num_epochs": 10, "memory_size": 60, "auto_augment": "none"}
OPTIONS |= {"horizontal_flip": False, "train_crop": "none", "per_device_train_batch_size": 16, "learning_rate": 2e-3}
OPTIONS |= {"learning_rate_batch_size": 0, "num_workers": 0, "task_aware_eval": True}
STRING = Value("string")
RECORDED = [field.name for field in fields(Evaluation) if field.name != "measured_labels"]
Measure = Callable[..., dict[str, Any]]
WriteDigits = Callable[..., Path]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps that learned something: labels that are mixed up would not give the same numbers."""
    folder = train(OPTIONS | {"output_dir": tmp_path_factory.mktemp("runs") / "run"})
    last = recorded_in(folder, 3)
    assert recorded_in(folder, 1)["accuracy"] > 0.9 and last["task_aware_accuracy"] > last["accuracy"] > 0.6
    return folder


@pytest.fixture(scope="module")
def continued_step(run_folder: Path) -> Path:
    """Step 4, which a run learned and measured that had the images of four new classes alone."""
    new = {"num_classes": 4, "class_order": [*NEW_CLASSES, *CLASSES], "classes_per_step": None, "memory_size": 100}
    model = {"model_name_or_path": run_folder / "step3", "memory_name_or_path": "none"}
    return train(OPTIONS | new | model | {"output_dir": run_folder.parent / "more"}) / "step4"


@pytest.fixture
def measure(run_script: Callable[..., Outcome], tmp_path: Path) -> Measure:
    """What the script writes for these options, with what it prints as `lines`."""

    def run(*words: str, **options: Any) -> dict[str, Any]:
        chosen = {"dataset_name": "digits", "num_workers": 0, "output_file": tmp_path / "numbers.json"} | options
        outcome = run_script(*words, *command_line(chosen), main=evaluate.main)
        assert (outcome.status, outcome.errors) == (0, "")
        return read(tmp_path / "numbers.json") | {"lines": outcome.output.splitlines()}

    return run


@pytest.fixture
def refuse(run_script: Callable[..., Outcome], run_folder: Path) -> Callable[..., str]:
    """The one line with which the script refuses these options, changed from ones that it takes."""

    def run(**options: Any) -> str:
        chosen = {"model": run_folder / "step2", "dataset_name": "digits", "num_workers": 0} | options
        outcome = run_script(*command_line(chosen), main=evaluate.main)
        assert outcome.errors.count("\n") == 1 and outcome.output == ""
        return outcome.refusal

    return run


@pytest.fixture
def write_digits(tmp_path: Path) -> WriteDigits:
    """Writes the test digits of some classes as a Parquet file `test.parquet` in a folder, with labels of any kind."""

    def write(names: list[str], feature: Any = STRING, value_of: Callable[[str], Any] = str) -> Path:
        rows = [row for row in load_digits_dataset()["test"] if str(row["label"]) in names]
        columns = {"image": [row["image"] for row in rows], "label": [value_of(str(row["label"])) for row in rows]}
        folder = tmp_path / f"digits{len(names)}"
        folder.mkdir()
        features = Features({"image": Image(), "label": feature})
        Dataset.from_dict(columns, features=features).to_parquet(folder / "test.parquet")
        return folder

    return write


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def recorded_in(run_folder: Path, step: int) -> dict[str, Any]:
    entry: dict[str, Any] = read(run_folder / "results.json")["steps"][step - 1]
    return entry


def numbers_of(content: Any, path: str = "") -> dict[str, Any]:
    """The numbers that evaluations and results have in common, those of lists and of bins one by one."""
    if not path:
        content = {name: content.get(name) for name in RECORDED}
    if not isinstance(content, dict | list):
        return {path: content}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return {name: value for part, item in items for name, value in numbers_of(item, f"{path}/{part}").items()}


@pytest.mark.parametrize("step", [1, 3])
def test_the_recorded_numbers_are_found_again(measure: Measure, run_folder: Path, tmp_path: Path, step: int) -> None:
    (tmp_path / "numbers.json").write_text("of before")
    model, expected = run_folder / f"step{step}", recorded_in(run_folder, step)
    numbers = measure("--task_aware_eval", model=model, batch_size=16)
    assert numbers_of(numbers["measured"]) == pytest.approx(numbers_of(expected), abs=1e-6)
    assert numbers["recorded"]["accuracy_per_step"] == expected["accuracy_per_step"]
    assert numbers["agrees"] is True and (numbers["step"], numbers["dataset"]) == (step, "digits")
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]

    first, *rows, last = numbers["lines"]
    assert first.startswith(f"{model}: {2 * step} classes in {step} step(s), {numbers['num_images']} test images")
    table = {row[:32].strip(): row[32:].split() for row in rows[1:]}
    assert table["accuracy"] == [f"{expected['accuracy']:.2%}"] * 2 + ["agrees"]
    assert table[f"task-aware, classes of step {step}"][2] == "agrees"
    assert last == f"All {len(table)} recorded numbers agree within 1e-06."
    assert len(table) == 5 + 2 * step - (step == 1)
    # Only when it is asked for.
    assert measure(model=model)["measured"]["task_aware_accuracy"] is None


@pytest.mark.parametrize(
    ("names", "feature", "value_of"),
    [
        # Label ids of this data set are 0..5: none is the class of its number.
        (CLASSES, Value("int64"), int),
        (CLASSES, STRING, str),
        ([*"0123456789"], ClassLabel(names=[*"9876543210"]), str),
    ],
)
def test_classes_are_found_by_name_in_a_test_split_alone(
    measure: Measure, run_folder: Path, write_digits: WriteDigits, names: list[str], feature: Any, value_of: Any
) -> None:
    folder = write_digits(names, feature, value_of)
    numbers = measure("--task_aware_eval", model=run_folder / "step3", dataset_name=folder)
    assert numbers["agrees"] is True
    assert numbers_of(numbers["measured"]) == pytest.approx(numbers_of(recorded_in(run_folder, 3)), abs=1e-6)


def test_a_continued_step_is_measured_again_with_and_without_images_of_the_steps_before_it(
    measure: Measure, continued_step: Path, write_digits: WriteDigits
) -> None:
    numbers = measure("--task_aware_eval", model=continued_step, dataset_name=write_digits(NEW_CLASSES))
    expected = recorded_in(continued_step, 4)
    assert expected["accuracy"] is None
    assert expected["accuracy_per_step"] == [None, None, None, expected["accuracy_of_measured"]]
    assert numbers["agrees"] is True
    assert numbers_of(numbers["measured"]) == pytest.approx(numbers_of(expected), abs=1e-6)
    assert "10 classes in 4 step(s), " in numbers["lines"][0]
    assert numbers["lines"][1].startswith("Test images of 4 of 10 classes, predicted among all 10; none of 7, 2, 0, ")

    # Numbers over other classes stand beside no recorded ones.
    for dataset_name in ("digits", write_digits([*NEW_CLASSES, "7"])):
        numbers = measure(model=continued_step, dataset_name=dataset_name)
        assert numbers["agrees"] is True and numbers["recorded"]["accuracy_per_step"][:3] == [None] * 3
        per_step = numbers["measured"]["accuracy_per_step"]
        assert per_step[3] == pytest.approx(expected["accuracy_per_step"][3], abs=1e-6)
        assert numbers["lines"][-1].startswith("All 1 recorded numbers agree")


@pytest.mark.parametrize("names", [["7", "2", "9", "1"], ["9"]])
def test_images_of_some_classes_are_measured_among_all(
    measure: Measure, run_folder: Path, write_digits: WriteDigits, tmp_path: Path, names: list[str]
) -> None:
    table, model = tmp_path / "all.parquet", run_folder / "step3"
    measure(model=model, predictions_file=table)
    all_images = pd.read_parquet(table)
    some = all_images[all_images.true.isin(names)]
    numbers = measure("--task_aware_eval", model=model, dataset_name=write_digits(names))
    measured, missing = numbers["measured"], [name for name in CLASSES if name not in names]
    assert numbers["num_images"] == len(some) and measured["accuracy_of_measured"] == np.mean(
        some.true == some.predicted
    )
    over_all = {"accuracy", "top5_accuracy", "expected_calibration_error", "old_new_bias", "task_aware_accuracy"}
    assert {measured[name] for name in over_all} == {None}
    assert numbers["lines"][1] == (
        f"Test images of {len(names)} of 6 classes, predicted among all 6; none of {', '.join(missing)}"
    )
    # Of the first step both classes were measured, now and before: nothing else can be compared.
    if len(names) > 1:
        assert measured["accuracy_per_step"] == [recorded_in(run_folder, 3)["accuracy_per_step"][0], None, None]
        assert numbers["agrees"] is True and numbers["lines"][-1].startswith("All 2 recorded numbers agree")
    else:
        assert numbers["agrees"] is None
        assert numbers["lines"][-1] == "Nothing to compare with: the recorded numbers are over other classes."
    assert not any("differs" in line for line in numbers["lines"])


def test_a_model_none_of_whose_classes_has_an_image_is_refused(
    refuse: Callable[..., str], run_folder: Path, write_digits: WriteDigits, tmp_path: Path
) -> None:
    model = run_folder / "step3"
    line = refuse(model=model, dataset_name=write_digits(["5", "3"]))
    for part in ("no image of the 6 class(es)", "such as '7', but of 3, 5: ", "classes that the model has learned"):
        assert part in line
    model = shutil.copytree(model, tmp_path / "step3")
    config = read(model / "config.json")
    config["id2label"] |= {"1": "7"}
    (model / "config.json").write_text(json.dumps(config | {"label2id": {"7": 0}}))
    assert "two classes '7'" in refuse(model=model)


def test_other_images_and_tampered_numbers_show(measure: Measure, run_folder: Path, tmp_path: Path) -> None:
    numbers = measure(model=run_folder / "step3", max_eval_samples_per_class=5)
    assert numbers["agrees"] is False and numbers["num_images"] == 30
    assert "recorded numbers differ" in numbers["lines"][-1] and "training_config.yaml" in numbers["lines"][-1]

    model = shutil.copytree(run_folder / "step2", tmp_path / "step2")
    content = read(model / "results.json")
    content["steps"][1]["accuracy_per_step"][0] -= 0.001
    (model / "results.json").write_text(json.dumps(content))
    lines = measure(model=model)["lines"]
    (row,) = (line for line in lines if "differs" in line)
    assert row.startswith("accuracy, classes of step 1 ") and row.endswith("differs by +0.001000")
    assert "1 of 6 recorded numbers differ" in lines[-1]


@pytest.mark.parametrize("content", [None, "{", "STEP 1"])
def test_without_recorded_numbers_the_measured_ones_stand_alone(
    measure: Measure, run_folder: Path, tmp_path: Path, content: str | None
) -> None:
    model = shutil.copytree(run_folder / "step2", tmp_path / "step2")
    (model / "results.json").unlink()
    problem = {None: "cannot be read", "{": "is not JSON"}.get(content, f"results.json of {model} holds no step 2")
    if content == "STEP 1":
        shutil.copy(run_folder / "step1" / "results.json", model)
    elif content is not None:
        (model / "results.json").write_text(content)
    numbers = measure(model=model)
    assert numbers["lines"][-1].startswith("Nothing to compare with: ") and problem in numbers["lines"][-1]
    assert numbers["recorded"] is None and numbers["agrees"] is None
    assert numbers["measured"]["accuracy"] == pytest.approx(recorded_in(run_folder, 2)["accuracy"])


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("file", ["predictions.csv", "predictions.parquet"])
def test_predictions_are_those_of_the_pipeline(
    measure: Measure,
    run_folder: Path,
    write_image_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem_type: str,
    file: str,
) -> None:
    model = shutil.copytree(run_folder / "step3", tmp_path / "step3")
    config = read(model / "config.json")
    (model / "config.json").write_text(json.dumps(config | {"problem_type": problem_type}))
    rows = [row for row in load_digits_dataset()["test"] if str(row["label"]) in CLASSES][:40]
    images = {name: [row["image"] for row in rows if str(row["label"]) == name] for name in CLASSES}
    photos = write_image_folder({"test": images}, "my photos")
    monkeypatch.chdir(tmp_path)
    for dataset_name in (photos, "./my photos/"):
        measure(model=model, dataset_name=dataset_name, predictions_file=tmp_path / file, batch_size=7)
        text = dict.fromkeys(["file", "true", "predicted"], str)
        table = pd.read_csv(tmp_path / file, dtype=text) if file.endswith("csv") else pd.read_parquet(tmp_path / file)
        assert list(table) == [*text, *(f"score_{name}" for name in CLASSES)]
        assert sorted(table.file) == sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))

    classifier = pipeline("image-classification", model=str(model))
    for _, row in table.iterrows():
        answers = classifier(str(photos / row.file), top_k=len(CLASSES))
        assert row.true == Path(row.file).parent.name and row.predicted == answers[0]["label"]
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert {name: row[f"score_{name}"] for name in CLASSES} == pytest.approx(scores, abs=2e-6)


def test_no_image_is_named_by_its_place_on_this_machine(
    make_examples: Callable[..., Examples], tmp_path: Path
) -> None:
    names = {
        tmp_path / "a" / "rose" / "1.jpg": "rose/1.jpg",
        tmp_path / "b" / "rose" / "1.jpg": "1.jpg",
        "C:\\Users\\someone\\1.jpg": "1.jpg",
        "~/photos/1.jpg": "1.jpg",
        f"zip://rose/1.jpg::{tmp_path}/c.zip": "rose/1.jpg",
        "rose/1.jpg": "rose/1.jpg",
        None: "70",
    }
    rows = [{"bytes": b"", "path": None if path is None else str(path)} for path in names]
    images = Dataset.from_dict({"image": rows}, features=Features({"image": Image()}))
    examples = Examples(images, np.zeros(len(rows), dtype=np.int64), np.arange(10, 80, 10))
    assert file_names(examples, str(tmp_path / "a")) == list(names.values())


def test_numbers_that_were_not_recorded_are_told_apart() -> None:
    measured = Evaluation(0.5, 1.0, [0.5, 0.5], 0.1, 0.0, 0.75, [0.5, 1.0])
    of_before = {"accuracy": 0.5 + 9e-7, "accuracy_per_step": [0.5], "top5_accuracy": "many", "old_new_bias": None}
    metrics = compare(measured, of_before)
    agreeing = [metric.label for metric in metrics if metric.agrees]
    assert len(metrics) == 9 and agreeing == ["accuracy", "accuracy, classes of step 1"]
    assert conclusion(metrics) == "All 2 recorded numbers agree within 1e-06."
    assert conclusion(compare(measured, {})) == "Nothing was recorded to compare with."


CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no model": ({"model": ""}, ("--model is missing", "org/name")),
    "no data set": ({"dataset_name": ""}, ("--dataset_name is missing", "digits")),
    "missing folder": ({"model": "./step9"}, ("--model ./step9", "not a folder")),
    "a word": ({"model": "step9"}, ("--model step9", "org/name")),
    "a run": ({"model": "RUN"}, ("holds no model: name one of its steps, such as", "/run/step3")),
    "revision of a folder": ({"revision": "step1"}, ("--revision step1 has no meaning", "leave it out")),
    "revision of a run": ({"model": "RUN", "revision": "step1"}, ("name ", "/run/step1 instead")),
    "unknown option": ({"batchsize": 3}, ("--batchsize 3", "--help")),
    "batch of none": ({"batch_size": 0}, ("--batch_size 0 must be at least 1",)),
    "file in no folder": ({"output_file": "./no/such/file.json"}, ("--output_file", "existing folder")),
    "predictions as JSON": ({"predictions_file": "./a.json"}, ("--predictions_file ./a.json", ".parquet or .csv")),
    "predictions in no folder": ({"predictions_file": "./no/a.csv"}, ("--predictions_file", "existing folder")),
    "one file for both": (
        {"predictions_file": "./a.csv", "output_file": "a.csv"},
        ("--predictions_file ./a.csv is the --output_file as well",),
    ),
    "a folder for a file": ({"output_file": "RUN"}, ("--output_file", "is not a file")),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_with_what_to_do(refuse: Callable[..., str], run_folder: Path, case: str) -> None:
    options, parts = CASES[case]
    line = refuse(**{name: run_folder if value == "RUN" else value for name, value in options.items()})
    for part in parts:
        assert part in line


# As a user runs it: from a shell.


def environment(home: Path, **more: str) -> dict[str, str]:
    own = {"HF_HOME": str(home), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "NO_PROXY": "127.0.0.1"}
    return without_hub_settings() | own | more


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(measure: Measure, run_folder: Path, root: Path, tmp_path: Path) -> None:
    files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    alone = measure("--task_aware_eval", model=run_folder / "step3", batch_size=32, predictions_file=files[0])
    options = {"model": run_folder / "step3", "dataset_name": "digits", "num_workers": 0, "batch_size": 32}
    words = [*command_line(options), "--task_aware_eval", "--output_file", str(tmp_path / "two.json")]
    words += ["--predictions_file", str(files[1])]
    # As a file, whose folder Python would put first: there this script would hide the package `evaluate`.
    python = warm_python()
    places = ranks(environment(tmp_path / "home", HF_HUB_OFFLINE="1"), 2, root)
    python.start([str(root / "training" / "evaluate.py"), *words], *places)
    first, second = python.ends()
    assert (first["status"], second["status"]) == (0, 0), first["errors"][-3000:]
    assert numbers_of(read(tmp_path / "two.json")["measured"]) == pytest.approx(
        numbers_of(alone["measured"]), abs=1e-6
    )
    assert (first["output"].splitlines(), second["output"]) == (alone["lines"], ""), "one process reports"
    pd.testing.assert_frame_equal(*map(pd.read_parquet, files), atol=1e-6)


ON_THE_HUB = """
import json, sys
import pandas as pd
from transformers import pipeline
from hub.publish import main
from training import evaluate
from training.data.digits import load_digits_dataset

def measure(*words):
    sys.argv = ["evaluate", "--model", "org/tiny", "--dataset_name", "digits", "--num_workers", "0", *words]
    evaluate.main()

main([{run!r}, "--hub_model_id", "org/tiny"])
measure("--revision", "step2", "--predictions_file", {table!r})
measure()
classifier = pipeline("image-classification", model="org/tiny", revision="step2", trust_remote_code=True)
images = load_digits_dataset()["test"]
answers = [classifier(images[int(row)]["image"]) for row in pd.read_parquet({table!r}).file]
with open({answers!r}, "w") as file:
    json.dump(answers, file)
measure("--revision", "step9")
"""


@pytest.mark.slow
def test_a_revision_of_the_hub(run_folder: Path, root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hub.local_server", str(tmp_path / "hub")]
    server = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        settings = {"HF_ENDPOINT": server.stdout.readline().strip(), "HF_TOKEN": "hf_test", "PYTHONPATH": str(root)}
        table, answers = tmp_path / "predictions.parquet", tmp_path / "answers.json"
        script = ON_THE_HUB.format(run=str(run_folder), table=str(table), answers=str(answers))
        place = environment(tmp_path / "home", HF_HUB_DISABLE_XET="1", **settings)
        done = warm_python().run(["-c", script], root, place, timeout=500)
    finally:
        server.kill()
        server.wait()
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.splitlines()[-1].startswith("error: --model org/tiny at step9 does not exist on the Hub")
    for step, revision in ((2, " at step2"), (3, "")):
        _, found, output = done.stdout.partition(f"org/tiny{revision}: {2 * step} classes in {step} step(s)")
        assert found and f"All {4 + step} recorded numbers agree" in output
    rows = pd.read_parquet(table).to_dict("records")
    expected = json.loads(answers.read_text())
    assert len(rows) == len(expected) > 100
    for row, answer in zip(rows, expected, strict=True):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert row["predicted"] == answer[0]["label"]
        assert {name: row[f"score_{name}"] for name in CLASSES[:4]} == pytest.approx(scores, abs=2e-6)
