"""Published steps measured again: the recorded numbers, from any source of the same images, on one process or two."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, Image, Value
from safetensors.torch import load_file, save_file

from training import evaluate
from training.arguments import parse_arguments
from training.data.digits import load_digits_dataset
from training.evaluate import EvaluationArguments
from training.incremental import IncrementalRun
from training.loop.evaluation import Evaluation
from training.metrics.calibration import ReliabilityBin
from training.run.comparison import compare, conclusion


# Numbers as names, in an order in which none is its own label id.
CLASSES = ["7", "2", "0", "9", "4", "1"]
NEW_CLASSES = ["5", "3", "8", "6"]
OPTIONS = {
    "dataset_name": "digits",
    "num_classes": 6,
    "class_order": CLASSES,
    "classes_per_step": 2,
    "max_train_samples_per_class": 30,
    "image_size": 8,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "method": "replay",
    "num_epochs": 10,
    "memory_size": 60,
    "auto_augment": "none",
    "horizontal_flip": False,
    "train_crop": "none",
    "per_device_train_batch_size": 16,
    "learning_rate": 2e-3,
    "learning_rate_batch_size": 0,
    "num_workers": 0,
    "task_aware_eval": True,
}
Run = Callable[..., tuple[int, str, str]]
WriteDigits = Callable[..., Path]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps that learned something."""
    return learn(tmp_path_factory.mktemp("runs") / "run", OPTIONS)


@pytest.fixture(scope="module")
def continued_step(run_folder: Path) -> Path:
    """Step 4, which a run learned and measured that had the images of four new classes alone."""
    new = {"num_classes": 4, "class_order": [*NEW_CLASSES, *CLASSES], "classes_per_step": None, "memory_size": 100}
    model = {"model_name_or_path": run_folder / "step3", "memory_name_or_path": "none"}
    return learn(run_folder.parent / "more", OPTIONS | new | model) / "step4"


def learn(output_dir: Path, options: dict[str, Any]) -> Path:
    words: list[str] = []
    for name, value in (options | {"output_dir": output_dir}).items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    IncrementalRun(parse_arguments(words), Accelerator()).run()
    return output_dir


@pytest.fixture
def run_evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the script in this process with these options; gives exit status, output and errors."""

    def run(*words: str, **options: Any) -> tuple[int, str, str]:
        for name, value in ({"num_workers": 0} | options).items():
            words += (f"--{name}", str(value))
        monkeypatch.setattr(sys, "argv", ["training/evaluate.py", *words])
        capsys.readouterr()
        status: Any = 0
        try:
            evaluate.main()
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def refuse(run_evaluate: Run, run_folder: Path) -> Callable[..., str]:
    """The one line with which the script refuses these options, changed from ones that it takes."""

    def run(*words: str, **options: Any) -> str:
        status, output, errors = run_evaluate(
            *words, **({"model": run_folder / "step2", "dataset_name": "digits"} | options)
        )
        (line,) = errors.splitlines()
        assert (status, output) == (2, "") and line.startswith("error: ")
        return line

    return run


@pytest.fixture
def write_digits(tmp_path: Path) -> WriteDigits:
    """Writes the test digits of some classes as a Parquet file `test.parquet` in a folder, with labels of any kind."""

    def write(names: list[str], feature: Any, value_of: Callable[[str], Any]) -> Path:
        test = load_digits_dataset()["test"]
        rows = [row for row in test if str(row["label"]) in names]
        columns = {"image": [row["image"] for row in rows], "label": [value_of(str(row["label"])) for row in rows]}
        folder = tmp_path / "digits"
        folder.mkdir()
        features = Features({"image": Image(), "label": feature})
        Dataset.from_dict(columns, features=features).to_parquet(folder / "test.parquet")
        return folder

    return write


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def recorded_in(run_folder: Path, step: int) -> dict[str, Any]:
    entries = read(run_folder / "results.json")["steps"]
    return next(entry for entry in entries if entry["step"] == step)


def flat(numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers of an [`Evaluation`], those of lists one by one."""
    names = [field.name for field in fields(Evaluation)]
    lists = {name: numbers[name] if isinstance(numbers[name], list) else [numbers[name]] for name in names}
    places = {f"{name}/{place}": value for name, values in lists.items() for place, value in enumerate(values)}
    bins = {name: value for name, value in places.items() if isinstance(value, dict)}
    of_bins = {f"{name}/{key}": value for name, held in bins.items() for key, value in held.items()}
    return {name: value for name, value in places.items() if name not in bins} | of_bins


