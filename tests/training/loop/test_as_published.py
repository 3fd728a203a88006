"""The accidents of the authors' code, each an option, give what the authors' code gives."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from timm.optim import param_groups_weight_decay

from modeling_dytox.convert_original_to_hf import original_to_hf_names
from tests.command_line import words
from training.arguments import parse_arguments
from training.data.loading import Batch
from training.incremental import IncrementalRun
from training.loop import phase as loop
from training.loop.epoch import EpochTrainer
from training.loop.phase import freeze
from training.methods import LossModule
from training.run.model import make_model


MakeRun = Callable[..., IncrementalRun]
AS_PUBLISHED = {
    "repeated_augmentation": 3,
    "augmented_herding": True,
    "shuffle_finetuning": False,
    "lagging_schedule": True,
}


@pytest.fixture(scope="module")
def schedule(root: Path) -> dict[str, np.ndarray]:
    """Learning rates of the authors' CIFAR configuration, and which parameters their weight decay spares."""
    with np.load(root / "tests" / "fixtures" / "schedule.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def make_run(tiny_options: dict[str, object], tmp_path: Path) -> MakeRun:
    def make(**options: object) -> IncrementalRun:
        merged = tiny_options | {"output_dir": tmp_path / "run"} | options
        run = IncrementalRun(parse_arguments(words(merged)), Accelerator())
        run.folder.open({}, overwrite=True)
        return run

    return make


@pytest.mark.parametrize(("num_processes", "global_batch_size"), [(1, 128), (2, 256)])
def test_the_lagging_schedule_is_theirs_epoch_by_epoch(
    schedule: dict[str, np.ndarray],
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    num_processes: int,
    global_batch_size: int,
) -> None:
    # The learning rate depends on the global batch alone, not on the processes that share it.
    run = make_run(
        per_device_train_batch_size=global_batch_size,
        num_epochs=500,
        learning_rate=5e-4,
        learning_rate_batch_size=512,
        lagging_schedule=True,
    )
    monkeypatch.setattr(EpochTrainer, "train", lambda self, steps, progress: {"classification": 0.0})
    monkeypatch.setattr(run.checkpoints, "save", lambda state: None)
    step = run.scenario.steps[0]
    run.train(make_model(run.arguments, step), step, list(run.method.phases(step)))
    used = [json.loads(line)["learning_rate"] for line in run.log.path.read_text().splitlines()]
    np.testing.assert_allclose(used, schedule[f"lr_per_epoch_world{num_processes}"], rtol=0, atol=1e-12)


def test_without_the_lag_the_second_epoch_warms_up(make_run: MakeRun) -> None:
    run = make_run(num_epochs=40, learning_rate=5e-4)
    step = run.scenario.steps[0]
    run.train(make_model(run.arguments, step), step, list(run.method.phases(step)))
    used = [json.loads(line)["learning_rate"] for line in run.log.path.read_text().splitlines()]
    assert used[:6] == pytest.approx([1e-6 + epoch * (5e-4 - 1e-6) / 5 for epoch in range(5)] + [used[5]])
    assert max(used) == used[5]


def test_weight_decay_spares_what_theirs_spares(schedule: dict[str, np.ndarray], make_run: MakeRun) -> None:
    run = make_run(num_hidden_layers=3)
    first, second = run.scenario.steps[:2]
    model = run.method.grow(make_model(run.arguments, first), second)
    main = run.method.phases(second)[0]
    freeze(model, main.frozen)
    learner = LossModule(run.method, model, second, main)
    names = {id(parameter): name.removeprefix("model.") for name, parameter in learner.named_parameters()}
    ours = {
        group["weight_decay"] > 0: {names[id(parameter)] for parameter in group["params"]}
        for group in param_groups_weight_decay(learner, 1e-6)
    }
    original = {name: list(map(str, schedule[f"{name}_names"])) for name in ("decay", "no_decay")}
    # Their frozen token and classifier of the first step are in no group: the converter wants a whole model.
    frozen = [
        "task_tokens.0",
        *(f"head.0.{name}" for name in ("norm.weight", "norm.bias", "head.weight", "head.bias")),
    ]
    known = original_to_hf_names([*original["decay"], *original["no_decay"], *frozen])
    divergence = {"norm": "layernorm", "head": "linear"}
    for decayed, kind in ((True, "decay"), (False, "no_decay")):
        theirs = {ours_name for name in original[kind] for ours_name in known[name]}
        for name in original[kind]:
            if name.startswith("head_div."):
                _, part, parameter = name.split(".")
                theirs.add(f"auxiliary.divergence_classifier.{divergence[part]}.{parameter}")
        assert ours[decayed] == theirs


@pytest.fixture
def drawn_labels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """Collects the labels of every update that runs make from now on, with the phase they belong to."""
    drawn: list[tuple[str, list[int]]] = []
    original = EpochTrainer.train

    def spy(trainer: EpochTrainer, steps: Iterator[list[Batch]], progress: object) -> dict[str, float]:
        def watched() -> Iterator[list[Batch]]:
            for batches in steps:
                labels = torch.cat([batch.labels for batch in batches]).tolist()
                drawn.append((trainer.learner.phase.name, labels))
                yield batches

        return original(trainer, watched(), progress)

    monkeypatch.setattr(loop.EpochTrainer, "train", spy)
    return drawn


def test_finetuning_follows_the_stored_memory(make_run: MakeRun, drawn_labels: list[tuple[str, list[int]]]) -> None:
    run = make_run(shuffle_finetuning=False, memory_size=24, per_device_train_batch_size=10)
    first, second = run.scenario.steps[:2]
    model = run.learn(None, first)
    drawn_labels.clear()
    run.learn(model, second)
    finetuning = [labels for phase, labels in drawn_labels if phase == "finetuning"]
    # Six exemplars of each of four classes: the last four of the newest class do not fill a batch.
    assert finetuning == [[0] * 6 + [1] * 4, [1] * 2 + [2] * 6 + [3] * 2]


def test_shuffled_finetuning_sees_every_exemplar(make_run: MakeRun, drawn_labels: list[tuple[str, list[int]]]) -> None:
    run = make_run(memory_size=24, per_device_train_batch_size=10)
    model = run.learn(None, run.scenario.steps[0])
    drawn_labels.clear()
    run.learn(model, run.scenario.steps[1])
    finetuning = [label for phase, labels in drawn_labels if phase == "finetuning" for label in labels]
    assert sorted(finetuning) == sorted([0, 1, 2, 3] * 6) and finetuning != sorted(finetuning)


def test_repeated_augmentation_shows_a_third_of_the_images(
    make_run: MakeRun, drawn_labels: list[tuple[str, list[int]]]
) -> None:
    run = make_run(repeated_augmentation=3, max_train_samples_per_class=60, num_epochs=1)
    step = run.scenario.steps[0]
    seen: list[int] = []
    augment = run.trainer.transform
    run.trainer.transform = lambda image: seen.append(hash(image.tobytes())) or augment(image)  # type: ignore[func-returns-value]
    run.train(make_model(run.arguments, step), step, list(run.method.phases(step)))
    counts = np.unique(seen, return_counts=True)[1]
    assert len(seen) == 112 and len(counts) <= -(-112 // 3) and set(counts[counts != 3]) <= {1, 2}


def test_augmented_herding_looks_at_other_pixels(make_run: MakeRun) -> None:
    chosen = {}
    for augmented in (False, True):
        run = make_run(augmented_herding=augmented, max_train_samples_per_class=60, memory_size=12, num_epochs=1)
        run.learn(None, run.scenario.steps[0])
        assert run.memory is not None and run.memory.examples is not None
        chosen[augmented] = run.memory.examples.source_indices.tolist()
        run.folder.close()
    assert len(chosen[False]) == len(chosen[True]) == 12
    assert chosen[False] != chosen[True]


def test_a_run_with_all_accidents_ends(make_run: MakeRun) -> None:
    run = make_run(**AS_PUBLISHED, overwrite_output_dir=True)
    run.run()
    assert len(run.folder.results_after(3).steps) == 3
