"""The quirks of the authors' code, each an option, give what the authors' code gives."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from modeling_dytox.convert_original_to_hf import original_to_hf_names
from training.arguments import Arguments
from training.data.scenario import Step
from training.loop.learner import LossModule
from training.loop.phase import freeze, make_optimizer
from training.methods import make_method
from training.methods.dytox import DyTox


Train = Callable[..., Path]
Updates = list[tuple[str, list[int], list[bytes]]]


@pytest.fixture(scope="module")
def schedule(root: Path) -> dict[str, np.ndarray]:
    """Learning rates of the authors' CIFAR configuration, and which parameters their weight decay spares."""
    with np.load(root / "tests" / "fixtures" / "schedule.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.slow
def test_the_lagging_schedule_is_theirs_epoch_by_epoch(schedule: dict[str, np.ndarray], train: Train) -> None:
    # The rate depends on the global batch alone: two batches of 128 here, two processes there.
    tiny = {"num_classes": 2, "max_train_samples_per_class": 1, "hidden_size": 4, "num_hidden_layers": 1}
    batches = {"per_device_train_batch_size": 128, "gradient_accumulation_steps": 2}
    rates = {"learning_rate": 5e-4, "learning_rate_batch_size": 512, "num_epochs": 500}
    folder = train(**tiny, **batches, **rates, lagging_schedule=True)
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    used = [record["learning_rate"] for record in records if "learning_rate" in record]
    np.testing.assert_allclose(used, schedule["lr_per_epoch_world2"], rtol=0, atol=1e-12)


def test_weight_decay_spares_what_theirs_spares(
    schedule: dict[str, np.ndarray], make_tiny_arguments: Callable[..., Arguments]
) -> None:
    arguments = make_tiny_arguments(num_hidden_layers=3)
    method = make_method(arguments)
    first, second = Step(1, ["a"], (0, 1), None), Step(2, ["b"], (1, 2), None)  # type: ignore[arg-type]
    model = method.build(first)
    model.add_task(second.class_names)
    main = method.phases(second)[0]
    freeze(model, main.frozen)
    learner = LossModule(method, model, second, main)
    names = {id(parameter): name.removeprefix("model.") for name, parameter in learner.named_parameters()}
    ours = {
        group["weight_decay"] > 0: {names[id(parameter)] for parameter in group["params"]}
        for group in make_optimizer(learner, main, 1e-6, 1e-3).param_groups
    }
    original = {name: list(map(str, schedule[f"{name}_names"])) for name in ("decay", "no_decay")}
    # Their frozen token and classifier of the first step are in no group: the converter wants a whole model.
    classifier = [f"head.0.{name}" for name in ("norm.weight", "norm.bias", "head.weight", "head.bias")]
    known = original_to_hf_names([*original["decay"], *original["no_decay"], "task_tokens.0", *classifier])
    divergence = {"norm": "layernorm", "head": "linear"}
    for decayed, kind in ((True, "decay"), (False, "no_decay")):
        theirs = {ours_name for name in original[kind] for ours_name in known[name]}
        for name in original[kind]:
            if name.startswith("head_div."):
                _, part, parameter = name.split(".")
                theirs.add(f"auxiliary.divergence_classifier.{divergence[part]}.{parameter}")
        assert ours[decayed] == theirs


class Recording(DyTox):
    """Collects the label and the pixels of every image that a loss is taken of, update by update."""

    updates: Updates

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        pixels = [image.numpy().tobytes() for image in pixel_values]
        Recording.updates.append((learner.phase.name, targets.argmax(1).tolist(), pixels))
        return super().loss(learner, pixel_values, targets)


@pytest.fixture
def record(train: Train) -> Callable[..., Updates]:
    """Trains with these options, without augmentation; gives what [`Recording`] collects."""
    plain = {"auto_augment": "none", "train_crop": "none", "horizontal_flip": False, "num_epochs": 1}

    def run(**options: object) -> Updates:
        Recording.updates = []
        train(method=Recording, **plain, **options)
        return Recording.updates

    return run


@pytest.mark.parametrize("shuffle", [False, True])
def test_finetuning_follows_the_stored_memory_or_sees_every_exemplar(
    record: Callable[..., Updates], shuffle: bool
) -> None:
    updates = record(shuffle_finetuning=shuffle, num_classes=4, memory_size=24, per_device_train_batch_size=10)
    finetuning = [labels for phase, labels, _ in updates if phase == "finetuning"]
    if shuffle:
        drawn = [label for labels in finetuning for label in labels]
        assert sorted(drawn) == sorted([0, 1, 2, 3] * 6) and drawn != sorted(drawn)
    else:
        # Six exemplars of each of four classes. Below 256 the rest that fills no batch is kept.
        assert finetuning == [[0] * 6 + [1] * 4, [1] * 2 + [2] * 6 + [3] * 2, [3] * 4]


def test_repeated_augmentation_shows_a_third_of_the_images(record: Callable[..., Updates]) -> None:
    updates = record(repeated_augmentation=3, max_train_samples_per_class=60, num_classes=2)
    seen = [image for _, _, pixels in updates for image in pixels]
    counts = np.unique(seen, return_counts=True)[1]
    # Seven full batches of the 120 draws.
    assert len(seen) == 112 and len(counts) <= -(-112 // 3) and set(counts[counts != 3]) <= {1, 2}
