"""Teaching more classes to a step that was saved: what is taken over, what is refused, and that it resumes."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForImageClassification

from modeling_dytox import DyToxForImageClassification
from tests.command_line import words as command_line
from tests.training.conftest import Outcome, train
from tests.training.run.conftest import Start
from training.methods import METHODS


# The digits that the continued model knows come first.
REST = {"num_classes": 10, "classes_per_step": 2, "known_classes": "test"}
RunContent = Callable[[Path], dict[str, object]]


@pytest.fixture
def options(tiny_options: dict[str, object], source: Path, tmp_path: Path) -> dict[str, object]:
    """Continues step 3 with the other digits in two steps, into the folder `more`."""
    return tiny_options | REST | {"model_name_or_path": source / "step3", "output_dir": tmp_path / "more"}


@pytest.fixture
def continued(options: dict[str, object], kept: Path) -> Path:
    """The folder of the finished run; tests copy what they change."""
    folder = kept / "continued"
    return folder if folder.exists() else train(options | {"output_dir": folder})


@pytest.fixture
def refuse(run_script: Callable[..., Outcome], options: dict[str, object]) -> Callable[..., str]:
    """The line with which the script refuses these options, given by keyword, before it writes anything."""

    def run(**changed: Any) -> str:
        outcome = run_script(*command_line(options | changed))
        assert not Path(str(options["output_dir"])).exists(), "a refused run leaves the folder to the next try"
        return outcome.refusal

    return run


def results_of(output_dir: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((output_dir / "results.json").read_text())
    return results


def relabel(step: Path, target: Path, **entries: Any) -> Path:
    """A copy of a step, with its memory, whose results have these entries instead."""
    shutil.copytree(step.parent / "memory", target / "memory")
    copy = shutil.copytree(step, target / step.name)
    (copy / "results.json").write_text(json.dumps(results_of(step) | entries))
    return copy


def test_two_more_steps_follow_those_of_the_published_model(continued: Path, source: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in continued.glob("step*")) == ["step4", "step5"]
    before, after = results_of(source), results_of(continued)
    assert after["steps"][:3] == before["steps"] and after["num_steps"] == 5
    assert after["class_order"] == [str(digit) for digit in range(10)]
    (ancestor,) = after["ancestors"]
    assert (ancestor["model"], ancestor["num_steps"], ancestor["commit"]) == ("step3", 3, None)
    config = DyToxForImageClassification.from_pretrained(continued / "step5").config
    assert config.class_ranges == [[0, 2], [2, 4], [4, 6], [6, 8], [8, 10]] and config.num_task_tokens == 5
    memory = pq.read_table(continued / "memory" / "step5.parquet").to_pydict()
    assert len(memory["label"]) <= 24
    assert set(zip(memory["label"], memory["class_name"], strict=True)) == {(d, str(d)) for d in range(10)}
    text = [path for path in continued.glob("step*/*.*") if path.suffix != ".safetensors"]
    assert not [path for path in text if str(source.parent) in path.read_text()]


@pytest.mark.slow
def test_wherever_it_stops_it_ends_as_the_run_that_did_not(
    run_script: Callable[..., Outcome],
    options: dict[str, object],
    continued: Path,
    run_content: RunContent,
    tmp_path: Path,
) -> None:
    more = tmp_path / "more"
    (more / "memory" / "step4.parquet").mkdir(parents=True)
    for name in ("training_config.yaml", "data_fingerprint.json"):
        shutil.copy(continued / name, more / name)
    words = command_line(options)
    # Before the memory of its first own step is written, before that step is finished, and after it.
    assert "memory/step4.parquet cannot be written" in run_script(*words).refusal
    (more / "memory" / "step4.parquet").rmdir()
    (more / "step4").touch()
    stopped = run_script(*words)
    assert "Step 4 resumes after main, epoch 2 of 2." in stopped.output
    assert "step4 cannot be written" in stopped.refusal
    (more / "step4").unlink()
    assert "Step 4 resumes after finetuning, epoch 1 of 1." in run_script(*words).output
    assert run_content(more) == run_content(continued)
    shutil.rmtree(more / "step5")
    assert "holds 4 of 5 steps" in run_script(*words).output
    assert run_content(more) == run_content(continued)
    assert "holds 5 of 5 steps" in run_script(*words).output
    other = run_script(*words, "--memory_name_or_path", "none")
    assert "holds a run of another recipe (memory_name_or_path was None, is none)" in other.refusal


def test_it_is_taught_by_the_method_it_was_learned_with(
    options: dict[str, object], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = relabel(source / "step3", tmp_path / "old", method="replay")
    (tmp_path / "order.txt").write_text("\n".join("6789012345"))
    # The test split holds the new classes alone.
    new = {
        "class_order": tmp_path / "order.txt",
        "num_classes": 4,
        "classes_per_step": None,
        "known_classes": "refuse",
    }
    more = train(options | new | {"model_name_or_path": step, "finetuning_epochs": None})
    assert f"Continues {step} after step 3.\n" in capsys.readouterr().out
    results = results_of(more)
    assert (results["method"], results["ancestors"][0]["method"]) == ("replay", "replay")
    phases = [json.loads(line).get("phase") for line in (more / "log.jsonl").read_text().splitlines()]
    assert phases == ["main", "main", None]
    assert [entry["step"] for entry in results["steps"]] == [1, 2, 3, 4]
    last = results["steps"][-1]
    assert last["accuracy"] is None and last["measured_classes"] == ["6", "7", "8", "9"]
    assert last["accuracy_per_step"] == [None, None, None, last["accuracy_of_measured"]]


def test_another_method_overrides_it_and_the_log_says_so(
    start: Start, options: dict[str, object], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = [line for line in (source / "step3" / "README.md").read_text().splitlines() if "--model_rev" in line]
    card = shlex.split(line)
    assert card[:4] == ["accelerate", "launch", "-q", "training/incremental.py"]
    assert "--method" not in card, "the card leaves it to the model"

    # Its own options hold as well; 20 epochs are the default.
    setup, _ = start(options | {"finetuning_epochs": None, "output_dir": tmp_path / "own"})
    assert setup.arguments.options.finetuning_epochs == 1
    assert "Options of dytox beside the defaults: --finetuning_epochs 1." in capsys.readouterr().out

    # A method that this version does not have.
    step = relabel(source / "step3", tmp_path / "old", method="magic")
    setup, progress = start(options | {"model_name_or_path": step, "method": "replay"})
    assert setup.method.name == progress.results.method == setup.folder.recipe["method"] == "replay"
    assert progress.results.ancestors[0].method == "magic"
    expected = "after step 3, which was learned with magic; the new steps are learned with replay."
    assert expected in capsys.readouterr().out


def test_a_method_that_cannot_continue_is_refused_before_the_model_is_loaded(
    refuse: Callable[..., str], source: Path, tmp_path: Path
) -> None:
    step = relabel(source / "step3", tmp_path / "old", method="joint")
    (step / "model.safetensors").write_bytes(b"too large to download in vain")
    able = [name for name in METHODS if name != "joint"]
    expected = f"cannot continue a model: choose --method among {', '.join(able)}."
    assert f"--method joint {expected}" in refuse(model_name_or_path=step, method="joint")
    assert f"The method joint, with which the model was learned, {expected}" in refuse(model_name_or_path=step)
    assert "--method magic is unknown: choose --method among" in refuse(model_name_or_path=step, method="magic")


def test_a_method_is_refused_whose_head_the_model_lacks_with_those_that_can_continue_it(
    refuse: Callable[..., str], source_options: dict[str, object], tmp_path: Path
) -> None:
    one_step = {"num_classes": 2, "num_epochs": 1, "finetuning_epochs": None, "output_dir": tmp_path / "icarl"}
    step = train(source_options | one_step | {"method": "icarl"}) / "step1"
    able = "choose --method among icarl, eeil, wa, replay."
    for method, reason in {
        "dytox": "teaches models of type 'dytox', the model that is continued is 'growing_head'",
        "ucir": "teaches models with head 'cosine', the model that is continued has 'linear'",
        "podnet": "teaches models with head 'proxy', the model that is continued has 'linear'",
        "bic": "teaches models with bias_correction True, the model that is continued has False",
        "finetune": "has no exemplars, from which the model that is continued makes a prototype of each class",
    }.items():
        line = refuse(model_name_or_path=step, method=method, finetuning_epochs=None)
        assert f"--method {method} {reason}: {able}" in line


def test_a_corrected_model_is_continued_by_the_method_that_knows_of_the_correction(
    refuse: Callable[..., str], source_options: dict[str, object], tmp_path: Path
) -> None:
    one_step = {"num_classes": 2, "num_epochs": 1, "finetuning_epochs": None, "output_dir": tmp_path / "bic"}
    step = train(source_options | one_step | {"method": "bic"}) / "step1"
    line = refuse(model_name_or_path=step, method="replay", finetuning_epochs=None)
    assert "--method replay would keep the correction of old logits" in line and "choose --method among bic." in line


def test_another_method_keeps_the_prototypes_of_a_model(source_options: dict[str, object], tmp_path: Path) -> None:
    first = {"num_classes": 2, "num_epochs": 1, "finetuning_epochs": None, "output_dir": tmp_path / "first"}
    step = train(source_options | first | {"method": "icarl"}) / "step1"
    more = first | {"num_classes": 4, "known_classes": "test", "output_dir": tmp_path / "more"}
    folder = train(source_options | more | {"model_name_or_path": step, "method": "replay"})
    model = AutoModelForImageClassification.from_pretrained(folder / "step2")
    lengths = model.prototypes.norm(dim=1)
    assert lengths.shape == (4,) and lengths.tolist() == pytest.approx([1.0] * 4, abs=1e-5)


def test_merged_classes_are_learned_again_and_give_exemplars_where_there_is_no_memory(
    refuse: Callable[..., str],
    options: dict[str, object],
    source: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lone = shutil.copytree(source / "step3", tmp_path / "lone" / "step3")
    line = refuse(model_name_or_path=lone)
    assert "No rehearsal memory found for" in line and "--known_classes merge" in line
    changed = {"num_classes": 8, "known_classes": "merge", "num_epochs": 1, "finetuning_epochs": 0}
    more = train(options | changed | {"model_name_or_path": lone})
    assert "without exemplars of its 6 classes" in caplog.text
    memory = pq.read_table(more / "memory" / "step4.parquet").to_pydict()
    assert set(memory["label"]) == set(range(8)) and memory["label"] == sorted(memory["label"])


def test_the_memory_is_cut_to_the_budget_or_left_out_when_asked(
    start: Start, options: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def memory_of(**changed: Any) -> Any:
        setup, progress = start(options | {"output_dir": tmp_path / str(changed)} | changed)
        return progress.memory

    whole, small = (memory_of(memory_size=size).examples for size in (24, 12))
    assert np.bincount(whole.labels).tolist() == [4] * 6 and np.bincount(small.labels).tolist() == [2] * 6
    assert small.source_indices.tolist() == whole.source_indices.reshape(6, 4)[:, :2].ravel().tolist()
    assert caplog.text == "" and memory_of(method="finetune") is None
    assert len(memory_of(memory_name_or_path="none")) == 0 and "expect it to forget" in caplog.text


CONTRADICTIONS = {
    "another size": ({"hidden_size": 32}, "--hidden_size 32 contradicts the model that is continued, which has 16"),
    "another ablation": ({"token_expansion": False}, "--token_expansion False contradicts the model"),
    "known classes": ({"known_classes": "refuse"}, "The model knows '0' already (6 of the 10 classes"),
    "no such folder": ({"model_name_or_path": "./absent"}, "--model_name_or_path ./absent is not a folder"),
    "a run, not a step": ({"model_name_or_path": "SOURCE"}, "holds no model: name one of its steps, such as"),
    "a revision of a folder": ({"model_revision": "step3"}, "--model_revision step3 has no meaning for the folder"),
    "no such memory": ({"memory_name_or_path": "./absent.parquet"}, "./absent.parquet is not a file"),
    "no model": ({"model_name_or_path": None}, "--known_classes test needs --model_name_or_path"),
    "no use of a memory": (
        {"method": "finetune", "memory_name_or_path": "none"},
        "--method finetune keeps no rehears",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_one_line(refuse: Callable[..., str], source: Path, case: str) -> None:
    changed, expected = CONTRADICTIONS[case]
    if changed.get("model_name_or_path") == "SOURCE":
        changed = {"model_name_or_path": source}
    assert expected in refuse(**changed)


def test_memories_that_cannot_be_used_are_one_line(refuse: Callable[..., str], source: Path, tmp_path: Path) -> None:
    table = pq.read_table(source / "memory" / "step3.parquet")
    names = pa.array([name.replace("4", "four") for name in table["class_name"].to_pylist()])
    broken = {
        "its label 4 is 'four', that of the model '4'": table.set_column(
            table.schema.get_field_index("class_name"), "class_name", names
        ),
        "cannot be read": table.drop_columns("step"),
        "of 0 classes": table.slice(0, 0),
        "lacks values": table.set_column(
            table.schema.get_field_index("label"), "label", pa.array([None] * len(table), pa.int64())
        ),
        "of 4 classes, the model knows 6": pq.read_table(source / "memory" / "step2.parquet"),
    }
    file = tmp_path / "memory.parquet"
    for expected, other in broken.items():
        pq.write_table(other, file)
        line = refuse(memory_name_or_path=file)
        assert expected in line and "--memory_name_or_path" in line
    file.write_bytes(b"PAR1")
    assert "memory.parquet cannot be read" in refuse(memory_name_or_path=file)


def test_what_is_continued_is_never_deleted(refuse: Callable[..., str], source: Path) -> None:
    line = refuse(output_dir=source, overwrite_output_dir=True)
    assert "holds the step that is continued" in line and (source / "step3" / "config.json").is_file()


def test_a_model_that_is_not_as_its_run_saved_it_is_refused(
    refuse: Callable[..., str], source: Path, tmp_path: Path
) -> None:
    steps = results_of(source)["steps"]
    steps[2]["classes"] = ["4", "five"]
    step = relabel(source / "step3", tmp_path / "old", steps=steps)
    assert "results.json has 3 steps and 6 classes, the model 3 and 6, or other names" in refuse(
        model_name_or_path=step
    )
    (step / "configuration_dytox.py").unlink()
    assert "cannot be loaded (configuration_dytox.py, which config.json names" in refuse(model_name_or_path=step)
    (step / "results.json").unlink()
    assert "has no usable results.json" in refuse(model_name_or_path=step)
