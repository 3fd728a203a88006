"""Losses, gradients and trainable parameters against the numbers of the authors' code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_dytox import DyToxForImageClassification
from modeling_dytox.convert_original_to_hf import config_from_state_dict, convert_state_dict, original_to_hf_names
from training.data.scenario import Step
from training.loop.learner import LossModule
from training.loop.phase import freeze
from training.methods.dytox import DyTox
from training.methods.losses import classification_loss, distillation_loss, divergence_targets, one_hot_targets
from training.parsing import parse_arguments


FIXTURES = Path(__file__).parents[2] / "fixtures"
LOSSES = np.load(FIXTURES / "losses_a.npz")
MODEL = np.load(FIXTURES / "model_a.npz")
TOLERANCE = {"atol": 1e-5, "rtol": 0}
NUM_OLD, NUM_CLASSES = 7, 10
OLD_FRACTION = NUM_OLD / NUM_CLASSES


def fixture(name: str) -> torch.Tensor:
    return torch.from_numpy(LOSSES[name])


def targets(soft: bool) -> torch.Tensor:
    return fixture("mixup_soft_targets") if soft else one_hot_targets(fixture("targets"), NUM_CLASSES)


@pytest.mark.parametrize(
    ("case", "soft", "temperature"),
    [("main_hard_tau1", False, 1.0), ("main_mixup_tau1", True, 1.0), ("main_hard_tau2", False, 2.0)],
)
def test_main_phase_terms_match_the_authors(case: str, soft: bool, temperature: float) -> None:
    clf = (1 - OLD_FRACTION) * classification_loss(fixture("logits"), targets(soft))
    kd = OLD_FRACTION * distillation_loss(fixture("logits"), fixture("teacher_logits"), temperature)
    div = 0.1 * classification_loss(fixture("div_logits"), divergence_targets(targets(soft), NUM_OLD))
    for name, term in {"clf": clf, "kd": kd, "div": div, "total": clf + kd + div}.items():
        assert abs(term.item() - LOSSES[f"{case}/{name}"]) <= 1e-5, name


@pytest.mark.parametrize(("case", "soft"), [("task0_bce", False), ("ft_hard", False), ("ft_mixup", True)])
def test_classification_alone_matches_the_authors(case: str, soft: bool) -> None:
    assert abs(classification_loss(fixture("logits"), targets(soft)).item() - LOSSES[f"{case}/total"]) <= 1e-5


def test_divergence_targets_match_the_authors() -> None:
    assert torch.equal(divergence_targets(targets(False), NUM_OLD).argmax(dim=1), fixture("div_targets_hard"))
    torch.testing.assert_close(divergence_targets(targets(True), NUM_OLD), fixture("div_targets_soft"), **TOLERANCE)


def original_model(prefix: str) -> DyToxForImageClassification:
    original = {
        name.removeprefix(prefix): torch.from_numpy(MODEL[name]) for name in MODEL.files if name.startswith(prefix)
    }
    model = DyToxForImageClassification(config_from_state_dict(original)).eval()
    model.load_state_dict(convert_state_dict(original))
    return model


def last_step() -> Step:
    return Step(number=3, class_names=["7", "8", "9"], class_range=(NUM_OLD, NUM_CLASSES), train=None)  # type: ignore[arg-type]


@pytest.fixture
def learner() -> LossModule:
    """The authors' third step as our method sees it: student, teacher and divergence classifier with their weights."""
    arguments = parse_arguments(["--dataset_name", "digits"])
    method = DyTox(arguments.options, arguments)
    method.teacher = original_model("teacher_param/")
    main = method.phases(last_step())[0]
    learner = LossModule(method, original_model("param/"), last_step(), main)
    names = {"layernorm": "norm", "linear": "head"}
    learner.auxiliary["divergence_classifier"].load_state_dict(
        {
            f"{ours}.{kind}": torch.from_numpy(MODEL[f"param/head_div.{theirs}.{kind}"])
            for ours, theirs in names.items()
            for kind in ("weight", "bias")
        }
    )
    return learner.eval()


def test_loss_and_gradients_match_the_authors(learner: LossModule) -> None:
    terms = learner(torch.from_numpy(MODEL["input"]), one_hot_targets(torch.from_numpy(MODEL["targets"]), NUM_CLASSES))
    expected = {
        "classification": "loss_clf_times_1_minus_alpha",
        "distillation": "loss_kd_times_alpha",
        "divergence": "loss_div_times_0p1",
    }
    assert terms.keys() == expected.keys()
    for name, original in expected.items():
        assert abs(terms[name].item() - MODEL[original]) <= 1e-5, name

    torch.stack(list(terms.values())).sum().backward()
    gradients = convert_state_dict(
        {
            name.removeprefix("grad/"): torch.from_numpy(MODEL[name])
            for name in MODEL.files
            if name.startswith("grad/") and "head_div" not in name
        }
    )
    ours = {name: parameter.grad for name, parameter in learner.model.named_parameters()}
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("phase", "original"), [(0, "trainable_main"), (1, "trainable_ft")])
def test_trainable_parameters_match_the_authors(learner: LossModule, phase: int, original: str) -> None:
    freeze(learner.model, learner.method.phases(last_step())[phase].frozen)
    trainable = {name for name, parameter in learner.model.named_parameters() if parameter.requires_grad}
    ours = original_to_hf_names([name.removeprefix("param/") for name in MODEL.files if name.startswith("param/")])
    assert trainable == {our for name in MODEL[original] for our in ours[str(name)]}
