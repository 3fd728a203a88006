"""The ablation: six runs, one component more in each, as a table and as JSON."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import ablation
from modeling_dytox import DyToxConfig
from tests.command_line import words
from training.parsing import parse_arguments


# Name and folder of each row, and the option that the next row switches on.
ROWS = [
    ("baseline", "0_baseline", "distillation"),
    ("+ distillation", "1_distillation", "finetuning_epochs"),
    ("+ finetuning", "2_finetuning", "token_expansion"),
    ("+ token expansion", "3_token_expansion", "divergence_weight"),
    ("+ divergence classifier", "4_divergence_classifier", "independent_classifiers"),
    ("+ independent classifiers (DyTox)", "5_independent_classifiers", None),
]
# Launched in place of Python: notes the command, then ends as a run of the script does, or as asked for a row.
STAND_IN = """
import json, os, signal, subprocess, sys
from pathlib import Path

folder, row = Path(sys.argv[-1]), int(Path(sys.argv[-1]).name[0])
with Path("commands").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
ending = {endings}.get(row)
if ending == "interrupt":
    os.kill(os.getppid(), signal.SIGINT)
if ending:
    sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]) if ending == "learn" else 1)
folder.mkdir(parents=True, exist_ok=True)
results = {{"average_incremental_accuracy": row / 10, "last_accuracy": row / 20, "forgetting": row / 40}}
(folder / "results.json").write_text(json.dumps(results | {{"steps": [{{"num_parameters": 1000 + row}}]}}))
"""


@pytest.fixture
def command_line(
    tiny_options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Options of tiny runs in the folder `rows`, launched by the stand-in; rows in `endings` end otherwise."""
    monkeypatch.chdir(tmp_path)
    options = words(tiny_options | {"num_classes": 4, "num_epochs": 1})

    def make(endings: dict[int, str] | None = None) -> list[str]:
        Path("stand_in.py").write_text(STAND_IN.format(endings=endings or {}))
        launch = f"'{sys.executable}' '{tmp_path / 'stand_in.py'}'"
        return [*options, "--launcher", launch, "--output_dir", "rows"]

    return make


def test_rows_go_from_the_baseline_to_dytox(
    command_line: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert ablation.main(command_line()) == 0
    table = capfd.readouterr().out
    commands = [json.loads(line) for line in Path("commands").read_text().splitlines()]
    written = json.loads(Path("rows", "ablation.json").read_text())["rows"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(commands) == len(written) == len(cells) == len(ROWS)
    for count, (name, folder, _) in enumerate(ROWS):
        script, *arguments = commands[count]
        assert Path(script).name == "incremental.py"
        recipe = parse_arguments(arguments).recipe()
        assert [bool(recipe[option]) for _, _, option in ROWS[:5]] == [position < count for position in range(5)]
        assert parse_arguments(arguments).output.output_dir == f"rows/{folder}"
        assert (written[count]["row"], written[count]["average_incremental_accuracy"]) == (name, count / 10)
        switches = f"`{' '.join(written[count]['switches'])}`" if count < 5 else "none"
        percents = [f"{100 * count / parts:.2f}" for parts in (10, 20, 40)]
        assert cells[count] == [name, switches, *percents, f"{1000 + count:,}"]


def test_a_row_that_fails_is_named_and_those_before_are_kept(
    command_line: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert ablation.main(command_line({2: "fail"})) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("error: The row '+ finetuning' ended with status 1")
    written = json.loads(Path("rows", "ablation.json").read_text())["rows"]
    assert [row["row"] for row in written] == ["baseline", "+ distillation"]
    # The same command again repeats every row: each run finds by itself what it has learned.
    assert ablation.main(command_line()) == 0


def test_stopped_by_the_user(command_line: Callable[..., list[str]]) -> None:
    assert ablation.main(command_line({1: "interrupt"})) == 130
    assert [row["row"] for row in json.loads(Path("rows", "ablation.json").read_text())["rows"]] == ["baseline"]


@pytest.mark.slow
def test_launched_as_a_file_a_row_is_a_run_of_the_script(command_line: Callable[..., list[str]], root: Path) -> None:
    script = root / "benchmarks" / "ablation.py"
    done = subprocess.run(
        [sys.executable, script, *command_line({0: "learn", 1: "fail"})], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    (baseline,) = json.loads(Path("rows", "ablation.json").read_text())["rows"]
    results = json.loads(Path("rows", "0_baseline", "results.json").read_text())
    for name in ("average_incremental_accuracy", "last_accuracy", "forgetting"):
        assert baseline[name] == results[name]
    config = DyToxConfig.from_pretrained(Path("rows", "0_baseline", "step2"))
    assert (config.num_task_tokens, config.independent_classifiers) == (1, False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "der"], "--method der has no components of DyTox"),
        (["--distillation", "false"], "--distillation False leaves out the distillation in every row"),
        (["--divergence_weight", "0"], "--divergence_weight 0.0 leaves out the divergence classifier in every row"),
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
