"""Comparisons of variants over seeds, and the ablation, which is one: runs, resuming, the file, the table."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import ablation, methods
from modeling_dytox import DyToxConfig
from tests.command_line import words
from training.parsing import parse_arguments


# Name and folder of each row of the ablation, and the option that the next row switches on.
ROWS = [
    ("baseline", "0_baseline", "distillation"),
    ("+ distillation", "1_distillation", "finetuning_epochs"),
    ("+ finetuning", "2_finetuning", "token_expansion"),
    ("+ token expansion", "3_token_expansion", "divergence_weight"),
    ("+ divergence classifier", "4_divergence_classifier", "independent_classifiers"),
    ("+ independent classifiers (DyTox)", "5_independent_classifiers", None),
]
# Launched in place of Python: notes the command, then ends as a run of the script does, or as asked for a folder.
STAND_IN = """
import json, os, random, signal, subprocess, sys
from pathlib import Path

if sys.argv[1].endswith("machine.py"):
    sys.exit(print(json.dumps({{"processor": "P", "gpu": None, "torch": "2", "threads": 1, "processes": 2}})))
folder = Path(sys.argv[-1])
with Path("commands").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
ending = {endings}.get("/".join(folder.parts[-2:]))
if ending == "interrupt":
    os.kill(os.getppid(), signal.SIGINT)
if ending:
    status = subprocess.call([sys.executable, *sys.argv[1:]]) if ending == "learn" else 1
    sys.exit(status and print("error: no luck\\n  a line of the launcher", file=sys.stderr) or status)
first, last, lost, average, aware = (random.random() for _ in range(5))
steps = [{{"step": step, "classes": [f"{{step}}a", f"{{step}}b"], "num_seen_classes": 2 * step, "accuracy": accuracy,
    "accuracy_per_step": [accuracy] * step, "num_parameters": 1000 * step, "memory_size": 4 * step, "train_seconds": 1,
    "task_aware_accuracy": aware, "forgetting": loss, "backward_transfer": loss}}
    for step, accuracy, loss in ((1, first, None), (2, last, lost))]
(folder / "step2").mkdir(parents=True, exist_ok=True)
(folder / "results.json").write_text(json.dumps({{"dataset": os.getcwd(), "num_steps": 2, "seed": 0, "method": "m",
    "steps": steps, "average_incremental_accuracy": average, "last_accuracy": last, "forgetting": lost,
    "backward_transfer": lost, "code_version": "1"}}))
(folder / "step2" / "config.json").write_text(json.dumps({{"encoder_config": {{"model_type": "resnet"}}}}))
for number in (1, 2):
    (folder / "step2" / f"model-0000{{number}}-of-00002.safetensors").write_bytes(bytes(500_000))
"""


@pytest.fixture
def command_line(
    tiny_options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Options of tiny runs in the folder `rows`, launched by the stand-in; folders in `endings` end otherwise."""
    monkeypatch.chdir(tmp_path)

    options = words(tiny_options | {"num_classes": 4, "num_epochs": 1, "finetuning_epochs": None})

    def make(endings: dict[str, str] | None = None) -> list[str]:
        Path("stand_in.py").write_text(STAND_IN.format(endings=endings or {}))
        launch = f"'{sys.executable}' '{tmp_path / 'stand_in.py'}'"
        return [*options, "--launcher", launch, "--output_dir", "rows"]

    return make


@pytest.fixture
def compare(command_line: Callable[..., list[str]]) -> Callable[..., int]:
    """Compares `wa` and `wide` over two seeds, with more options; folders in `endings` end otherwise."""
    variants = ["--variants", "wa", "wide=der --hidden_size 32", "--seeds", "0", "1"]
    return lambda *more, endings=None: methods.main([*command_line(endings), *variants, *more])


def commands() -> list[list[str]]:
    """What was launched so far."""
    return [json.loads(line) for line in Path("commands").read_text().splitlines()]


def cells_of(table: str) -> list[list[str]]:
    """The cells of a table in Markdown, without its header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation in percent."""
    return f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}"


