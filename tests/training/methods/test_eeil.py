"""EEIL: its loss against loops, and its second phase: which images it has, and who teaches it."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_dytox.encoders import is_of_encoder
from tests.tiny_convnext import tiny_convnext
from tests.training.methods.oracle import (
    LABELS,
    LOGITS,
    NUM_CLASSES,
    STEP,
    TARGETS,
    TEACHER,
    MakeArguments,
    expected_cross_entropy,
    expected_distillation,
    learner_of,
    stand_in,
    terms_of,
)
from tests.training.methods.recorded import RecordedRun, changed, record, sources
from tests.training.methods.test_methods import context_of, steps_of_two
from training.data.herding import herd
from training.methods import make_method
from training.methods.base import frozen_copy
from training.methods.eeil import EndToEnd
from training.methods.losses import knowledge_distillation
from training.run.encoder import load_encoder


# Logits of the second teacher of EEIL, which knows all classes.
TEACHER_OF_ALL = [[np.cos(2 + 3 * row + 2 * column) for column in range(NUM_CLASSES)] for row in range(4)]


@pytest.fixture(scope="module")
def eeil(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return record("eeil", tmp_path_factory.mktemp("eeil") / "run", finetuning_epochs=2)


def test_eeil_distils_each_old_head_by_itself_and_adds_them_up(make_arguments: MakeArguments) -> None:
    one = terms_of("eeil", make_arguments)
    assert sum(one.values()) == pytest.approx(2.077988938, abs=1e-6)
    assert one["distillation"] == pytest.approx(expected_distillation(2), abs=1e-6)
    heads = [(0, 1), (1, 3)]
    of_each = [expected_distillation(2, classes=head) for head in heads]
    two = terms_of("eeil", make_arguments, teacher=stand_in(TEACHER, heads))
    assert two["distillation"] == pytest.approx(sum(of_each), abs=1e-6)
    assert two["classification"] == pytest.approx(expected_cross_entropy(LOGITS, LABELS), abs=1e-6)
    warmer = terms_of("eeil", make_arguments, distillation_temperature=4)
    assert warmer["distillation"] == pytest.approx(expected_distillation(4), abs=1e-6)
    assert terms_of("eeil", make_arguments, has_teacher=False).keys() == {"classification"}


def test_eeil_distils_the_newest_head_too_in_the_second_phase(make_arguments: MakeArguments) -> None:
    method: Any = make_method(make_arguments(method="eeil"))
    heads = [(0, 3), (3, 5)]
    method.teacher, method.finetuning_teacher = stand_in(TEACHER), stand_in(TEACHER_OF_ALL, heads)
    main, finetuning = method.phases(STEP)
    assert finetuning.learning_rate == pytest.approx(0.1 * main.learning_rate) and finetuning.frozen == ()
    terms = method.loss(learner_of(stand_in(LOGITS), finetuning), torch.zeros(4), TARGETS)
    of_each = [expected_distillation(2, LOGITS, TEACHER_OF_ALL, head) for head in heads]
    assert terms["distillation"].item() == pytest.approx(sum(of_each), abs=1e-6)
    terms = method.loss(learner_of(stand_in(LOGITS), main), torch.zeros(4), TARGETS)
    assert terms["distillation"].item() == pytest.approx(expected_distillation(2), abs=1e-6)


@pytest.mark.parametrize("temperature", [1, 2])
def test_a_student_that_equals_its_teacher_is_left_where_it_is(temperature: float) -> None:
    sizes = []
    for moved in (0.0, 0.5):
        logits = torch.tensor(LOGITS, requires_grad=True)
        teacher = logits.detach() + moved * torch.tensor(LOGITS).roll(1, dims=1)
        (gradient,) = torch.autograd.grad(knowledge_distillation(logits, teacher, temperature), logits)
        sizes.append(gradient.abs().max().item())
    assert sizes[0] < 1e-7 and sizes[1] > 1e-3


def test_the_second_phase_of_eeil_has_as_many_images_of_new_classes_as_of_old_ones(eeil: RecordedRun) -> None:
    for number in (2, 3):
        main, second = eeil.phases[number, "main"], eeil.phases[number, "finetuning"]
        old, new = second.memory, main.context.step.train
        assert old is not None and new.labels.min() == main.context.step.num_old_classes
        counts = Counter(second.examples.labels.tolist())
        assert sorted(counts) == list(range(2 * number)) and max(counts.values()) - min(counts.values()) <= 1
        assert max(counts.values()) == max(Counter(old.labels.tolist()).values()) < 20, "of 20 images, some are left"
        # The model of the first phase decides which images are typical.
        features = second.outputs(main.ended, new, "embeddings")
        chosen = []
        for label in np.unique(new.labels):
            places = np.flatnonzero(new.labels == label)
            chosen += [places[place] for place in herd(features[places], counts[0])]
        assert sorted(sources(second.examples)) == sorted(sources(new.select(chosen)) + sources(old))


def test_the_second_teacher_of_eeil_is_the_model_of_the_main_phase(eeil: RecordedRun) -> None:
    teacher, main, second = eeil.method.finetuning_teacher, eeil.phases[3, "main"], eeil.phases[3, "finetuning"]
    assert not changed(teacher, main.ended) and not changed(main.trained, second.begun)
    assert changed(teacher, second.trained) >= {"head.linear.weight", "dytox.task_tokens.0"}
    assert teacher.config.step_class_ranges == [[0, 2], [2, 4], [4, 6]]
    assert not teacher.training and not any(weight.requires_grad for weight in teacher.parameters())
    assert not changed(eeil.method.teacher, eeil.phases[2, "finetuning"].ended)


def test_eeil_distils_in_every_phase_after_the_first_step(eeil: RecordedRun) -> None:
    logged = [json.loads(line) for line in (eeil.folder / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in logged if "phase" in line]
    distilling = {(line["step"], line["phase"]) for line in epochs if line.get("loss/distillation", 0) > 0}
    assert distilling == set(eeil.phases) - {(1, "main")}


@pytest.mark.parametrize("frozen", [False, True], ids=["own encoder", "frozen encoder"])
def test_the_second_teacher_of_eeil_comes_back_from_a_saved_state(
    frozen: bool, make_tiny_arguments: MakeArguments
) -> None:
    options = {"encoder_name_or_path": tiny_convnext(), "image_size": None, "patch_size": None} if frozen else {}
    arguments, encoder = load_encoder(make_tiny_arguments(method="eeil", **options))
    method: Any = make_method(arguments, encoder)
    model = method.build(steps_of_two(1))
    step = steps_of_two(2)
    context = context_of(step, model)
    method.before_growth(context)
    assert method.state() == {}
    context.model = method.grow(context)
    method.after_phase(context, method.phases(step)[0])
    teacher, saved = frozen_copy(method.finetuning_teacher), method.state()
    assert sum(tensor.numel() * 4 for tensor in saved.values()) == method.bytes_of_state(context.model)
    assert any(map(is_of_encoder, teacher.state_dict())) == frozen and not any(map(is_of_encoder, saved))

    # The model goes on learning, a frozen encoder does not.
    with torch.no_grad():
        for name, parameter in context.model.named_parameters():
            parameter.add_(0 if frozen and is_of_encoder(name) else 1)
    resumed: Any = make_method(arguments, encoder)
    resumed.before_growth(context)
    resumed.load_state({name: tensor.clone() for name, tensor in saved.items()}, context.model)
    assert changed(teacher, context.model) and not changed(teacher, resumed.finetuning_teacher)
    assert not any(weight.requires_grad for weight in resumed.finetuning_teacher.parameters())
    resumed.before_growth(context)
    assert resumed.state() == {}, "each step has a second teacher of its own"


def test_eeil_stopped_in_its_second_phase_ends_as_if_it_was_not(
    eeil: RecordedRun,
    tmp_path: Path,
    run_content: Callable[[Path], dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses: list[int] = []
    loss = EndToEnd.loss

    def stopping(method: EndToEnd, learner: Any, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        losses.extend([1] if (learner.step.number, learner.phase.name) == (3, "finetuning") else [])
        if len(losses) == 5:
            raise KeyboardInterrupt
        return loss(method, learner, *inputs)

    # Three updates an epoch: in the second one.
    monkeypatch.setattr(EndToEnd, "loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        record("eeil", tmp_path / "run", finetuning_epochs=2)
    resumed = record("eeil", tmp_path / "run", finetuning_epochs=2)
    assert list(resumed.phases) == [(3, "finetuning")]
    assert not changed(resumed.method.finetuning_teacher, eeil.phases[3, "main"].ended)
    assert run_content(resumed.folder) == run_content(eeil.folder)
