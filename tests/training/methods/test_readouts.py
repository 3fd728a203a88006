"""The two readouts of models with prototypes, as they are measured and published, and the floor of forgetting."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Image
from transformers import AutoModelForImageClassification, ViTImageProcessor

from hub.cards.model_card import render_card
from hub.run.step_folder import StepFolder
from tests.command_line import words
from tests.training.conftest import Outcome
from tests.training.methods.oracle import MakeArguments, unit
from tests.training.methods.recorded import OPTIONS, RecordedRun, record
from tests.weights import load_weights
from training import evaluate
from training.data.scenario import LearnedClasses, make_scenario
from training.data.splits import load_splits
from training.methods import METHODS, make_method
from training.parsing import parse_arguments


BY_HEAD, BY_MEAN = "logits", "nearest_mean"
Runs = dict[str, RecordedRun]


@pytest.fixture(scope="module", params=["ucir", "icarl"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The same two steps, learned by a method whose model predicts by the head, and by the nearest mean."""
    folder = tmp_path_factory.mktemp(request.param)
    options: dict[str, Any] = {"num_classes": 4, "num_epochs": 2}
    return {
        prediction: record(request.param, folder / prediction, prediction=prediction, **options)
        for prediction in (BY_HEAD, BY_MEAN)
    }


def test_the_rule_that_predicts_changes_nothing_else(runs: Runs) -> None:
    first, second = (load_weights(runs[rule].folder / "step2") for rule in (BY_HEAD, BY_MEAN))
    assert first.keys() == second.keys() and "prototypes" in first
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_both_readouts_are_recorded_and_swap_with_the_rule(runs: Runs) -> None:
    pairs = []
    for by_head, by_mean in zip(runs[BY_HEAD].steps, runs[BY_MEAN].steps, strict=True):
        pairs.append((by_head["accuracy"], by_head["nearest_mean_accuracy"]))
        assert (by_mean["head_accuracy"], by_mean["accuracy"]) == pairs[-1]
        assert by_head.get("head_accuracy") is by_mean.get("nearest_mean_accuracy") is None
    assert any(head != mean for head, mean in pairs), "or nothing could have been mixed up"


def test_the_nearest_mean_is_that_of_the_exemplars_in_the_memory(runs: Runs) -> None:
    run = runs[BY_MEAN]
    model: Any = AutoModelForImageClassification.from_pretrained(run.folder / "step2").eval()
    processor = ViTImageProcessor.from_pretrained(run.folder / "step2")

    def embeddings(images: list[Any]) -> np.ndarray:
        with torch.no_grad():
            found = model(**processor([image.convert("RGB") for image in images], return_tensors="pt")).embeddings
        return unit(found.double().numpy())

    table = pq.read_table(run.folder / "memory" / "step2.parquet", columns=["image", "label"])
    kept = Dataset(table).cast(Features({"image": Image(), "label": Dataset(table).features["label"]}))
    exemplars, of_kept = embeddings(kept["image"][:]), np.array(table["label"])
    means = unit(np.stack([exemplars[of_kept == label].mean(axis=0) for label in range(4)]))
    np.testing.assert_allclose(model.prototypes.numpy(), means, atol=1e-5)
    data = parse_arguments(words(OPTIONS | {"num_classes": 4})).data
    test = make_scenario(load_splits(data, 0), data, LearnedClasses()).test
    of_test = embeddings(test.images_at(np.arange(len(test))))
    nearest = ((of_test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == test.labels).mean() == pytest.approx(run.steps[-1]["accuracy"])


@pytest.mark.parametrize(
    ("rule", "row", "number"),
    [
        (BY_HEAD, "Accuracy of the nearest class mean", "nearest_mean_accuracy"),
        (BY_MEAN, "Accuracy of the head's largest logit, as it is", "head_accuracy"),
    ],
)
def test_card_and_evaluation_have_the_other_readout(
    rule: str, row: str, number: str, runs: Runs, run_script: Callable[..., Outcome], tmp_path: Path
) -> None:
    last = runs[rule].steps[-1]
    card = render_card(StepFolder.read(runs[rule].folder / "step2"))
    assert f"| {row} | {100 * last[number]:.2f} % |" in card
    assert card.count("| Accuracy of the ") == 1
    chosen = {"model": runs[rule].folder / "step2", "dataset_name": "digits", "num_workers": 0}
    chosen |= {"max_eval_samples_per_class": 10, "output_file": tmp_path / "numbers.json"}
    outcome = run_script(*words(chosen), main=evaluate.main)
    assert outcome.status == 0 and "recorded numbers agree" in outcome.output
    assert json.loads((tmp_path / "numbers.json").read_text())["measured"][number] == pytest.approx(last[number])


def test_the_card_of_icarl_names_the_rule(make_arguments: MakeArguments) -> None:
    by_mean, by_head = (
        make_method(make_arguments(method="icarl", **options)) for options in ({}, {"prediction": BY_HEAD})
    )
    assert by_mean.describe() == METHODS["icarl"].card
    assert by_mean.describe().sentence.endswith("prediction by the nearest mean of exemplars.")
    assert by_head.describe().sentence.endswith("prediction by the scores of the head.")
    assert [method.model_fields()["prediction"] for method in (by_mean, by_head)] == [BY_MEAN, BY_HEAD]


def test_finetuning_forgets_every_earlier_step(tmp_path: Path) -> None:
    steps = record("finetune", tmp_path / "run", num_epochs=8).steps
    assert all(step["accuracy_per_step"][-1] > 0.6 for step in steps), "it learns what it can forget"
    for step in steps[1:]:
        assert max(step["accuracy_per_step"][:-1]) <= 0.1
