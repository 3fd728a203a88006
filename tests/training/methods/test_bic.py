"""BiC: its loss, and the two numbers of a step: what they are fitted on, and what they change."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState

from tests.modeling_dytox.small import make_rival
from tests.training.methods.oracle import (
    LABELS,
    NUM_CLASSES,
    STEP,
    TARGETS,
    MakeArguments,
    expected_cross_entropy,
    expected_distillation,
    learner_of,
    terms_of,
)
from tests.training.methods.recorded import RecordedPhase, RecordedRun, changed, record, sources
from training.data.examples import Examples, concatenate
from training.methods import Phase, make_method
from training.methods.bic import fit_correction


@pytest.fixture(scope="module")
def bic(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """A run with several times as many new images as exemplars of a class, which it learns in full."""
    many = {"max_train_samples_per_class": 100, "memory_size": 48, "bic_validation_fraction": 0.4, "num_epochs": 5}
    return record("bic", tmp_path_factory.mktemp("bic") / "run", **many)


def test_bic_is_taught_by_corrected_logits_and_learns_raw_ones(make_arguments: MakeArguments) -> None:
    uncorrected = terms_of("bic", make_arguments)
    assert sum(uncorrected.values()) == pytest.approx(1.056234512, abs=1e-6)
    student, teacher = (
        make_rival("growing_head", class_ranges=ranges, bias_correction=True)
        for ranges in ([[0, 2], [2, 3], [3, 5]], [[0, 2], [2, 3]])
    )
    images = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    teacher.bias_scale, teacher.bias_shift = torch.tensor([1.0, 0.4]), torch.tensor([0.0, -0.7])
    student.bias_scale, student.bias_shift = torch.tensor([1.0, 0.3, 1.0]), torch.tensor([0.0, -0.9, 0.0])
    with torch.no_grad():
        raw, corrected = student(images).head_logits.tolist(), teacher(images).head_logits.tolist()
    for row in corrected:
        row[2] = 0.4 * row[2] - 0.7
    method: Any = make_method(make_arguments(method="bic"))
    method.teacher = teacher
    terms = method.loss(learner_of(student, method.phases(STEP)[0]), images, TARGETS)
    assert terms["classification"].item() == pytest.approx(0.4 * expected_cross_entropy(raw, LABELS), rel=1e-5)
    assert terms["distillation"].item() == pytest.approx(0.6 * expected_distillation(2, raw, corrected), rel=1e-5)


def objective(numbers: np.ndarray, logits: np.ndarray, labels: np.ndarray, num_old: int) -> float:
    """Cross-entropy of corrected logits, and a twentieth of the squared shift."""
    corrected = logits.astype(np.float64)
    corrected[:, num_old:] = numbers[0] * corrected[:, num_old:] + numbers[1]
    scores = np.exp(corrected) / np.exp(corrected).sum(axis=1, keepdims=True)
    return float(-np.log(scores[np.arange(len(labels)), labels]).mean() + 0.05 * numbers[1] ** 2)


def assert_is_least(
    numbers: np.ndarray, logits: np.ndarray, labels: np.ndarray, num_old: int, rounding: float
) -> None:
    """The objective, which is convex, has no slope there, and is nowhere smaller."""
    least = objective(numbers, logits, labels, num_old)
    for side in np.eye(2):
        ends = [objective(numbers + sign * 1e-4 * side, logits, labels, num_old) for sign in (1, -1)]
        assert abs(ends[0] - ends[1]) / 2e-4 < rounding
    scales, shifts = np.linspace(0.05, 3, 30), np.linspace(-3, 3, 31)
    others = [objective(np.array([scale, shift]), logits, labels, num_old) for scale in scales for shift in shifts]
    assert least <= min(others) and least <= objective(np.array([1.0, 0.0]), logits, labels, num_old)


@pytest.mark.parametrize("seed", range(3))
def test_the_two_numbers_of_bic_have_the_least_loss_on_images_held_out(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    labels = np.repeat(np.arange(NUM_CLASSES), 40)
    # The softmax of these is how likely each class is; those of new classes are then moved up.
    logits = 2 * drawn.normal(size=(len(labels), NUM_CLASSES)) + 4 * np.eye(NUM_CLASSES)[labels]
    logits[:, 3:] = 1.7 * logits[:, 3:] + 2.5
    fitted = np.array(fit_correction(torch.from_numpy(logits), torch.from_numpy(labels), 3))
    assert fitted[0] < 1 and fitted[1] < 0
    assert_is_least(fitted, logits, labels, 3, rounding=1e-6)
    # Where new classes have no advantage, little is to be corrected.
    logits[:, 3:] = (logits[:, 3:] - 2.5) / 1.7
    scale, shift = fit_correction(torch.from_numpy(logits), torch.from_numpy(labels), 3)
    assert abs(scale - 1) < 0.4 and abs(shift) < 0.4


def images_left_out(main: RecordedPhase) -> Examples:
    """The new images and exemplars that a phase did not learn from."""
    assert main.memory is not None
    at_hand = concatenate([main.context.step.train, main.memory])
    learned = set(sources(main.examples))
    assert learned < set(sources(at_hand)) and len(learned) == len(main.examples)
    return at_hand.select([place for place, source in enumerate(sources(at_hand)) if source not in learned])


@pytest.mark.parametrize("number", [2, 3])
def test_bic_corrects_the_newest_classes_of_a_run_and_nothing_else(bic: RecordedRun, number: int) -> None:
    main = bic.phases[number, "main"]
    num_old, held_out = main.context.step.num_old_classes, images_left_out(main)
    counts = Counter(held_out.labels.tolist())
    # A fraction of what the memory has of each class.
    assert counts == dict.fromkeys(range(2 * number), {2: 10, 3: 5}[number])

    assert main.ended.bias_scale[:-1].tolist() == [1] * (number - 1)
    assert main.ended.bias_shift[:-1].tolist() == [0] * (number - 1)
    fitted = np.array([main.ended.bias_scale[-1].item(), main.ended.bias_shift[-1].item()])
    assert fitted[0] < 1 and fitted[1] < 0, "after a step with far more images of new classes"
    before, after = main.outputs(main.trained, held_out, "head_logits"), main.outputs(main.ended, held_out)
    assert_is_least(fitted, before, held_out.labels, num_old, rounding=1e-5)

    assert changed(main.trained, main.ended) == {"bias_scale", "bias_shift"}
    assert np.array_equal(after[:, :num_old], before[:, :num_old])
    np.testing.assert_allclose(after[:, num_old:], fitted[0] * before[:, num_old:] + fitted[1], atol=1e-5)


def test_bic_corrects_nothing_in_the_first_step(bic: RecordedRun) -> None:
    first = bic.phases[1, "main"]
    assert not changed(first.trained, first.ended) and first.ended.bias_scale.tolist() == [1.0]
    assert sources(first.examples) == sources(first.context.step.train), "and holds no image out"


def test_bic_says_that_too_few_images_were_held_out(
    make_arguments: MakeArguments, caplog: pytest.LogCaptureFixture
) -> None:
    PartialState()
    method = make_method(make_arguments(method="bic"))
    context: Any = SimpleNamespace(
        step=SimpleNamespace(number=2, num_old_classes=2),
        model=make_rival("growing_head", class_ranges=[[0, 2], [2, 4]], bias_correction=True),
        examples=lambda *_: SimpleNamespace(labels=np.array([2, 3])),
        # Each new class is farthest from its own image.
        logits=lambda _: torch.tensor([[0.0, 0.0, -1.0, 1.0], [0.0, 0.0, 1.0, -1.0]]),
    )
    method.after_phase(context, Phase("main", "new+memory", 1, 0.1, held_out=0.1))
    assert context.model.bias_scale[-1] < 0
    assert "held-out images are too few" in caplog.text
