"""What the loop may expect of every method, asked of all in the registry, and of DyTox without its parts."""

import importlib.util
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForImageClassification

from hub.run.model_config import ModelConfig
from hub.run.step_folder import list_step_folders
from tests.command_line import words
from tests.weights import load_weights
from training.arguments import Arguments
from training.data.examples import Examples
from training.data.scenario import Step
from training.loop.context import StepContext
from training.methods import METHODS, PhaseData, make_method
from training.run.encoder import load_encoder


MakeArguments = Callable[..., Arguments]
RunContent = Callable[[Path], dict[str, object]]

every_method = pytest.mark.parametrize("method", list(METHODS))
# DyTox with what its steps may share, and which parameters belong to the first step alone: they do not train later.
OF_STEP_1: list[tuple[dict[str, Any], list[str]]] = [
    ({"method": "dytox"}, ["dytox.task_tokens.0", "classifiers.0.*"]),
    ({"token_expansion": False}, ["classifiers.0.*"]),
    ({"independent_classifiers": False}, ["dytox.task_tokens.0"]),
    ({"token_expansion": False, "independent_classifiers": False}, []),
]
OTHERS: list[tuple[dict[str, Any], None]] = [({"method": method}, None) for method in METHODS if method != "dytox"]


@pytest.fixture(scope="module")
def finished() -> dict[str, Path]:
    """Folders of finished runs by their options."""
    return {}


@pytest.fixture
def run(run_script: Callable[..., Any], tiny_options: dict[str, object]) -> Callable[..., int]:
    """Runs the script on two steps with these options, and gives the exit status."""

    fixed = {"num_classes": 4, "task_aware_eval": True}

    def run(folder: Path, **options: object) -> int:
        return run_script(*words(tiny_options | fixed | options | {"output_dir": folder})).status

    return run


