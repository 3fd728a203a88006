"""What the loop may expect of every method, asked of all in the registry."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator

from modeling_dytox import DyToxForImageClassification
from training.arguments import Arguments
from training.incremental import IncrementalRun
from training.loop.epoch import EpochTrainer
from training.methods import METHODS
from training.run.model import make_model


MakeArguments = Callable[..., Arguments]
RunContent = Callable[[Path], dict[str, object]]


@pytest.fixture(params=list(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def logits_of(model: DyToxForImageClassification) -> torch.Tensor:
    pixel_values = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(pixel_values).logits


def test_growth_keeps_old_parameters_and_logits(method: str, make_tiny_arguments: MakeArguments) -> None:
    run = IncrementalRun(make_tiny_arguments(method=method), Accelerator())
    model = make_model(run.arguments, run.scenario.steps[0])
    for step in run.scenario.steps[1:]:
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        old_logits = logits_of(model)
        model = run.method.grow(model, step)
        logits = logits_of(model)
        assert logits.shape[1] == step.num_seen_classes == model.config.num_labels
        if method != "joint":  # Which starts from scratch at each step.
            assert all(torch.equal(model.get_parameter(name), parameter) for name, parameter in before.items())
            # One pass over more task tokens rounds differently; the parameters are the very same.
            torch.testing.assert_close(logits[:, : step.num_old_classes], old_logits, atol=1e-6, rtol=0)


def test_frozen_parameters_stay_bit_equal_and_others_move(
    method: str, make_tiny_arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = IncrementalRun(make_tiny_arguments(method=method), Accelerator())
    run.folder.open({})
    model = run.learn(None, run.scenario.steps[0])
    step = run.scenario.steps[1]
    model = run.method.grow(model, step)
    for phase in run.method.phases(step):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        trained: set[str] = set()
        original = EpochTrainer.train

        def spy(trainer, *args, original=original, trained=trained):  # type: ignore[no-untyped-def]
            trained |= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            return original(trainer, *args)

        monkeypatch.setattr(EpochTrainer, "train", spy)
        run.train(model, step, [phase])
        monkeypatch.setattr(EpochTrainer, "train", original)
        moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        assert moved == trained


def test_each_step_folder_holds_the_model_and_memory_of_its_step(
    method: str, make_tiny_arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = make_tiny_arguments(method=method)
    run = IncrementalRun(arguments, Accelerator())
    weights: dict[int, dict[str, torch.Tensor]] = {}
    save = run.save

    def remember(model, step, results):  # type: ignore[no-untyped-def]
        weights[step.number] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save(model, step, results)

    monkeypatch.setattr(run, "save", remember)
    run.run()
    assert sorted(weights) == [1, 2, 3]
    for step, expected in weights.items():
        folder = Path(arguments.output.output_dir) / f"step{step}"
        loaded = DyToxForImageClassification.from_pretrained(folder).state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
        assert {
            "README.md",
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "results.json",
            "training_config.yaml",
            "configuration_dytox.py",
            "modeling_dytox.py",
            "figures",
        } == {path.name for path in folder.iterdir()}
        measured = json.loads((folder / "results.json").read_text())["steps"][-1]
        assert measured["num_seen_classes"] == 2 * step and len(measured["accuracy_per_step"]) == step
        assert measured["memory_size"] <= arguments.method.memory_size
        if run.memory is not None:
            table = pq.read_table(folder.parent / "memory" / f"step{step}.parquet")
            assert table.num_rows == measured["memory_size"]
            assert set(table["class_name"].to_pylist()) == set(map(str, range(2 * step)))


def test_a_run_interrupted_between_steps_ends_as_if_it_was_not(
    method: str,
    make_tiny_arguments: MakeArguments,
    run_content: RunContent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    IncrementalRun(make_tiny_arguments(method=method, output_dir=tmp_path / "straight"), Accelerator()).run()

    arguments = make_tiny_arguments(method=method, output_dir=tmp_path / "interrupted")
    for steps_before_interruption in (1, 2):
        run = IncrementalRun(arguments, Accelerator())
        monkeypatch.setattr(run, "publish", interrupt_after(steps_before_interruption))
        with pytest.raises(KeyboardInterrupt):
            run.run()
    IncrementalRun(arguments, Accelerator()).run()
    assert run_content(tmp_path / "interrupted") == run_content(tmp_path / "straight")


def interrupt_after(last_step: int) -> Callable[[int], None]:
    def publish(step: int) -> None:
        if step == last_step:
            raise KeyboardInterrupt

    return publish


def test_same_seed_same_run_and_other_seed_other_run(
    make_tiny_arguments: MakeArguments, run_content: RunContent, tmp_path: Path
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        IncrementalRun(make_tiny_arguments(output_dir=tmp_path / name, seed=seed), Accelerator()).run()
    assert run_content(tmp_path / "a") == run_content(tmp_path / "b")
    assert run_content(tmp_path / "a")["step1"] != run_content(tmp_path / "c")["step1"]
