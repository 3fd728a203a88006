"""Runs without token expansion, without independent classifiers, and without both."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from hub.run.step_folder import list_step_folders
from modeling_dytox import DyToxForImageClassification
from training.arguments import Arguments, MethodArguments
from training.data.scenario import Step
from training.incremental import IncrementalRun
from training.methods.dytox import old_tokens_and_classifiers


MakeArguments = Callable[..., Arguments]
RunContent = Callable[[Path], dict[str, object]]

SWITCHES = ("token_expansion", "independent_classifiers")
ALL = [
    dict(zip(SWITCHES, values, strict=True)) for values in [(True, True), (False, True), (True, False), (False, False)]
]


def named(switches: dict[str, bool]) -> str:
    return " ".join(name for name, on in switches.items() if not on) or "default"


@pytest.mark.parametrize("switches", ALL[1:], ids=named)
def test_a_run_resumes_and_each_step_can_be_published_and_loaded(
    switches: dict[str, bool],
    make_tiny_arguments: MakeArguments,
    run_content: RunContent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    IncrementalRun(make_tiny_arguments(output_dir=tmp_path / "straight", **switches), Accelerator()).run()

    arguments = make_tiny_arguments(output_dir=tmp_path / "interrupted", **switches)
    run = IncrementalRun(arguments, Accelerator())
    monkeypatch.setattr(run, "publish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    IncrementalRun(arguments, Accelerator()).run()
    assert run_content(tmp_path / "interrupted") == run_content(tmp_path / "straight")

    # Reading them is the check that publishing makes.
    folders = list_step_folders(tmp_path / "straight")
    assert [folder.step for folder in folders] == [1, 2, 3]
    for folder in folders:
        model = DyToxForImageClassification.from_pretrained(folder.path)
        assert {name: getattr(model.config, name) for name in SWITCHES} == switches
        assert model.config.num_task_tokens == (folder.step if switches["token_expansion"] else 1)
        assert len(model.classifiers) == (folder.step if switches["independent_classifiers"] else 1)
        assert model(torch.zeros(1, 3, 8, 8)).logits.shape == (1, 2 * folder.step)


def interrupt(step: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("switches", ALL, ids=named)
def test_only_what_belongs_to_an_old_step_alone_is_frozen(
    switches: dict[str, bool], make_tiny_arguments: MakeArguments, tmp_path: Path
) -> None:
    # Without finetuning, what differs between two step folders is what the main phase trained.
    IncrementalRun(make_tiny_arguments(finetuning_epochs=0, **switches), Accelerator()).run()
    before, after = (load_file(tmp_path / "run" / f"step{step}" / "model.safetensors") for step in (1, 2))
    old_token = {"dytox.task_tokens.0"}
    old_classifier = {name for name in before if name.startswith("classifiers.0.")}
    frozen = (old_token if switches["token_expansion"] else set()) | (
        old_classifier if switches["independent_classifiers"] else set()
    )
    assert before.keys() <= after.keys()
    assert {name for name in before if torch.equal(before[name], after[name])} == frozen


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        (ALL[0], ["classifiers.0.*", "classifiers.1.*", "dytox.task_tokens.0", "dytox.task_tokens.1"]),
        (ALL[1], ["classifiers.0.*", "classifiers.1.*"]),
        (ALL[2], ["dytox.task_tokens.0", "dytox.task_tokens.1"]),
        (ALL[3], []),
    ],
    ids=str,
)
def test_patterns_of_what_old_steps_own(switches: dict[str, bool], expected: list[str]) -> None:
    step = Step(number=3, class_names=["4"], class_range=(4, 5), train=None)  # type: ignore[arg-type]
    assert sorted(old_tokens_and_classifiers(step, MethodArguments(**switches))) == expected