@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_recorded_numbers_are_found_again(run_evaluate: Run, run_folder: Path, tmp_path: Path, step: int) -> None:
    file = tmp_path / "numbers.json"
    file.write_text("of before")
    model = run_folder / f"step{step}"
    status, output, errors = run_evaluate(
        "--task_aware_eval", model=model, dataset_name="digits", batch_size=16, output_file=file
    )
    assert (status, errors) == (0, "")
    numbers = read(file)
    expected = recorded_in(run_folder, step)
    assert flat(numbers["measured"]) == pytest.approx(flat(expected), abs=1e-6)
    assert numbers["recorded"] == {name: expected[name] for name in numbers["measured"]}
    assert numbers["agrees"] is True and (numbers["step"], numbers["dataset"]) == (step, "digits")
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]
    measured = numbers["measured"]
    assert measured["task_aware_accuracy"] >= measured["accuracy"]
    assert (measured["old_new_bias"] is None) == (step == 1)

    first, *rows, last = output.splitlines()
    assert first.startswith(f"{model}: {2 * step} classes in {step} step(s), {numbers['num_images']} test images")
    table = {row[:32].strip(): row[32:].split() for row in rows[1:]}
    assert table["accuracy"] == [f"{expected['accuracy']:.2%}"] * 2 + ["agrees"]
    assert table[f"task-aware, classes of step {step}"][2] == "agrees"
    assert last == f"All {len(table)} recorded numbers agree within 1e-06."
    assert len(table) == 5 + 2 * step - (step == 1)


def test_the_run_learned_enough_to_tell_classes_apart(run_folder: Path) -> None:
    # Were labels mixed up, chance accuracies would agree with chance accuracies.
    assert recorded_in(run_folder, 1)["accuracy"] > 0.9
    assert recorded_in(run_folder, 3)["task_aware_accuracy"] > recorded_in(run_folder, 3)["accuracy"] > 0.6