def test_variants_and_seeds_are_compared_and_finished_runs_are_read(
    compare: Callable[..., int], capfd: pytest.CaptureFixture[str], tmp_path: Path, root: Path
) -> None:
    Path("more.yaml").write_text("tiny: {method: finetune, learning_rate: 1.0e-4, classes_per_step: [1, 3]}")
    more = ["--variants_file", "more.yaml", "--figure", "figure.png", "--", "--task_aware_eval", "true"]
    assert compare(*more) == 0
    table = capfd.readouterr().out
    parsed = [parse_arguments(command[1:]) for command in commands()]
    names = ["wa", "wide", "tiny"]
    assert [each.output.output_dir for each in parsed] == [
        f"rows/{name}/seed{seed}" for seed in (0, 1) for name in names
    ]
    assert [each.method.method for each in parsed] == ["wa", "der", "finetune"] * 2
    assert [each.optimization.seed for each in parsed] == [0] * 3 + [1] * 3
    assert (parsed[1].model.hidden_size, parsed[2].data.classes_per_step) == (32, [1, 3])
    assert all(each.output.task_aware_eval for each in parsed)
    written: dict[str, Any] = json.loads(Path("rows", "results.json").read_text())
    for name, row in zip(names, cells_of(table), strict=True):
        runs = [json.loads(Path("rows", name, f"seed{seed}", "results.json").read_text()) for seed in (0, 1)]
        keys = ("average_incremental_accuracy", "last_accuracy", "forgetting")
        percents = [spread([run[key] for run in runs]) for key in keys]
        aware = spread([run["steps"][-1]["task_aware_accuracy"] for run in runs])
        assert row[:-2] == [name, "resnet", "8", "2", *percents, aware, "2,000", "1.00"]
        for seed, run in enumerate(runs):
            entry = written["variants"][name]["runs"][str(seed)]
            assert {key: entry[key] for key in keys} == {key: run[key] for key in keys}
            assert entry["accuracy"] == [step["accuracy"] for step in run["steps"]]
            assert (entry["threads"], entry["processes"], entry["weights_bytes"]) == (1, 2, 1_000_000)
            assert "training/incremental.py --dataset_name digits" in entry["command"] and entry["seconds"] > 0
            assert entry["cpu_seconds"] > 0
    text = Path("rows", "results.json").read_text()
    assert not any(str(path) in text for path in (tmp_path, root, Path.home(), Path(sys.executable).parent))
    assert Path("figure.png").read_bytes().startswith(b"\x89PNG")

    assert compare(*more) == 0 and capfd.readouterr().out == table and len(commands()) == 6
    shutil.move("rows/results.json", "kept.json")
    assert methods.main(["--table_only", "--results", "kept.json"]) == 0 and capfd.readouterr().out == table
    # Whether a folder of other options holds the same run, the script itself says.
    assert compare("--num_classes", "3") == 0 and len(commands()) == 10
    capfd.readouterr()
    assert compare("--results", "kept.json") == 2
    assert "kept.json holds runs with the options" in capfd.readouterr().err


