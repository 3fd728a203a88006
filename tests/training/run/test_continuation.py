"""Teaching more classes to a step that was saved: what is taken over, what is refused, and that it resumes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hub.run.errors import InputError
from modeling_dytox import DyToxForImageClassification
from tests.command_line import words
from tests.training.conftest import Outcome
from training.arguments import parse_arguments
from training.data.memory import RehearsalMemory
from training.loop.checkpointing import Checkpoints, TrainingState
from training.run.continuation import load_continuation
from training.run.model import load_model


# The digits that the continued model knows come first.
SIX_KNOWN = {"num_classes": 6, "classes_per_step": 2}
REST = {"num_classes": 10, "classes_per_step": 2, "known_classes": "test"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Keeps the run to continue, which is made once."""
    return {"folder": tmp_path_factory.mktemp("saved")}


@pytest.fixture
def source(saved: dict[str, Path], run_script: Callable[..., Outcome], tiny_options: dict[str, object]) -> Path:
    """The output folder of a run of three steps."""
    if "run" not in saved:
        done = run_script(*words(tiny_options | SIX_KNOWN | {"output_dir": saved["folder"] / "run"}))
        assert done.status == 0, done.errors
        saved["run"] = saved["folder"] / "run"
    return saved["run"]


@pytest.fixture
def go_on(
    run_script: Callable[..., Outcome], tiny_options: dict[str, object], source: Path, tmp_path: Path
) -> Callable[..., Outcome]:
    """Continues step 3 with the other digits, into the folder `more`; options given by keyword win."""
    continued = {"model_name_or_path": source / "step3", "output_dir": tmp_path / "more"}

    def run(**options: Any) -> Outcome:
        chosen = tiny_options | REST | continued | options
        return run_script(*words({name: value for name, value in chosen.items() if value is not None}))

    return run


