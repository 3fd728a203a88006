"""UCIR: its head, rows that start at class means, its loss against loops, and old rows that stay."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from tests.modeling_dytox.small import make_rival
from tests.training.methods.oracle import (
    LABELS,
    LOGITS,
    NUM_CLASSES,
    NUM_OLD,
    STEP,
    TARGETS,
    MakeArguments,
    cosine,
    expected_cross_entropy,
    learner_of,
    mean,
    unit,
)
from tests.training.methods.recorded import RecordedRun, changed, record
from tests.training.methods.test_methods import DrawnContext, steps_of_two
from training.data.examples import Examples
from training.data.scenario import Step
from training.methods import PhaseData, make_method
from training.methods.losses import one_hot_targets
from training.methods.ucir import margin_ranking


@pytest.fixture(scope="module")
def ucir(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """Two steps, with the phase of the head and so much weight decay that a row would move in an update."""
    folder = tmp_path_factory.mktemp("ucir") / "run"
    return record("ucir", folder, num_classes=4, finetuning_epochs=2, weight_decay=0.1)


def expected_margin(
    cosines: Sequence[Sequence[float]], labels: Sequence[int], margin: float, top_k: int, num_old: int = NUM_OLD
) -> float:
    """Over images of old classes and the nearest new classes; 0 without such images."""
    losses = []
    for row, label in zip(cosines, labels, strict=True):
        if label < num_old:
            nearest = sorted(row[num_old:], reverse=True)[:top_k]
            losses.append(mean([max(0.0, margin - row[label] + other) for other in nearest]))
    return mean(losses) if losses else 0.0


def margin_term(cosines: torch.Tensor, targets: torch.Tensor, margin: float, top_k: int) -> torch.Tensor:
    """The term where all batches have as many exemplars as this one."""
    num_exemplars = (targets[:, :NUM_OLD] == 1).sum().item()
    return margin_ranking(cosines, targets, NUM_OLD, margin, top_k, max(1, num_exemplars) / len(targets))


@pytest.mark.parametrize(("margin", "value"), [(0.5, 0.0), (1.5, 0.230690060), (2.0, 0.622678035)])
def test_the_margin_term_has_the_check_values(margin: float, value: float) -> None:
    assert expected_margin(LOGITS, LABELS, margin, 2) == pytest.approx(value, abs=1e-9)
    assert margin_term(torch.tensor(LOGITS), TARGETS, margin, 2).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("top_k", [1, 2, 3, 9])
@pytest.mark.parametrize("labels", [[0, 1, 2, 5, 4, 0], [1, 1, 1, 1, 1, 1], [3, 4, 5, 6, 3, 4]], ids=str)
def test_the_margin_term_is_a_mean_over_exemplars_and_the_nearest_new_classes(labels: list[int], top_k: int) -> None:
    cosines = [[math.sin(3 + 7 * row + 2 * column) for column in range(7)] for row in range(6)]
    expected = expected_margin(cosines, labels, 0.5, top_k)
    assert (expected == 0) == (min(labels) >= NUM_OLD), "a batch without exemplars gives 0"
    found = margin_term(torch.tensor(cosines), one_hot_targets(torch.tensor(labels), 7), 0.5, top_k)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_parts_of_a_batch_give_the_margin_term_of_the_whole() -> None:
    cosines = torch.sin(torch.arange(42.0)).reshape(6, 7)
    targets = one_hot_targets(torch.tensor([0, 1, 2, 3, 4, 0]), 7)
    whole = margin_term(cosines, targets, 0.5, 2)
    # Three exemplars and one: a mean over those of each part would weigh the one threefold.
    parts = [
        margin_ranking(cosines[place], targets[place], NUM_OLD, 0.5, 2, 4 / 6) for place in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_exemplars_are_counted_when_a_phase_begins(make_arguments: MakeArguments) -> None:
    method: Any = make_method(make_arguments(method="ucir"))
    labels = np.array([0, 3, 4, 4])
    images = Examples(Dataset.from_dict({"image": [None] * 4}), labels, labels)
    context: Any = SimpleNamespace(step=STEP, examples=lambda data, held_out: images)
    assert method.examples(context, method.phases(STEP)[0]) is images
    assert method.exemplar_share == 1 / 4


def test_images_that_mixup_has_mixed_have_no_margin_term() -> None:
    cosines, mixed = torch.tensor(LOGITS, requires_grad=True), TARGETS.clone()
    mixed[0] = 0.7 * TARGETS[0] + 0.3 * TARGETS[3]
    found = margin_term(cosines, mixed, 2.0, 2)
    # The images of classes 0 and 2 are of old classes; the first does not count now.
    assert found.item() == pytest.approx(expected_margin(LOGITS[1:], LABELS[1:], 2.0, 2), abs=1e-6)
    (gradient,) = torch.autograd.grad(found, cosines)
    assert gradient.any(dim=1).tolist() == [False, True, False, False]
    all_mixed = 0.9 * TARGETS + 0.1 / NUM_CLASSES
    assert margin_term(cosines, all_mixed, 2.0, 2).item() == 0


def test_only_the_direction_of_an_embedding_counts() -> None:
    head: Any = make_rival("growing_head", class_ranges=[[0, 3], [3, 5]], head="cosine").head
    embeddings = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, scale = head(embeddings), head.scale.item()
        torch.testing.assert_close(head(torch.logspace(-2, 2, 6)[:, None] * embeddings), logits)
    for row, embedding in zip(logits.tolist(), embeddings.tolist(), strict=True):
        assert row == pytest.approx(
            [scale * cosine(embedding, of_class) for of_class in head.weight.tolist()], abs=1e-5
        )


def test_the_loss_weighs_the_direction_of_embeddings_by_the_root_of_old_over_new_classes(
    make_arguments: MakeArguments,
) -> None:
    method: Any = make_method(make_arguments(method="ucir", ucir_margin=1.5, finetuning_epochs=2))
    student, teacher = (
        make_rival("growing_head", class_ranges=ranges, head="cosine") for ranges in ([[0, 3], [3, 5]], [[0, 3]])
    )
    images = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        teacher.dytox.task_tokens[0].mul_(-2)
        outputs, old = student(images), teacher(images).embeddings.tolist()
    new = outputs.embeddings.tolist()
    main, head = method.phases(STEP)
    without_teacher = method.loss(learner_of(student, main), images, TARGETS)
    assert without_teacher.keys() == {"classification"}
    method.teacher, method.exemplar_share = teacher, 2 / 4
    terms = {name: term.item() for name, term in method.loss(learner_of(student, main), images, TARGETS).items()}
    away = mean([1 - cosine(*pair) for pair in zip(new, old, strict=True)])
    assert away > 0.1
    assert terms["distillation"] == pytest.approx(5 * math.sqrt(3 / 2) * away, rel=1e-5)
    cosines = [[cosine(embedding, row) for row in student.head.weight.tolist()] for embedding in new]
    assert terms["margin"] == pytest.approx(expected_margin(cosines, LABELS, 1.5, 2), rel=1e-5)
    assert terms["classification"] == pytest.approx(expected_cross_entropy(outputs.logits.tolist(), LABELS), rel=1e-5)
    assert terms.keys() == {"classification", "distillation", "margin"}
    assert method.loss(learner_of(student, head), images, TARGETS).keys() == {"classification"}


class ClusteredContext(DrawnContext):
    """Images whose embeddings lie around a centre for each class."""

    def examples(self, data: PhaseData, held_out: float = 0.0) -> Examples:
        labels = np.repeat(np.arange(*self.step.class_range), 30)
        return Examples(Dataset.from_dict({"image": [None] * len(labels)}), labels, np.arange(len(labels)))

    def embeddings(self, examples: Examples) -> torch.Tensor:
        drawn = torch.Generator().manual_seed(0)
        centres = torch.randn(20, 16, generator=drawn)[torch.from_numpy(examples.labels)]
        lengths = 10 * torch.rand(len(examples), 1, generator=drawn)
        return lengths * (centres + 0.7 * torch.randn(len(examples), 16, generator=drawn))


def test_imprinted_rows_know_new_classes_before_they_are_trained(make_tiny_arguments: MakeArguments) -> None:
    method = make_method(make_tiny_arguments(method="ucir"))
    step = Step(2, [str(label) for label in range(2, 12)], (2, 12), train=None)  # type: ignore[arg-type]
    model: Any = method.build(steps_of_two(1))
    context = ClusteredContext(step, model, None, scenario=None, evaluator=None, seed=0)  # type: ignore[arg-type]
    model = method.grow(context)
    images = context.examples("new")
    with torch.no_grad():
        predicted = model.head(context.embeddings(images)).argmax(dim=1).numpy()
    assert (predicted == images.labels).mean() > 0.9, "of twelve classes"


def test_rows_of_new_classes_start_along_their_class_means_as_long_as_old_rows(ucir: RecordedRun) -> None:
    first, main = ucir.phases[1, "main"], ucir.phases[2, "main"]
    new = main.context.step.train
    embeddings = main.outputs(first.ended, new, "embeddings").astype(np.float64)
    old_rows, rows = first.ended.head.weight.numpy(), main.begun.head.weight.numpy()
    means = unit(np.stack([unit(embeddings)[new.labels == label].mean(axis=0) for label in (2, 3)]))
    lengths = np.linalg.norm(old_rows, axis=1)
    np.testing.assert_allclose(rows[2:], lengths.mean() * means, atol=1e-6)
    assert np.array_equal(rows[:2], old_rows) and lengths[0] != lengths[1]


def test_old_rows_stay_in_the_main_phase_and_move_when_the_head_is_tuned(ucir: RecordedRun) -> None:
    main, head = ucir.phases[2, "main"], ucir.phases[2, "head"]
    moved = [(phase.begun.head.weight != phase.trained.head.weight).any(dim=1).tolist() for phase in (main, head)]
    assert moved == [[False, False, True, True], [True] * 4]
    assert changed(main.begun, main.trained) > {"head.weight", "head.scale", "dytox.task_tokens.0"}
    assert changed(head.begun, head.trained) == {"head.weight", "head.scale"}
    # It learns from as many images of each class.
    assert np.bincount(head.examples.labels).tolist() == [6] * 4


def test_the_head_is_tuned_only_where_it_is_asked_for(make_arguments: MakeArguments) -> None:
    for epochs, names in ((0, ["main"]), (3, ["main", "head"])):
        method = make_method(make_arguments(method="ucir", finetuning_epochs=epochs))
        assert [phase.name for phase in method.phases(STEP)] == names
        assert [phase.name for phase in method.phases(steps_of_two(1))] == ["main"]