def test_task_aware_numbers_only_when_asked(run_evaluate: Run, run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    _, output, _ = run_evaluate(model=run_folder / "step2", dataset_name="digits", output_file=file)
    assert "task-aware" not in output and read(file)["measured"]["task_aware_accuracy"] is None


@pytest.mark.parametrize(
    ("names", "feature", "value_of"),
    [
        # Label ids of this data set are 0..5: none is the class of its number.
        (sorted(CLASSES), Value("int64"), int),
        (sorted(CLASSES), Value("string"), str),
        ([str(digit) for digit in range(10)], ClassLabel(names=[*"9876543210"]), str),
    ],
)
def test_classes_are_found_by_name_in_a_test_split_alone(
    run_evaluate: Run,
    run_folder: Path,
    write_digits: WriteDigits,
    tmp_path: Path,
    names: list[str],
    feature: Any,
    value_of: Callable[[str], Any],
) -> None:
    folder = write_digits(names, feature, value_of)
    file = tmp_path / "numbers.json"
    status, _, errors = run_evaluate(
        "--task_aware_eval", model=run_folder / "step3", dataset_name=folder, output_file=file
    )
    assert (status, errors) == (0, "")
    assert read(file)["agrees"] is True
    assert flat(read(file)["measured"]) == pytest.approx(flat(recorded_in(run_folder, 3)), abs=1e-6)


@pytest.mark.parametrize("feature", [ClassLabel(names=[*"0123456789"]), Value("string")])
def test_a_class_without_images_is_named(
    refuse: Callable[..., str], run_folder: Path, write_digits: WriteDigits, feature: Any
) -> None:
    folder = write_digits(["7", "2", "9", "1"], feature, str)
    line = refuse(model=run_folder / "step3", dataset_name=folder)
    for part in ("no image of '0'", "2 such class(es)", "data set that the model has learned"):
        assert part in line


def test_a_continued_step_is_measured_again_without_images_of_the_steps_before_it(
    run_evaluate: Run, continued_step: Path, write_digits: WriteDigits, tmp_path: Path
) -> None:
    folder, file = write_digits(NEW_CLASSES, ClassLabel(names=[*"0123456789"]), str), tmp_path / "numbers.json"
    status, output, errors = run_evaluate(
        "--task_aware_eval", model=continued_step, dataset_name=folder, output_file=file
    )
    assert (status, errors) == (0, "")
    expected = recorded_in(continued_step, 4)
    assert expected["accuracy_per_step"] == [None, None, None, expected["accuracy"]]
    assert read(file)["agrees"] is True
    assert flat(read(file)["measured"]) == pytest.approx(flat(expected), abs=1e-6)
    assert "10 classes in 4 step(s), no image of those of step(s) 1, 2, 3, " in output.splitlines()[0]


def test_with_images_of_the_steps_before_it_their_numbers_stand_beside_no_recorded_ones(
    run_evaluate: Run, continued_step: Path, tmp_path: Path
) -> None:
    file = tmp_path / "numbers.json"
    status, output, _ = run_evaluate(model=continued_step, dataset_name="digits", output_file=file)
    numbers, expected = read(file), recorded_in(continued_step, 4)
    assert status == 0 and numbers["agrees"] is True and numbers["recorded"]["accuracy"] is None
    assert None not in numbers["measured"]["accuracy_per_step"]
    assert numbers["measured"]["accuracy_per_step"][3] == pytest.approx(expected["accuracy"], abs=1e-6)
    assert "no image" not in output and output.splitlines()[-1].startswith("All 1 recorded numbers agree")


def test_a_continued_step_needs_images_of_all_that_was_measured(
    refuse: Callable[..., str], continued_step: Path, write_digits: WriteDigits
) -> None:
    folder = write_digits(["5", "3", "8"], Value("string"), str)
    assert "no image of '6' (1 such class(es)" in refuse(model=continued_step, dataset_name=folder)


def test_a_record_that_is_no_list_excuses_nothing(
    refuse: Callable[..., str], continued_step: Path, write_digits: WriteDigits, tmp_path: Path
) -> None:
    model = shutil.copytree(continued_step, tmp_path / "step4")
    results = read(model / "results.json")
    results["steps"][-1]["accuracy_per_step"] = None
    (model / "results.json").write_text(json.dumps(results))
    folder = write_digits(NEW_CLASSES, Value("string"), str)
    assert "no image of '7'" in refuse(model=model, dataset_name=folder)


def test_two_classes_of_one_name_are_refused(refuse: Callable[..., str], run_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(run_folder / "step1", tmp_path / "step1")
    config = read(model / "config.json")
    config["id2label"] = {"0": "7", "1": "7"}
    (model / "config.json").write_text(json.dumps(config | {"label2id": {"7": 0}}))
    assert "two classes '7'" in refuse(model=model)


def test_other_images_give_other_numbers(run_evaluate: Run, run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    status, output, _ = run_evaluate(
        model=run_folder / "step3", dataset_name="digits", max_eval_samples_per_class=5, output_file=file
    )
    assert status == 0 and read(file)["agrees"] is False and read(file)["num_images"] == 30
    last = output.splitlines()[-1]
    assert "recorded numbers differ" in last and "training_config.yaml" in last


def test_a_number_that_was_tampered_with_shows(run_evaluate: Run, run_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(run_folder / "step2", tmp_path / "step2")
    content = read(model / "results.json")
    content["steps"][1]["accuracy_per_step"][0] -= 0.001
    (model / "results.json").write_text(json.dumps(content))
    _, output, _ = run_evaluate(model=model, dataset_name="digits")
    (row,) = (line for line in output.splitlines() if "differs" in line)
    assert row.startswith("accuracy, classes of step 1 ") and row.endswith("differs by +0.001000")
    assert "1 of 6 recorded numbers differ" in output


def test_without_recorded_numbers_the_measured_ones_stand_alone(
    run_evaluate: Run, run_folder: Path, tmp_path: Path
) -> None:
    model, file = shutil.copytree(run_folder / "step2", tmp_path / "step2"), tmp_path / "numbers.json"
    for content, part in ((None, "results.json"), ("{", "cannot be read"), ('{"steps": []}', "no step 2")):
        (model / "results.json").unlink(missing_ok=True)
        if content is not None:
            (model / "results.json").write_text(content)
        status, output, errors = run_evaluate(model=model, dataset_name="digits", output_file=file)
        last = output.splitlines()[-1]
        assert (status, errors) == (0, "") and last.startswith("Nothing to compare with: ") and part in last
        assert read(file)["recorded"] is None and read(file)["agrees"] is None
        assert read(file)["measured"]["accuracy"] == pytest.approx(recorded_in(run_folder, 2)["accuracy"])


def test_numbers_that_were_not_recorded_are_told_apart() -> None:
    bins: list[ReliabilityBin] = [{"confidence": 0.4, "accuracy": 0.5, "count": 20}]
    measured = Evaluation(0.5, 1.0, [0.5, 0.5], 0.1, 0.0, 0.75, [0.5, 1.0], bins)
    of_before = {"accuracy": 0.5 + 9e-7, "accuracy_per_step": [0.5], "top5_accuracy": "many", "old_new_bias": None}
    numbers = compare(measured, of_before)
    assert {number.label: number.agrees for number in numbers if number.agrees is not None} == {
        "accuracy": True,
        "accuracy, classes of step 1": True,
    }
    assert len(numbers) == 9 and conclusion(numbers) == "All 2 recorded numbers agree within 1e-06."
    assert conclusion(compare(measured, {})) == "Nothing was recorded to compare with."
    assert numbers[-1].row.split()[-2:] == ["not", "recorded"]


CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no model": ({"model": ""}, ("--model is missing", "org/name")),
    "no data set": ({"dataset_name": ""}, ("--dataset_name is missing", "digits")),
    "missing folder": ({"model": "./step9"}, ("--model ./step9", "no folder")),
    "a word": ({"model": "step9"}, ("--model step9", "org/name")),
    "unknown option": ({"batchsize": 3}, ("--batchsize 3", "--help")),
    "unknown data set": ({"dataset_name": "./nowhere"}, ("--dataset_name ./nowhere", "does not exist")),
    "unknown split": ({"test_split": "exam"}, ("--test_split exam", "train, test")),
    "unknown image column": ({"image_column": "picture"}, ("--image_column picture", "image, label")),
    "unknown label column": ({"label_column": "fine"}, ("--label_column fine", "image, label")),
    "batch of none": ({"batch_size": 0}, ("--batch_size 0", "at least 1")),
    "no samples": ({"max_eval_samples_per_class": 0}, ("--max_eval_samples_per_class 0", "at least 1")),
    "workers below none": ({"num_workers": -1}, ("--num_workers -1", "at least 0")),
    "fraction of a batch": ({"batch_size": 0.5}, ("--batch_size", "'0.5'", "int")),
    "file in no folder": ({"output_file": "./no/such/file.json"}, ("--output_file", "existing folder")),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_with_what_to_do(refuse: Callable[..., str], case: str) -> None:
    options, parts = CASES[case]
    line = refuse(**options)
    for part in parts:
        assert part in line


def test_folders_that_hold_no_step_are_named(refuse: Callable[..., str], run_folder: Path, tmp_path: Path) -> None:
    assert f"name one of its steps, such as {run_folder / 'step3'}" in refuse(model=run_folder)
    assert "holds no model: give the folder of a step" in refuse(model=tmp_path)
    assert "--revision step1 has no meaning" in refuse(revision="step1")
    assert f"name {run_folder / 'step1'} instead" in refuse(model=run_folder, revision="step1")
    assert "--output_file" in refuse(output_file=tmp_path)


def test_models_that_cannot_be_used_are_named(refuse: Callable[..., str], run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "vit"}')
    assert "is of type vit, expected dytox" in refuse(model=other)

    broken = shutil.copytree(run_folder / "step1", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = sorted(weights)[0]
    del weights[name]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    assert f"lacks 1 weights, {name} first" in refuse(model=broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    assert f"--model {broken} cannot be loaded" in refuse(model=broken)
    (broken / "config.json").write_text("{")
    assert f"--model {broken} cannot be loaded" in refuse(model=broken)


def test_help_explains_every_option_with_its_default(run_evaluate: Run) -> None:
    status, output, _ = run_evaluate("--help")
    explained = " ".join(output.split())
    assert status == 0
    for field in fields(EvaluationArguments):
        _, found, text = explained.partition(f" --{field.name} ")
        assert found and field.metadata["help"].split()[0] in text
        assert f"(default: {field.default})" in explained


# As a user runs it: from a shell.


def environment(home: Path, **more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_HOME": str(home), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return own | settings | {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"} | more


def run_python(words: list[str], root: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=root, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(run_folder: Path, root: Path, tmp_path: Path) -> None:
    options = ["--model", str(run_folder / "step3"), "--dataset_name", "digits", "--task_aware_eval"]
    options += ["--num_workers", "0", "--batch_size", "32"]
    env = environment(tmp_path / "home", HF_HUB_OFFLINE="1")
    outputs = {}
    # Once as a file, whose folder Python would put first, once as a module.
    for count, script in ((1, ["training/evaluate.py"]), (2, ["-m", "training.evaluate"])):
        launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        file = ["--output_file", str(tmp_path / f"{count}.json")]
        outputs[count] = run_python([*launcher, *script, *options, *file], root, env).stdout
    assert read(tmp_path / "1.json") == read(tmp_path / "2.json")
    assert read(tmp_path / "2.json")["agrees"] is True
    assert outputs[1] == outputs[2], "one process reports"


@pytest.mark.slow
def test_a_revision_of_the_hub(run_folder: Path, root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hub.local_server", str(tmp_path / "hub")]
    server = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        env = environment(tmp_path / "home", HF_ENDPOINT=server.stdout.readline().strip(), HF_TOKEN="hf_test")
        run_python(["hub.publish", str(run_folder), "--hub_model_id", "org/tiny"], root, env)
        words = ["training.evaluate", "--model", "org/tiny", "--dataset_name", "digits", "--num_workers", "0"]
        for revision, step in ((["--revision", "step2"], 2), ([], 3)):
            output = run_python([*words, *revision], root, env).stdout
            assert f"{2 * step} classes in {step} step(s)" in output
            assert f"All {4 + step} recorded numbers agree" in output.splitlines()[-1]
        refused = subprocess.run(
            [sys.executable, "-m", *words, "--revision", "step9"], cwd=root, env=env, capture_output=True, text=True
        )
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
        assert "--model org/tiny at step9 does not exist on the Hub" in refused.stderr
    finally:
        server.kill()
        server.wait()