@pytest.fixture
def straight(
    run: Callable[..., int], finished: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The folder of a run with these options that nothing interrupts; made once."""

    def make(**options: object) -> Path:
        folder = finished.setdefault(str(sorted(options.items())), tmp_path_factory.mktemp("runs") / "run")
        if not folder.exists():
            assert run(folder, **options) == 0
        return folder

    return make


def steps_of_two(number: int) -> Step:
    names = [str(2 * number - 2), str(2 * number - 1)]
    return Step(number, names, (2 * number - 2, 2 * number), train=None)  # type: ignore[arg-type]


@every_method
def test_growth_keeps_old_parameters_and_logits(method: str, make_tiny_arguments: MakeArguments) -> None:
    learned = make_method(*load_encoder(make_tiny_arguments(method=method)))
    model = learned.build(steps_of_two(1)).eval()
    pixel_values = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for step in (steps_of_two(2), steps_of_two(3)):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        with torch.no_grad():
            old_logits = model(pixel_values).logits
            model = learned.grow(context_of(step, model)).eval()
            logits = model(pixel_values).logits
        assert logits.shape[1] == step.num_seen_classes == model.config.num_labels
        if learned.keeps_old_logits:
            for name, old in before.items():
                assert torch.equal(model.get_parameter(name)[tuple(map(slice, old.shape))], old), name
            # One pass over more task tokens rounds differently; the parameters are the very same.
            torch.testing.assert_close(logits[:, : step.num_old_classes], old_logits, atol=1e-6, rtol=0)


class DrawnContext(StepContext):
    """What growth sees of a step: four images of each new class, of which embeddings are drawn."""

    def examples(self, data: PhaseData, held_out: float = 0.0) -> Examples:
        labels = np.repeat(np.arange(*self.step.class_range), 4)
        return Examples(Dataset.from_dict({"image": [None] * len(labels)}), labels, np.arange(len(labels)))

    def embeddings(self, examples: Examples) -> torch.Tensor:
        return torch.randn(len(examples), 16, generator=torch.Generator().manual_seed(self.step.number))


def context_of(step: Step, model: Any) -> StepContext:
    return DrawnContext(step, model, None, scenario=None, evaluator=None, seed=0)  # type: ignore[arg-type]


def matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    return {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}


@pytest.mark.parametrize(("options", "of_step_1"), [*OF_STEP_1, *OTHERS], ids=str)
def test_frozen_parameters_stay_bit_equal_and_others_move(
    options: dict[str, Any],
    of_step_1: list[str] | None,
    straight: Callable[..., Path],
    make_tiny_arguments: MakeArguments,
) -> None:
    phases = make_method(make_tiny_arguments(**options)).phases(steps_of_two(2))
    whole = straight(**options)
    # Where a second phase begins, a run without it ends.
    main = straight(**options, finetuning_epochs=0) if len(phases) > 1 else whole
    weights = [load_weights(folder) for folder in (main / "step1", main / "step2", whole / "step2")]
    for phase, before, after in zip(phases, weights, weights[1:], strict=False):
        # Prototypes are no parameters: they follow the embeddings.
        stayed = {name for name in before if torch.equal(before[name], after[name])} - {"prototypes"}
        assert stayed == matching(before, phase.frozen)
    if of_step_1 is not None:
        assert matching(weights[1], phases[0].frozen) == matching(weights[1], of_step_1)
    # What publishing reads.
    for folder in list_step_folders(whole):
        model = AutoModelForImageClassification.from_pretrained(folder.path)
        if of_step_1 is not None:
            assert model.config.num_task_tokens == (folder.step if options.get("token_expansion", True) else 1)
            assert len(model.classifiers) == (folder.step if options.get("independent_classifiers", True) else 1)
        assert model(torch.zeros(1, 3, 8, 8)).logits.shape == (1, 2 * folder.step)


@every_method
def test_a_run_stopped_within_a_step_ends_as_if_it_was_not(
    method: str,
    run: Callable[..., int],
    straight: Callable[..., Path],
    run_content: RunContent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        # A method without epochs saves no state within a step, but sums at its end.
        name = "statistics" if METHODS[method].keeps_statistics else "step2"
        patched.setattr(os, "replace", stopping_before_the_second(name, os.replace))
        assert run(stopped, method=method) == 128 + signal.SIGTERM
    assert (stopped / "step1").is_dir() and not (stopped / "step2").exists()
    assert run(stopped, method=method) == 0
    assert run_content(stopped) == run_content(straight(method=method))


def stopping_before_the_second(name: str, move: Callable[..., None]) -> Callable[..., None]:
    """Moves files as ever, but for the second with such a name: before it the process is asked to stop."""
    moved: list[str] = []

    def stopping(source: Any, target: Any, **options: Any) -> None:
        moved.extend([name] if Path(target).name.startswith(name) else [])
        if len(moved) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        move(source, target, **options)

    return stopping


@every_method
def test_each_step_folder_is_whole_and_its_memory_within_the_budget(
    method: str, straight: Callable[..., Path], tiny_options: dict[str, Any]
) -> None:
    for number in (1, 2):
        folder = straight(method=method) / f"step{number}"
        files = {"README.md", "results.json", "training_config.yaml", "preprocessor_config.json", "figures"}
        files |= {"config.json", "confusion.csv", *ModelConfig.read(folder).code_files(folder)}
        if METHODS[method].needs_frozen_encoder:
            files |= {f"model-0000{shard}-of-00002.safetensors" for shard in (1, 2)} | {"model.safetensors.index.json"}
        else:
            files.add("model.safetensors")
        files |= {"statistics.safetensors"} if METHODS[method].keeps_statistics else set()
        assert {path.name for path in folder.iterdir()} == files
        measured = json.loads((folder / "results.json").read_text())["steps"][-1]
        assert measured["num_seen_classes"] == 2 * number and len(measured["accuracy_per_step"]) == number
        card = (folder / "README.md").read_text()
        assert f"| Parameters | {measured['num_parameters']:,} |" in card, "no accuracy without the size"
        # Told the step of an image, a model has fewer classes to choose from.
        assert measured["task_aware_accuracy"] >= measured["accuracy"]
        if METHODS[method].uses_memory:
            table = pq.read_table(folder.parent / "memory" / f"step{number}.parquet")
            assert table.num_rows == measured["memory_size"] <= tiny_options["memory_size"]
            assert set(table["class_name"].to_pylist()) == set(map(str, range(2 * number)))
        else:
            assert measured["memory_size"] == 0 and not (folder.parent / "memory").exists()


def test_what_begins_with_cross_entropy_is_the_same_after_the_first_step(straight: Callable[..., Path]) -> None:
    methods = ("replay", "finetune", "joint", "eeil", "bic")
    first, *others = (load_weights(straight(method=method) / "step1") for method in methods)
    for other in others:
        assert all(torch.equal(other[name], tensor) for name, tensor in first.items())
        assert other.keys() - first.keys() <= {"bias_scale", "bias_shift"}


@pytest.mark.slow
def test_every_method_keeps_more_of_the_first_classes_than_finetuning(run: Callable[..., int], tmp_path: Path) -> None:
    sizes = {"max_train_samples_per_class": 40, "max_eval_samples_per_class": 30, "hidden_size": 32}
    learning = {"num_epochs": 8, "learning_rate": 3e-3, "memory_size": 40, "finetuning_epochs": 8}
    plain = {"auto_augment": "none", "horizontal_flip": False, "train_crop": "none"}
    rates = {"dytox": {"finetuning_learning_rate": 3e-3}, "der": {"balanced_learning_rate_factor": 10}}
    kept = {}
    for method in METHODS:
        options = {**sizes, **learning, **plain, **rates.get(method, {}), "method": method}
        assert run(tmp_path / method, **options) == 0
        results = json.loads((tmp_path / method / "results.json").read_text())
        (first,), (kept[method], new) = [step["accuracy_per_step"] for step in results["steps"]]
        assert first > 0.8 and new > 0.5, f"{method} learns, or there is nothing to keep"
    floor = kept.pop("finetune")
    assert floor < 0.2
    assert min(kept.values()) > floor + 0.3, kept


def test_the_method_in_the_guide_for_contributors_learns(
    root: Path, run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text(), re.DOTALL)
    file = tmp_path / "smoothed_replay.py"
    file.write_text(code)
    # A module of its own, as types are looked up there.
    spec = importlib.util.spec_from_file_location("smoothed_replay", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "smoothed_replay", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(METHODS, "smoothed_replay", module.SmoothedReplay)
    assert run(tmp_path / "run", method="smoothed_replay", smoothed_replay_amount=0.2) == 0
    assert "# Smoothed replay on" in (tmp_path / "run" / "step2" / "README.md").read_text()
    recipe = (tmp_path / "run" / "training_config.yaml").read_text()
    assert "smoothed_replay_amount: 0.2" in recipe


def test_another_seed_makes_another_run(straight: Callable[..., Path], run_content: RunContent) -> None:
    contents = [run_content(straight(seed=seed, num_classes=2))["step1"] for seed in (3, 4)]
    assert contents[0] != contents[1]


def test_a_card_names_what_the_options_switch_off(make_tiny_arguments: Callable[..., Arguments]) -> None:
    whole = make_method(make_tiny_arguments()).describe()
    assert whole == METHODS["dytox"].card and "distillation from the previous step" in whole.sentence
    part = make_method(make_tiny_arguments(distillation=False, finetuning_epochs=0)).describe()
    assert part.sentence.endswith("without distillation, finetuning.") and part.title != whole.title
