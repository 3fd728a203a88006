"""PODNet: its head, the terms of its loss, what it refuses, and its proxies in a run."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modeling_dytox.heads import CosineHead, ProxyHead
from tests.command_line import words
from tests.modeling_dytox.small import make_rival
from tests.tiny_convnext import tiny_convnext
from tests.training.conftest import Outcome
from tests.training.methods.oracle import (
    LABELS,
    LOGITS,
    STEP,
    TARGETS,
    MakeArguments,
    cosine,
    learner_of,
    mean,
    stand_in,
)
from tests.training.methods.recorded import RecordedRun, changed, record
from tests.training.methods.test_methods import context_of, steps_of_two
from tests.training.methods.test_pooled_outputs import expected_distance, expected_loss
from training.methods import METHODS, make_method
from training.methods.pooled_outputs import cluster_centres, margin_loss, public_loss
from training.run.encoder import load_encoder


# Steps of the student and of its teacher.
RANGES_OF_BOTH = [[[0, 3], [3, 5]], [[0, 3]]]


@pytest.fixture(scope="module")
def podnet(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """Two steps, with so much weight decay that a proxy would move in an update."""
    folder = tmp_path_factory.mktemp("podnet") / "run"
    return record("podnet", folder, num_classes=4, finetuning_epochs=2, podnet_proxies=3, weight_decay=0.1)


@pytest.mark.parametrize("public", [False, True])
def test_the_option_chooses_the_loss(public: bool, make_arguments: MakeArguments) -> None:
    method: Any = make_method(make_arguments(method="podnet", podnet_public_loss=public))
    model = stand_in(LOGITS)
    model.head = SimpleNamespace(scale=torch.tensor(1.0))
    terms = method.loss(learner_of(model, method.phases(STEP)[0]), torch.zeros(4), TARGETS)
    expected = 0.958703574 if public else 1.056776688
    assert {name: term.item() for name, term in terms.items()} == {"classification": pytest.approx(expected, abs=1e-6)}


def test_with_one_proxy_the_head_is_the_cosine_head_up_to_a_constant() -> None:
    config = SimpleNamespace(hidden_size=16, num_proxies=1, head_scale_init=3.0)
    proxy, cosines = ProxyHead(config, 5), CosineHead(config, 5)
    cosines.load_state_dict(proxy.state_dict())
    drawn = torch.Generator().manual_seed(0)
    embeddings = torch.randn(4, 16, generator=drawn)
    with torch.no_grad():
        logits, expected = proxy(embeddings), 2 * cosines(embeddings)
    torch.testing.assert_close(logits, expected - 2 * 3)
    scale, losses = torch.tensor(3.0), []
    for values in (logits, expected):
        losses.append([loss(values, TARGETS, scale, 0.6).item() for loss in (margin_loss, public_loss)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("spatial", [3.0, 0.0])
def test_the_terms_are_weighed_by_the_root_of_seen_over_new_classes(
    spatial: float, make_arguments: MakeArguments
) -> None:
    method: Any = make_method(make_arguments(method="podnet", podnet_spatial=spatial))
    student, teacher = (
        make_rival("growing_head", class_ranges=ranges, head="proxy", num_proxies=2) for ranges in RANGES_OF_BOTH
    )
    with torch.no_grad():
        for parameter in teacher.dytox.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    images = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    old_maps, old = outputs_of_blocks(teacher, images)
    new_maps, new = outputs_of_blocks(student, images)
    method.teacher = teacher
    main, head = method.phases(STEP)
    terms = {name: term.item() for name, term in method.loss(learner_of(student, main), images, TARGETS).items()}
    similarities = (new["head_logits"] / student.head.scale.item()).tolist()
    expected = expected_loss(similarities, LABELS, student.head.scale.item(), 0.6)
    assert terms["classification"] == pytest.approx(expected, rel=1e-4)
    weight = math.sqrt(5 / 2)
    away = [1 - cosine(*pair) for pair in zip(new["embeddings"].tolist(), old["embeddings"].tolist(), strict=True)]
    assert terms["flat"] == pytest.approx(weight * mean(away), rel=1e-4)
    assert len(new_maps) == 2
    distances = [expected_distance(*maps, rows=3) for maps in zip(new_maps, old_maps, strict=True)]
    assert terms.get("spatial", 0.0) == pytest.approx(spatial * weight * mean(distances), rel=1e-4)
    assert method.loss(learner_of(student, head), images, TARGETS).keys() == {"classification"}


def outputs_of_blocks(model: Any, images: torch.Tensor) -> tuple[list[np.ndarray], Any]:
    """What each block of self-attention gives, caught on its way, and the outputs of the model."""
    caught: list[np.ndarray] = []
    hooks = [
        block.register_forward_hook(lambda block, _, output: caught.append(output.double().numpy()))
        for block in model.dytox.layers
    ]
    with torch.no_grad():
        outputs = model(images)
    for hook in hooks:
        hook.remove()
    return caught, outputs


def test_with_a_frozen_encoder_no_maps_are_distilled_and_the_card_says_so(make_tiny_arguments: MakeArguments) -> None:
    frozen = {"encoder_name_or_path": tiny_convnext(), "image_size": None, "patch_size": None}
    keys, sentences = [], []
    for options in ({}, frozen):
        method: Any = make_method(*load_encoder(make_tiny_arguments(method="podnet", **options)))
        context = context_of(steps_of_two(2), method.build(steps_of_two(1)))
        method.before_growth(context)
        model = method.grow(context)
        (main, _) = method.phases(context.step)
        targets = torch.eye(4)
        keys.append(set(method.loss(learner_of(model, main, context.step), torch.randn(4, 3, 8, 8), targets)))
        sentences.append(method.describe().sentence)
    assert keys == [{"classification", "flat", "spatial"}, {"classification", "flat"}]
    assert sentences[0] == METHODS["podnet"].card.sentence and "maps of all blocks" in sentences[0]
    assert "maps is left out: the encoder is frozen" in sentences[1] and "all blocks" not in sentences[1]


def test_mixed_labels_are_refused(
    run_script: Callable[..., Outcome], tiny_options: dict[str, object], tmp_path: Path
) -> None:
    options = {"method": "podnet", "mixup_alpha": 0.8, "output_dir": tmp_path / "run"}
    refusal = run_script(*words(tiny_options | options)).refusal
    assert refusal.startswith("error: --mixup_alpha 0.8: ") and "podnet" in refusal


def test_new_proxies_start_as_long_as_old_ones_at_centres_of_the_old_model(podnet: RecordedRun) -> None:
    first, main = podnet.phases[1, "main"], podnet.phases[2, "main"]
    new = main.context.step.train
    embeddings = torch.from_numpy(main.outputs(first.ended, new, "embeddings"))
    old_rows, rows = first.ended.head.weight, main.begun.head.weight
    lengths = old_rows.norm(dim=1)
    expected = lengths.mean() * cluster_centres(embeddings, torch.from_numpy(new.labels) - 2, 3, seed=0).float()
    assert rows.shape == (12, 16) and torch.equal(rows[:6], old_rows) and lengths.std() > 0
    torch.testing.assert_close(rows[6:], expected)


def test_old_proxies_stay_in_the_main_phase_and_move_when_the_head_is_tuned(podnet: RecordedRun) -> None:
    main, head = podnet.phases[2, "main"], podnet.phases[2, "head"]
    moved = [(phase.begun.head.weight != phase.trained.head.weight).any(dim=1).tolist() for phase in (main, head)]
    assert moved == [[False] * 6 + [True] * 6, [True] * 12]
    assert changed(main.begun, main.trained) > {"head.weight", "head.scale", "dytox.task_tokens.0"}
    assert changed(head.begun, head.trained) == {"head.weight", "head.scale"}
    # From the memory, which has exemplars of the new classes by then.
    assert np.bincount(head.examples.labels).tolist() == [6] * 4
