"""The ablation: six runs, one component more in each, resumed by the same command, told as a table and as JSON."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml

from benchmarks import ablation
from modeling_dytox import DyToxConfig
from tests.command_line import words
from training import incremental


# A run of these takes about a second.
TINY: dict[str, object] = {"num_classes": 4, "num_epochs": 1}
SWITCHES = ["distillation", "finetuning_epochs", "token_expansion", "divergence_weight", "independent_classifiers"]
FOLDERS = [
    "0_baseline",
    "1_distillation",
    "2_finetuning",
    "3_token_expansion",
    "4_divergence_classifier",
    "5_independent_classifiers",
]


@pytest.fixture
def options(tiny_options: dict[str, object], tmp_path: Path) -> list[str]:
    """Options of tiny runs, some of them in a recipe."""
    merged = tiny_options | TINY
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({name: merged.pop(name) for name in ("hidden_size", "finetuning_epochs")}))
    return ["--config", str(recipe), *words(merged)]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the rows; they run in this process, which spares the time to start one."""
    started: list[list[str]] = []

    def launch(command: Sequence[str]) -> int:
        started.append(list(command))
        python, script, *arguments = command
        assert (python, Path(script)) == (sys.executable, Path(incremental.__file__))
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with redirect_stdout(sys.stderr):
            try:
                incremental.main()
            except SystemExit as end:
                return int(end.code or 0)
        return 0

    monkeypatch.setattr(ablation, "launch", launch)
    return started


def numbers_of(table: str) -> list[list[str]]:
    """The cells of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.slow
def test_rows_go_from_the_baseline_to_dytox_and_resume(
    options: list[str], commands: list[list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "ablation"
    command_line = [*options, "--output_dir", str(output_dir)]
    assert ablation.main(command_line) == 0
    table = capfd.readouterr().out
    assert [command[-1] for command in commands] == [str(output_dir / folder) for folder in FOLDERS]

    written = json.loads((output_dir / "ablation.json").read_text())
    assert written["options"] == options
    rows = written["rows"]
    assert [row["row"] for row in rows] == [
        "baseline",
        "+ distillation",
        "+ finetuning",
        "+ token expansion",
        "+ divergence classifier",
        "+ independent classifiers (DyTox)",
    ]
    for count, (row, folder, cells) in enumerate(zip(rows, FOLDERS, numbers_of(table), strict=True)):
        recipe = yaml.safe_load((output_dir / folder / "training_config.yaml").read_text())
        # The options of the full method are those of the recipe, else of the defaults.
        assert [bool(recipe[name]) for name in SWITCHES] == [position < count for position in range(5)]
        results = json.loads((output_dir / folder / "results.json").read_text())
        summary = [results[name] for name in ("average_incremental_accuracy", "last_accuracy", "forgetting")]
        assert [row["average_incremental_accuracy"], row["last_accuracy"], row["forgetting"]] == summary
        assert row["num_parameters"] == results["steps"][-1]["num_parameters"]
        assert cells == [
            row["row"],
            f"`{' '.join(row['switches'])}`" if count < 5 else "none",
            *(f"{100 * value:.2f}" for value in summary),
            f"{row['num_parameters']:,}",
        ]
        config = DyToxConfig.from_pretrained(output_dir / folder / "step2")
        assert (config.token_expansion, config.independent_classifiers) == (count >= 3, count == 5)

    models = sorted((path, path.stat().st_mtime_ns) for path in output_dir.rglob("*.safetensors"))
    assert len(models) == 12
    assert ablation.main(command_line) == 0
    assert capfd.readouterr().out == table
    assert sorted((path, path.stat().st_mtime_ns) for path in output_dir.rglob("*.safetensors")) == models


def test_a_row_is_a_run_of_the_script(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first_row = ablation.ablation_rows()[:1]
    monkeypatch.setattr(ablation, "ablation_rows", lambda: first_row)
    (baseline,) = ablation.run_ablation(options, tmp_path, [sys.executable])
    assert baseline.row == "baseline" and 0 <= baseline.last_accuracy <= 1
    assert DyToxConfig.from_pretrained(tmp_path / "0_baseline" / "step2").num_task_tokens == 1


def test_a_row_that_fails_is_named_and_those_before_are_kept(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = {"average_incremental_accuracy": 0.5, "last_accuracy": 0.25, "forgetting": 0.125}

    def launch(command: Sequence[str]) -> int:
        folder = Path(command[-1])
        if folder.name.startswith("2"):
            return 1
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results | {"steps": [{"num_parameters": 7}]}))
        return 0

    monkeypatch.setattr(ablation, "launch", launch)
    assert ablation.main([*options, "--output_dir", str(tmp_path / "ablation")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("error: The row '+ finetuning' ended with status 1")
    written = json.loads((tmp_path / "ablation" / "ablation.json").read_text())
    assert [row["row"] for row in written["rows"]] == ["baseline", "+ distillation"]


def test_stopped_by_the_user(options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def launch(command: Sequence[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "launch", launch)
    assert ablation.main([*options, "--output_dir", str(tmp_path / "ablation")]) == 130


def test_the_launcher_starts_each_row(options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[Sequence[str]] = []
    monkeypatch.setattr(ablation, "launch", lambda command: commands.append(command) or 1)  # type: ignore[func-returns-value]
    launcher = ["--launcher", "accelerate launch --num_processes 2", "--output_dir", str(tmp_path / "ablation")]
    assert ablation.main([*options, *launcher]) == 2
    (command,) = commands
    assert command[:5] == ["accelerate", "launch", "--num_processes", "2", str(ablation.SCRIPT)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "replay"], "--method replay has no components of DyTox"),
        (["--distillation", "false"], "--distillation False leaves out the distillation in every row"),
        (["--divergence_weight", "0"], "--divergence_weight 0.0 leaves out the divergence classifier in every row"),
        (
            ["--push_to_hub", "true", "--hub_model_id", "a/b"],
            "--push_to_hub would publish every row to one repository",
        ),
        (["--num_epoch", "3"], "did you mean --num_epochs?"),
    ],
)
def test_options_that_make_no_ablation_are_refused(
    words: list[str],
    message: str,
    options: list[str],
    commands: list[list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ablation.main([*options, *words, "--output_dir", str(tmp_path / "ablation")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert commands == [] and not (tmp_path / "ablation").exists()


def test_a_folder_that_cannot_be_made_is_named(
    options: list[str], commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert ablation.main([*options, "--output_dir", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output_dir {tmp_path / 'file'} cannot be written")
    assert commands == []


def test_launched_as_a_file(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "benchmarks" / "ablation.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--launcher" in done.stdout


def test_the_readme_names_every_row_and_switch(root: Path) -> None:
    text = (root / "benchmarks" / "README.md").read_text()
    for row in ablation.ablation_rows():
        assert f"| {row.name} |" in text
    for component in ablation.COMPONENTS:
        assert f"`--{component.option} {component.off}`" in text