def test_a_run_that_fails_is_named_and_its_row_says_so(
    compare: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare(endings={"wa/seed1": "fail"}) == 1
    captured = capfd.readouterr()
    assert captured.err.splitlines()[-1] == "failed: wa, seed 1: ended with status 1: error: no luck"
    results = json.loads(Path("rows/wa/seed0/results.json").read_text())
    (wa, wide) = cells_of(captured.out)
    assert wa[3:6] == [
        "1 of 2 seeds",
        *(f"{100 * results[key]:.2f}" for key in ("average_incremental_accuracy", "last_accuracy")),
    ]
    assert wide[3] == "2" and len(commands()) == 4
    # The same command again makes this run alone.
    assert compare() == 0 and len(commands()) == 5
    assert cells_of(capfd.readouterr().out)[0][3] == "2"
    # A run that fails now does not keep its old numbers.
    Path("rows/wa/seed0.run.json").unlink()
    assert compare(endings={"wa/seed0": "fail"}) == 1
    assert cells_of(capfd.readouterr().out)[0][3] == "1 of 2 seeds"
    assert compare(endings={"wa/seed0": "interrupt"}) == 130


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variants", "wb"], "wb, seed 0: --method 'wb' is unknown"),
        (
            ["--variants", "a=wa --memory_sise 3"],
            "a, seed 0: Unknown option --memory_sise: did you mean --memory_size?",
        ),
        (["--variants", "wa", "wa=--memory_size 3"], "Two variants have the name wa"),
        (["--variants", "../wa=wa"], "'../wa' is no name of a folder"),
        (["--variants", "wa='"], "cannot be read (No closing quotation)"),
        (["--variants_file", "stand_in.py"], "--variants_file stand_in.py "),
        (["--seeds", "1", "1"], "--seeds 1 1 has a seed twice"),
        (["--seed", "1"], "--seed differs from run to run"),
        (["--dry_run", "true"], "--dry_run makes no results"),
        (["--launcher", "no_such_program"], "--launcher no_such_program cannot be started"),
        (["--results", "stand_in.py/results.json"], "stand_in.py/results.json cannot be written"),
    ],
)
def test_what_makes_no_comparison_is_refused(
    more: list[str], message: str, compare: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare(*more) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and message in line
    assert not Path("commands").exists()


def test_the_numbers_of_the_first_page_are_those_of_the_file(root: Path) -> None:
    file = json.loads((root / "benchmarks" / "results" / "digits.json").read_text())["variants"]
    text = (root / "README.md").read_text().partition("## Results")[2]
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|(.*?)\|(.*?)\|(.*?)\|", text, re.MULTILINE)
    assert [name for name, *_ in rows] == list(file)
    for name, *cells in rows:
        runs = list(file[name]["runs"].values())
        for key, cell in zip(("average_incremental_accuracy", "last_accuracy", "forgetting"), cells, strict=False):
            values = [run[key] for run in runs]
            assert cell.strip() == (spread(values) if len(values) > 1 else f"{100 * values[0]:.2f}"), (name, key)
        assert {f"{run['num_parameters']:,}" for run in runs} == {cells[3].strip()}


def test_rows_of_the_ablation_go_from_the_baseline_to_dytox(
    command_line: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert ablation.main(command_line()) == 0
    table = capfd.readouterr().out
    written = json.loads(Path("rows", "ablation.json").read_text())["rows"]
    cells = cells_of(table)
    assert len(commands()) == len(written) == len(cells) == len(ROWS)
    for count, (name, folder, _) in enumerate(ROWS):
        script, *arguments = commands()[count]
        assert Path(script).name == "incremental.py"
        recipe = parse_arguments(arguments).recipe()
        assert [bool(recipe[option]) for _, _, option in ROWS[:5]] == [position < count for position in range(5)]
        results = json.loads(Path("rows", folder, "results.json").read_text())
        fractions = [results[key] for key in ("average_incremental_accuracy", "last_accuracy", "forgetting")]
        assert (written[count]["row"], written[count]["average_incremental_accuracy"]) == (name, fractions[0])
        switches = f"`{' '.join(written[count]['switches'])}`" if count < 5 else "none"
        assert cells[count] == [name, switches, *(f"{100 * fraction:.2f}" for fraction in fractions), "2,000"]
    assert ablation.main(command_line()) == 0
    assert capfd.readouterr().out == table and len(commands()) == len(ROWS)


def test_a_row_that_fails_is_named_and_those_before_are_kept(
    command_line: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert ablation.main(command_line({"rows/1_distillation": "interrupt"})) == 130
    assert ablation.main(command_line({"rows/2_finetuning": "fail"})) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith(
        "error: The row '+ finetuning' ended with status 1: error: no luck"
    )
    written = json.loads(Path("rows", "ablation.json").read_text())["rows"]
    assert [row["row"] for row in written] == ["baseline", "+ distillation"]


@pytest.mark.slow
def test_launched_as_a_file_a_row_is_a_run_of_the_script(command_line: Callable[..., list[str]], root: Path) -> None:
    script = root / "benchmarks" / "ablation.py"
    endings = {"rows/0_baseline": "learn", "rows/1_distillation": "fail"}
    done = subprocess.run([sys.executable, script, *command_line(endings)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (baseline,) = json.loads(Path("rows", "ablation.json").read_text())["rows"]
    results = json.loads(Path("rows", "0_baseline", "results.json").read_text())
    for name in ("average_incremental_accuracy", "last_accuracy", "forgetting"):
        assert baseline[name] == results[name]
    assert baseline["weights_bytes"] == Path("rows", "0_baseline", "step2", "model.safetensors").stat().st_size
    config = DyToxConfig.from_pretrained(Path("rows", "0_baseline", "step2"))
    assert (config.num_task_tokens, config.independent_classifiers, baseline["encoder"]) == (1, False, "own")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "der"], "--method der has no components of DyTox"),
        (["--distillation", "false"], "--distillation False leaves out the distillation in every row"),
        (["--push_to_hub", "true", "--hub_model_id", "a/b"], "--push_to_hub would publish every row to one"),
        (["--num_epoch", "3"], "did you mean --num_epochs?"),
        (["--output_dir", "stand_in.py"], "--output_dir stand_in.py cannot be written"),
    ],
)
def test_what_makes_no_ablation_is_refused(
    more: list[str], message: str, command_line: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert ablation.main([*command_line(), *more]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not Path("commands").exists() and not Path("rows").exists()


def test_the_readme_names_every_row_and_switch(root: Path) -> None:
    text = (root / "benchmarks" / "README.md").read_text()
    assert all(f"| {name} |" in text for name, _, _ in ROWS)
    assert all(f"`--{component.option} {component.off}`" in text for component in ablation.COMPONENTS)
