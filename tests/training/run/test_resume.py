"""Where a run starts: new, after its last finished step, or within a step."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.run.errors import InputError
from tests.training.conftest import train
from tests.training.run.conftest import Start
from training.loop.checkpointing import Checkpoints, TrainingState


@pytest.fixture
def begun(kept: Path, source: Path, source_options: dict[str, object], tmp_path: Path) -> dict[str, object]:
    """Options of a run that stopped after the main phase of step 3, as the memory could not be written."""
    folder = kept / "begun"
    if not folder.exists():
        shutil.copytree(source, folder)
        shutil.rmtree(folder / "step3")
        (folder / "memory" / "step3.parquet").unlink()
        (folder / "memory" / "step3.parquet").mkdir()
        with pytest.raises(InputError, match="step3.parquet cannot be written"):
            train(source_options | {"output_dir": folder})
        (folder / "memory" / "step3.parquet").rmdir()
    return source_options | {"output_dir": shutil.copytree(folder, tmp_path / "run")}


def test_it_starts_where_the_folder_says(
    start: Start, begun: dict[str, object], source_options: dict[str, object], tmp_path: Path
) -> None:
    _, new = start(source_options | {"output_dir": tmp_path / "new"})
    assert (new.model, new.results.steps, new.within, len(new.memory or ())) == (None, (), None, 0)

    setup, progress = start(begun)
    assert progress.model is not None and progress.model.config.class_names == ["0", "1", "2", "3"]
    assert [step.step for step in progress.results.steps] == [1, 2] and len(progress.memory or ()) == 24
    assert progress.within is not None and progress.within.state.position == (3, 0, 2)
    assert progress.within.model.config.class_names == ["0", "1", "2", "3", "4", "5"]
    assert not progress.within.memory_is_updated and setup.log.num_records == 3 + 4 + 2

    shutil.rmtree(setup.folder.step_folder(2))
    _, after_one = start(begun)
    assert [step.step for step in after_one.results.steps] == [1] and after_one.within is None

    _, again = start(begun | {"overwrite_output_dir": True})
    assert (again.model, again.results.steps, again.within) == (None, (), None)


def other_weights(state: TrainingState) -> TrainingState:
    return replace(state, tensors={name: tensor.reshape(-1) for name, tensor in state.tensors.items()})


def changed_config(**entries: Any) -> Callable[[TrainingState], TrainingState]:
    return lambda state: replace(state, config=state.config | entries)


UNFIT: dict[str, tuple[Callable[[TrainingState], TrainingState], str]] = {
    "weights of another shape": (other_weights, "weights are not those of its config"),
    "config of other sizes": (changed_config(hidden_size=32), "weights are not those of its config"),
    "another architecture": (changed_config(model_type="vit"), "its model_type is 'vit', expected 'dytox'"),
    "damaged config": (changed_config(hidden_size="16"), "'hidden_size' expected int, got str"),
    "other classes": (
        changed_config(id2label={label: f"class{label}" for label in range(6)}),
        "its classes are not those of the step",
    ),
    "a phase too many": (
        lambda state: replace(state, position=state.position._replace(phase=2)),
        "the step has 2 phases",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_state_that_does_not_fit_is_named_and_the_one_before_is_used(
    start: Start, begun: dict[str, object], caplog: pytest.LogCaptureFixture, case: str
) -> None:
    change, reason = UNFIT[case]
    checkpoints = Checkpoints(Path(str(begun["output_dir"])) / "checkpoints")
    newest, before = checkpoints.newest_first(3)
    assert (newest.position, before.position) == ((3, 0, 2), (3, 0, 1))
    unfit = change(newest)
    checkpoints.save(unfit)
    _, progress = start(begun)
    (warning,) = caplog.messages
    place = f"The state after epoch 2 of phase {unfit.position.phase + 1} of step 3 cannot be used ("
    assert warning.startswith(place) and reason in warning and warning.endswith("resumes from before it.")
    assert progress.within is not None
    assert progress.within.state.position == (before if unfit.position == newest.position else newest).position


def test_a_damaged_finished_step_stops_the_run_before_it_learns(start: Start, begun: dict[str, object]) -> None:
    step = Path(str(begun["output_dir"])) / "step2"
    (step / "modeling_dytox.py").rename(step / "modeling.txt")
    with pytest.raises(InputError, match=r"step2 cannot be loaded \(modeling_dytox.py, which config.json names"):
        start(begun)
    (step / "modeling.txt").rename(step / "modeling_dytox.py")
    for content in ("{", (step.parent / "step1" / "results.json").read_text()):
        (step / "results.json").write_text(content)
        with pytest.raises(InputError, match="step2/results.json.*restore .*, delete step2 to learn it again"):
            start(begun)
    # As the error says.
    shutil.rmtree(step)
    assert len(start(begun)[1].results.steps) == 1