def results_of(output_dir: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((output_dir / "results.json").read_text())
    return results


def refusal(outcome: Outcome) -> str:
    """The line of a run that must have been refused."""
    assert outcome.status == 2, outcome.output
    (line,) = [line for line in outcome.errors.splitlines() if line.startswith("error: ")]
    return line


def test_two_more_steps_follow_those_of_the_published_model(
    go_on: Callable[..., Outcome], source: Path, tmp_path: Path
) -> None:
    assert go_on().status == 0
    more = tmp_path / "more"
    assert sorted(path.name for path in more.glob("step*")) == ["step4", "step5"]
    before, after = results_of(source), results_of(more)
    assert after["steps"][:3] == before["steps"] and after["num_steps"] == 5
    assert after["class_order"] == [str(digit) for digit in range(10)]
    (ancestor,) = after["ancestors"]
    assert (ancestor["model"], ancestor["num_steps"], ancestor["commit"]) == ("step3", 3, None)
    config = DyToxForImageClassification.from_pretrained(more / "step5").config
    assert config.class_ranges == [[0, 2], [2, 4], [4, 6], [6, 8], [8, 10]] and config.num_task_tokens == 5
    memory = pq.read_table(more / "memory" / "step5.parquet").to_pydict()
    assert set(memory["label"]) == set(range(10)) and len(memory["label"]) <= 24
    assert set(zip(memory["label"], memory["class_name"], strict=True)) == {(d, str(d)) for d in range(10)}
    assert all(
        str(tmp_path) not in path.read_text() for path in more.glob("step*/*.*") if path.suffix != ".safetensors"
    )


def test_a_run_without_interruption_and_one_that_lost_its_last_step_end_the_same(
    go_on: Callable[..., Outcome], run_content: Callable[[Path], dict[str, object]], tmp_path: Path
) -> None:
    assert go_on().status == 0
    straight = run_content(tmp_path / "more")
    again = go_on()
    assert "holds 5 of 5 steps" in again.output and run_content(tmp_path / "more") == straight
    shutil.rmtree(tmp_path / "more" / "step5")
    assert "holds 4 of 5 steps" in go_on().output
    assert run_content(tmp_path / "more") == straight
    assert "holds a run of another recipe" in refusal(go_on(memory_name_or_path="none"))


def test_growing_leaves_what_the_published_model_says_to_rounding(source: Path) -> None:
    published = load_model(source / "step3").eval()
    options = words({"dataset_name": "digits", "model_name_or_path": source / "step3"})
    continuation = load_continuation(parse_arguments(options))
    assert continuation is not None
    continuation.model.add_task(["six", "seven"])
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        grown = continuation.model.eval()(images).logits[:, :6]
        torch.testing.assert_close(grown, published(images).logits, rtol=0, atol=1e-6)


def test_only_what_the_test_split_holds_is_measured(go_on: Callable[..., Outcome], tmp_path: Path) -> None:
    file = tmp_path / "order.txt"
    file.write_text("\n".join("6789012345"))
    assert go_on(class_order=file, num_classes=4, known_classes="refuse", classes_per_step=None).status == 0
    results = results_of(tmp_path / "more")
    assert [step["step"] for step in results["steps"]] == [1, 2, 3, 4]
    *old, new = results["steps"][-1]["accuracy_per_step"]
    assert old == [None] * 3 and results["steps"][-1]["accuracy"] == new


def test_merged_classes_are_learned_again_and_give_exemplars_where_there_is_no_memory(
    go_on: Callable[..., Outcome], source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lone = Path(shutil.copytree(source / "step3", tmp_path / "lone" / "step3"))
    assert "The rehearsal memory of" in refusal(go_on(model_name_or_path=lone))
    done = go_on(model_name_or_path=lone, known_classes="merge")
    assert done.status == 0 and "without exemplars of the 6 classes" in caplog.text
    memory = pq.read_table(tmp_path / "more" / "memory" / "step4.parquet").to_pydict()
    assert set(memory["label"]) == set(range(8)) and memory["label"] == sorted(memory["label"])


def test_without_a_memory_it_goes_on_only_when_that_is_asked_for(
    go_on: Callable[..., Outcome], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = go_on(memory_name_or_path="none")
    assert done.status == 0 and "expect it to forget" in caplog.text
    memory = pq.read_table(tmp_path / "more" / "memory" / "step4.parquet").to_pydict()
    assert set(memory["label"]) == {6, 7}


def test_a_memory_larger_than_the_budget_is_cut_at_once(source: Path) -> None:
    options = words({"dataset_name": "digits", "model_name_or_path": source / "step3"})
    continuation = load_continuation(parse_arguments(options))
    assert continuation is not None
    whole, small = RehearsalMemory(24), RehearsalMemory(12)
    continuation.load_memory(whole)
    continuation.load_memory(small)
    assert np.bincount(whole.examples.labels).tolist() == [4] * 6
    assert np.bincount(small.examples.labels).tolist() == [2] * 6
    kept = whole.examples.source_indices.reshape(6, 4)[:, :2].ravel()
    assert small.examples.source_indices.tolist() == kept.tolist()


CONTRADICTIONS = {
    "another size": ({"hidden_size": 32}, "--hidden_size 32 contradicts the model that is continued, which has 16"),
    "another ablation": ({"token_expansion": False}, "--token_expansion False contradicts the model"),
    "from scratch": ({"method": "joint"}, "--method joint learns all classes from scratch"),
    "known classes": ({"known_classes": "refuse"}, "The model knows '0' already (6 such class(es) of the 10"),
    "no such folder": ({"model_name_or_path": "./absent"}, "--model_name_or_path ./absent is no folder"),
    "a run, not a step": ({"model_name_or_path": ".."}, "holds no model"),
    "a revision of a folder": ({"model_revision": "step3"}, "--model_revision step3 has no meaning for the folder"),
    "no such memory": ({"memory_name_or_path": "./absent.parquet"}, "./absent.parquet is no file"),
    "no model": ({"model_name_or_path": None}, "--known_classes test needs --model_name_or_path"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_one_line(go_on: Callable[..., Outcome], tmp_path: Path, case: str) -> None:
    options, expected = CONTRADICTIONS[case]
    if options.get("model_name_or_path") == "..":
        options = {"model_name_or_path": tmp_path}
    assert expected in refusal(go_on(**options))
    assert not list(tmp_path.glob("more/step*"))


def test_a_memory_of_another_model_is_refused(go_on: Callable[..., Outcome], source: Path, tmp_path: Path) -> None:
    table = pq.read_table(source / "memory" / "step3.parquet")
    names = pa.array([name.replace("4", "four") for name in table["class_name"].to_pylist()])
    other = table.set_column(table.schema.get_field_index("class_name"), "class_name", names)
    pq.write_table(other, tmp_path / "other.parquet")
    line = refusal(go_on(memory_name_or_path=tmp_path / "other.parquet"))
    assert "its label 4 is 'four', that of the model '4'" in line
    assert not (tmp_path / "more").exists(), "a refused run leaves the folder to the next try"


def test_memories_that_cannot_be_used_are_one_line(
    go_on: Callable[..., Outcome], source: Path, tmp_path: Path
) -> None:
    table = pq.read_table(source / "memory" / "step3.parquet")
    label = table.schema.get_field_index("label")
    broken = {
        "cannot be read": table.drop_columns("step"),
        "of 0 classes": table.slice(0, 0),
        "lacks values": table.set_column(label, "label", pa.array([None] * len(table), pa.int64())),
        "of 4 classes, the model knows 6": pq.read_table(source / "memory" / "step2.parquet"),
    }
    file = tmp_path / "memory.parquet"
    for expected, other in broken.items():
        pq.write_table(other, file)
        line = refusal(go_on(memory_name_or_path=file))
        assert expected in line and "--memory_name_or_path" in line
    file.write_bytes(b"PAR1")
    assert "memory.parquet cannot be read" in refusal(go_on(memory_name_or_path=file))


def test_what_is_continued_is_never_deleted(go_on: Callable[..., Outcome], source: Path) -> None:
    line = refusal(go_on(output_dir=source, overwrite_output_dir=True))
    assert "holds the step that is continued" in line and (source / "step3" / "config.json").is_file()


@pytest.mark.parametrize("method", ["replay", "finetune"])
def test_other_methods_continue_as_well(go_on: Callable[..., Outcome], tmp_path: Path, method: str) -> None:
    assert go_on(method=method).status == 0
    assert (tmp_path / "more" / "memory").exists() == (method == "replay")
    if method == "finetune":
        line = refusal(go_on(method=method, memory_name_or_path="none", output_dir=tmp_path / "other"))
        assert "--method finetune keeps no rehearsal memory" in line


@pytest.mark.parametrize("saves", [1, 3])
def test_a_run_that_is_stopped_within_its_first_own_step_ends_the_same(
    go_on: Callable[..., Outcome],
    run_content: Callable[[Path], dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saves: int,
) -> None:
    """Stopped after so many states: in the main phase, and in finetuning, when the memory is renewed already."""
    assert go_on(output_dir=tmp_path / "straight").status == 0
    save, left = Checkpoints.save, [saves]

    def save_then_stop(self: Checkpoints, state: TrainingState) -> None:
        save(self, state)
        left[0] -= 1
        if left[0] == 0:
            raise InputError("stopped")

    monkeypatch.setattr(Checkpoints, "save", save_then_stop)
    assert "stopped" in refusal(go_on())
    monkeypatch.undo()
    again = go_on()
    assert again.status == 0 and "Step 4 goes on after" in again.output
    assert run_content(tmp_path / "more") == run_content(tmp_path / "straight")


def test_a_model_whose_results_do_not_fit_is_refused(
    go_on: Callable[..., Outcome], source: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "copy")) / "step3"
    results = json.loads((folder / "results.json").read_text())
    results["steps"][2]["classes"] = ["4", "five"]
    (folder / "results.json").write_text(json.dumps(results))
    assert "or names them otherwise" in refusal(go_on(model_name_or_path=folder))
    (folder / "results.json").unlink()
    assert "has no usable results.json" in refusal(go_on(model_name_or_path=folder))
