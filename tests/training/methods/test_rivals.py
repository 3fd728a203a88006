"""The losses and hooks of the methods that DyTox is compared with, against their formulas written as loops."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import ModelOutput

from tests.modeling_dytox.small import make_rival
from tests.training.methods.oracle import (
    LABELS,
    LOGITS,
    NUM_OLD,
    TARGETS,
    TEACHER,
    MakeArguments,
    expected_cross_entropy,
    expected_distillation,
    mean,
    sigmoid,
    terms_of,
    unit,
)
from tests.training.methods.test_methods import context_of, steps_of_two
from training.methods import METHODS, make_method
from training.methods.losses import cross_entropy, knowledge_distillation, one_hot_targets
from training.methods.prototypes import class_means
from training.methods.wa import align


def test_shared_losses_have_the_check_values() -> None:
    logits, teacher = torch.tensor(LOGITS), torch.tensor(TEACHER)
    assert expected_cross_entropy(LOGITS, LABELS) == pytest.approx(0.952794256, abs=1e-9)
    assert expected_distillation(2) == pytest.approx(1.125194682, abs=1e-9)
    assert cross_entropy(logits, TARGETS.float()).item() == pytest.approx(0.952794256, abs=1e-6)
    assert knowledge_distillation(logits, teacher, 2).item() == pytest.approx(1.125194682, abs=1e-6)
    # Targets that MixUp has mixed: the mixture of the losses.
    mixed = 0.3 * TARGETS + 0.7 * TARGETS.roll(1, dims=0)
    losses = [expected_cross_entropy(LOGITS, labels) for labels in (LABELS, [4, 0, 2, 3])]
    expected = 0.3 * losses[0] + 0.7 * losses[1]
    assert cross_entropy(logits, mixed.float()).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", ["replay", "finetune", "joint"])
def test_the_baselines_take_cross_entropy(method: str, make_arguments: MakeArguments) -> None:
    terms = terms_of(method, make_arguments, has_teacher=False)
    assert terms == {"classification": pytest.approx(expected_cross_entropy(LOGITS, LABELS), abs=1e-6)}


def test_wa_weighs_cross_entropy_and_distillation_by_the_fraction_of_old_classes(
    make_arguments: MakeArguments,
) -> None:
    terms = terms_of("wa", make_arguments)
    assert sum(terms.values()) == pytest.approx(1.056234512, abs=1e-6)
    assert terms["distillation"] == pytest.approx(0.6 * expected_distillation(2), abs=1e-6)
    warmer = terms_of("wa", make_arguments, distillation_temperature=4)
    assert warmer["distillation"] == pytest.approx(0.6 * expected_distillation(4), abs=1e-6)
    # A teacher that predicts by the nearest mean, say: its cosines are no logits.
    outputs = ModelOutput(logits=torch.zeros(4, NUM_OLD), head_logits=torch.tensor(TEACHER))
    assert terms_of("wa", make_arguments, teacher=lambda pixel_values: outputs) == pytest.approx(terms)
    first = terms_of("wa", make_arguments, has_teacher=False)
    assert first == {"classification": pytest.approx(expected_cross_entropy(LOGITS, LABELS), abs=1e-6)}


def test_icarl_takes_the_teachers_scores_as_targets_of_old_classes_also_for_their_exemplars(
    make_arguments: MakeArguments,
) -> None:
    losses = []
    for row, teacher, label in zip(LOGITS, TEACHER, LABELS, strict=True):
        for column, value in enumerate(row):
            target = sigmoid(teacher[column]) if column < NUM_OLD else float(column == label)
            losses.append(-target * math.log(sigmoid(value)) - (1 - target) * math.log(1 - sigmoid(value)))
    assert mean(losses) == pytest.approx(0.684176318, abs=1e-9)
    assert sum(terms_of("icarl", make_arguments).values()) == pytest.approx(mean(losses), abs=1e-6)


def test_alignment_makes_the_mean_norms_equal_and_leaves_old_rows_alone() -> None:
    drawn = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 8, generator=drawn)
    # After training on many new images and few old ones, new rows are long.
    weight[6:] *= 5
    embeddings = torch.randn(500, 8, generator=drawn)
    before = (embeddings @ weight.T).argmax(dim=1)
    aligned = weight.clone()
    align(aligned, 6)
    lengths = [[math.sqrt(sum(value**2 for value in row)) for row in rows.tolist()] for rows in (aligned, weight)]
    assert mean(lengths[0][6:]) == pytest.approx(mean(lengths[0][:6]), rel=1e-6)
    assert torch.equal(aligned[:6], weight[:6]), "logits of old classes stay bit by bit"
    ratios = [new / old for new, old in zip(lengths[0][6:], lengths[1][6:], strict=True)]
    assert ratios == pytest.approx([ratios[0]] * 4), "one factor for all"
    shares = [(predicted >= 6).float().mean().item() for predicted in (before, (embeddings @ aligned.T).argmax(dim=1))]
    assert abs(shares[1] - 0.4) < abs(shares[0] - 0.4), "predictions move towards the share of the new classes"
    again = aligned.clone()
    align(again, 6)
    torch.testing.assert_close(again, aligned)


def test_wa_aligns_its_model_after_the_main_phase_from_the_second_step_on(
    make_tiny_arguments: MakeArguments,
) -> None:
    method = make_method(make_tiny_arguments(method="wa"))
    model: Any = method.build(steps_of_two(1))
    assert model.head.linear.bias is None
    for number in (1, 2):
        step = steps_of_two(number)
        model = model if number == 1 else method.grow(context_of(step, model))
        with torch.no_grad():
            model.head.linear.weight[-1] *= 7
        before = model.head.linear.weight.detach().clone()
        method.after_phase(context_of(step, model), method.phases(step)[0])
        changed = (model.head.linear.weight != before).any(dim=1).tolist()
        assert changed == ([False] * 2 if number == 1 else [False, False, True, True])


def test_prototypes_are_the_normalised_means_of_normalised_embeddings() -> None:
    embeddings = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 21)[:, None]
    labels = [row % 3 for row in range(20)]
    rows = [[value / math.hypot(*row) for value in row] for row in embeddings.tolist()]
    for label, found in enumerate(class_means(embeddings, labels).tolist()):
        of_class = [row for row, other in zip(rows, labels, strict=True) if other == label]
        total = [sum(column) for column in zip(*of_class, strict=True)]
        assert found == pytest.approx([value / math.hypot(*total) for value in total], abs=1e-6)


def test_with_all_images_as_exemplars_the_nearest_exemplar_mean_is_the_nearest_class_mean() -> None:
    drawn = np.random.default_rng(0)
    labels = np.arange(120) % 4
    embeddings = drawn.normal(size=(120, 16)) + 0.7 * drawn.normal(size=(4, 16))[labels]
    units = unit(embeddings)
    means = unit(np.stack([units[labels == label].mean(axis=0) for label in range(4)]))
    nearest = ((units[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    model: Any = make_rival("growing_head", class_ranges=[[0, 4]], prediction="nearest_mean", hidden_size=16)
    model.prototypes = class_means(torch.from_numpy(embeddings), labels.tolist())
    predicted = model.similarities(torch.from_numpy(embeddings)).argmax(dim=1)
    assert predicted.tolist() == nearest.tolist() and 0.4 < (nearest == labels).mean() < 1


def test_der_adds_the_auxiliary_loss_in_the_main_phase_and_softens_the_second(
    make_tiny_arguments: MakeArguments,
) -> None:
    method: Any = make_method(make_tiny_arguments(method="der", der_auxiliary_weight=0.5))
    model: Any = method.build(steps_of_two(1))
    step = steps_of_two(2)
    model = method.grow(context_of(step, model)).eval()
    main, classifier = method.phases(step)
    auxiliary = method.auxiliary_modules(model, step, main)
    assert method.auxiliary_modules(model, step, classifier) == {}
    labels = [0, 1, 2, 3, 3]
    pixel_values = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = one_hot_targets(torch.tensor(labels), 4)
    learner: Any = SimpleNamespace(model=model, step=step, phase=main, auxiliary=auxiliary)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("branched.branches.0."))
    terms = method.loss(learner, pixel_values, targets)
    sum(terms.values()).backward()
    assert all(parameter.grad is None for parameter in model.branched.branches[0].parameters())
    assert all(parameter.grad is not None for parameter in model.branched.branches[1].parameters())

    with torch.no_grad():
        outputs = model(pixel_values)
        (layer,) = auxiliary.values()
        of_branch = (outputs.branch_embeddings[:, 1] @ layer.weight.T).tolist()
    logits = outputs.logits.tolist()
    assert terms["classification"].item() == pytest.approx(expected_cross_entropy(logits, labels), abs=1e-5)
    # Any old class is 0, the new ones follow.
    moved = [max(0, label - 1) for label in labels]
    assert terms["auxiliary"].item() == pytest.approx(0.5 * expected_cross_entropy(of_branch, moved), abs=1e-5)
    learner = SimpleNamespace(model=model, step=step, phase=classifier, auxiliary={})
    softened = [[value / 5 for value in row] for row in logits]
    (term,) = method.loss(learner, pixel_values, targets).values()
    assert term.item() == pytest.approx(expected_cross_entropy(softened, labels), abs=1e-5)


def test_every_method_says_what_it_is() -> None:
    for name, method in METHODS.items():
        assert method.name == name and method.summary and method.card.title and method.card.sentence.endswith(".")
        is_cited = method.card.citation.startswith(("@inproceedings", "@article"))
        assert name in ("dytox", "replay", "finetune", "joint") or is_cited
    der = METHODS["der"].card
    assert "without pruning" in der.sentence and "Not Dark Experience Replay" in der.sentence
    assert np.unique([method.summary for method in METHODS.values()]).size == len(METHODS)
