"""Methods without epochs: against NumPy on all images at once, and equal however the images are cut and continued."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, ViTImageProcessor

from modeling_dytox import IncrementalModel
from tests.command_line import words
from tests.training.conftest import Outcome, train
from training.data.scenario import LearnedClasses, make_scenario
from training.data.splits import load_splits
from training.methods import make_method
from training.methods.closed_form import SCALE_RANGE, fit_scale
from training.methods.ridge import choose_lambda
from training.parsing import parse_arguments


Run = Callable[..., Path]
# Three steps of two digits; features in full precision.
OPTIONS = {"num_classes": 6, "classes_per_step": 2, "max_train_samples_per_class": 12, "cached_views": 0}
KINDS: dict[str, dict[str, Any]] = {
    "ncm": {"method": "ncm"},
    "ridge": {"method": "ridge", "projection_dim": 64},
    "ridge without projection": {"method": "ridge", "projection_dim": 0},
    "ridge with lambda": {"method": "ridge", "projection_dim": 64, "ridge_lambda": 3.0},
}
# A continued model has its own.
MODELS_OWN = dict.fromkeys(("image_size", "patch_size", "hidden_size", "num_attention_heads", "num_hidden_layers"))
MODELS_OWN |= {"known_classes": "test"}
every_kind = pytest.mark.parametrize("kind", KINDS)
NUM_IMAGES = 72


@pytest.fixture(scope="module")
def finished() -> dict[str, Path]:
    return {}


@pytest.fixture
def run(tiny_options: dict[str, object], finished: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The folder of a finished run of a kind with these options, made once."""

    def make(kind: str, **options: object) -> Path:
        key = f"{kind} {sorted(options.items())}"
        if key not in finished:
            folder = tmp_path_factory.mktemp("runs") / "run"
            finished[key] = train(tiny_options | OPTIONS | KINDS[kind] | options | {"output_dir": folder})
        return finished[key]

    return make


def load(folder: Path) -> IncrementalModel:
    model: IncrementalModel = AutoModelForImageClassification.from_pretrained(folder).eval()
    return model


def features_and_labels(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features of the images that a run of six digits learned, and their labels."""
    options = ["--dataset_name", "digits", "--max_train_samples_per_class", "12", "--num_classes", "6"]
    data = parse_arguments(options).data
    scenario = make_scenario(load_splits(data, 0), data, LearnedClasses())
    images = scenario.train.images_at(np.arange(NUM_IMAGES))
    processor = ViTImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs: Any = load(folder)(**processor(images, return_tensors="pt"))
    return outputs.embeddings.double().numpy(), scenario.train.labels


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def inputs_of(model: Any, features: np.ndarray) -> np.ndarray:
    """What ridge regression reads: random features, or the features and ones."""
    if model.head.projection is None:
        return np.concatenate([features, np.ones((len(features), 1))], axis=1)
    return np.maximum(features @ model.head.projection.double().numpy(), 0)


def test_ncm_is_the_cosine_with_the_normalised_mean_of_normalised_features(run: Run) -> None:
    folder = run("ncm") / "step3"
    features, labels = features_and_labels(folder)
    model: Any = load(folder)
    means = unit(np.stack([unit(features)[labels == label].mean(axis=0) for label in range(6)]))
    np.testing.assert_allclose(model.head.weight.detach().numpy(), means, atol=1e-5)
    with torch.no_grad():
        logits = model(torch.from_numpy(features).float()).logits.numpy()
    np.testing.assert_allclose(logits, model.head.scale.item() * unit(features) @ means.T, rtol=1e-4, atol=1e-3)
    sums = load_file(folder / "statistics.safetensors")
    assert sums["counts"].tolist() == [12] * 6 and sums["sums"].dtype == torch.float64


@pytest.mark.parametrize("kind", list(KINDS)[1:])
def test_ridge_solves_the_least_squares_problem_of_all_images_at_once(run: Run, kind: str) -> None:
    folder = run(kind) / "step3"
    features, labels = features_and_labels(folder)
    model: Any = load(folder)
    inputs, targets, strength = inputs_of(model, features), np.eye(6)[labels], model.config.regularization
    # One row for each number that the regularisation keeps small.
    rows = np.concatenate([inputs, np.sqrt(strength) * np.eye(inputs.shape[1])])
    expected, *_ = np.linalg.lstsq(rows, np.concatenate([targets, np.zeros((inputs.shape[1], 6))]), rcond=None)
    found = model.head.weight.detach().numpy().T
    if model.head.bias is not None:
        found = np.concatenate([found, model.head.bias.detach().numpy()[None]])
    np.testing.assert_allclose(inputs @ found, inputs @ expected, atol=1e-3)
    with torch.no_grad():
        logits = model(torch.from_numpy(features).float()).logits.numpy()
    np.testing.assert_allclose(logits / model.head.scale.item(), inputs @ expected, atol=1e-3)


@pytest.mark.parametrize("num_images", [40, 25, 400], ids=["as many", "fewer", "more"])
def test_lambda_has_the_smallest_score_of_generalised_cross_validation(num_images: int) -> None:
    drawn = np.random.default_rng(num_images)
    labels = drawn.integers(0, 4, num_images)
    inputs = drawn.normal(size=(num_images, 40)) * drawn.uniform(0.1, 10, 40) + drawn.normal(size=(4, 40))[labels]
    targets = np.eye(4)[labels]
    gram = inputs.T @ inputs
    chosen = choose_lambda(torch.from_numpy(gram), torch.from_numpy(inputs.T @ targets), num_images)

    def score(strength: float) -> float:
        hat = inputs @ np.linalg.solve(gram + strength * np.eye(40), inputs.T)
        left = np.trace(np.eye(num_images) - hat)
        return float(((targets - hat @ targets) ** 2).sum() / left**2)

    largest = np.linalg.eigvalsh(gram)[-1]
    # Below, the direct formula loses its digits.
    candidates = [10 ** (power / 4) for power in range(-40, 40) if 1e-8 < 10 ** (power / 4) / largest < 10]
    assert score(chosen) <= min(map(score, candidates)) * (1 + 1e-6)


@every_kind
def test_an_image_is_left_out_as_if_it_had_not_been_learned(run: Run, kind: str) -> None:
    folder = run(kind) / "step3"
    features, labels = features_and_labels(folder)
    model: Any = load(folder)
    fixed = {"ridge_lambda": model.config.regularization} if KINDS[kind]["method"] == "ridge" else {}
    chosen = words({"dataset_name": "digits"} | KINDS[kind] | fixed)
    arguments = parse_arguments(chosen)

    def learned(rows: np.ndarray) -> tuple[Any, Any, torch.Tensor]:
        method: Any = make_method(arguments)
        method._sums = method.empty_sums(model)
        read = method.inputs(model.head, torch.from_numpy(features[rows]))
        method.add(read, torch.from_numpy(labels[rows]))
        return method, method.solve(model), read

    everything = np.arange(NUM_IMAGES)
    _, left_out, read = learned(everything)
    found = left_out(read, torch.from_numpy(labels))
    model.head.scale.data.fill_(1.0)
    for image in (0, 17, 71):
        learned(np.delete(everything, image))
        with torch.no_grad():
            expected = model(torch.from_numpy(features[[image]]).float()).logits[0]
        torch.testing.assert_close(found[image].float(), expected, atol=2e-3, rtol=1e-3)


def test_the_scale_makes_the_labels_most_likely() -> None:
    drawn = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (200,), generator=drawn)
    logits = torch.randn(200, 5, generator=drawn).double() + 0.7 * torch.nn.functional.one_hot(labels, 5)
    scales = torch.logspace(-1, 3, 20001).double()
    losses = torch.stack([torch.nn.functional.cross_entropy(scale * logits, labels) for scale in scales])
    assert fit_scale(logits, labels) == pytest.approx(float(scales[losses.argmin()]), rel=1e-3)
    certain = torch.nn.functional.one_hot(labels, 5).double()
    # More would not make the labels more likely, in float64.
    assert 30 < fit_scale(certain, labels) < 50
    assert fit_scale(-certain, labels) == pytest.approx(SCALE_RANGE[0])
    assert fit_scale(logits[:, :1], torch.zeros(200, dtype=torch.int64)) == 1


def assert_same(first: Path, second: Path, order: list[int] | None = None, rounding: float = 1e-12) -> None:
    """Models and sums are the same up to rounding and the scale; the classes of the second are in this order."""
    order = list(range(6)) if order is None else order
    sums, others = (load_file(folder / "statistics.safetensors") for folder in (first, second))
    assert sums.keys() == others.keys()
    for name, tensor in sums.items():
        axis = {"counts": 0, "sums": 0, "products": 1}.get(name)
        other = others[name] if axis is None else others[name].index_select(axis, torch.tensor(order))
        torch.testing.assert_close(other, tensor, rtol=rounding, atol=rounding * float(tensor.abs().max()))
    models: list[Any] = [load(folder) for folder in (first, second)]
    assert models[0].config.regularization == models[1].config.regularization
    heads = [model.head.state_dict() for model in models]
    for name, tensor in heads[0].items():
        other = heads[1][name][order] if name in ("weight", "bias") else heads[1][name]
        if name != "scale":
            torch.testing.assert_close(other, tensor, rtol=1e-4, atol=1e-5 * float(tensor.abs().max()))


# Images share their batch with others, which rounds features in float32.
FLOAT32 = 1e-5


@every_kind
def test_steps_in_any_number_and_order_give_the_same_model(run: Run, kind: str) -> None:
    straight = run(kind) / "step3"
    assert_same(straight, run(kind, classes_per_step=6) / "step1", rounding=FLOAT32)
    turned = run(kind, class_order=["5", "3", "1", "0", "2", "4"]) / "step3"
    names = load(turned).config.class_names
    assert_same(straight, turned, [names.index(str(digit)) for digit in range(6)], rounding=FLOAT32)


def test_with_features_that_are_kept_the_sums_differ_by_float64_rounding_alone(run: Run) -> None:
    steps = run("ridge", cached_views=1) / "step3"
    assert_same(steps, run("ridge", cached_views=1, classes_per_step=6) / "step1")


@every_kind
def test_a_published_step_is_continued_from_its_folder_alone(
    run: Run, kind: str, tiny_options: dict[str, object], tmp_path: Path
) -> None:
    straight = run(kind)
    alone = shutil.copytree(straight / "step2", tmp_path / "elsewhere")
    # Method and options are those that the step was learned with.
    new = {"model_name_or_path": alone, "output_dir": tmp_path / "more", "finetuning_epochs": None}
    continued = train(tiny_options | OPTIONS | MODELS_OWN | new)
    assert_same(straight / "step3", continued / "step3", rounding=FLOAT32)
    name = "step3/model-00001-of-00002.safetensors"
    assert (straight / name).read_bytes() == (continued / name).read_bytes(), "one file for all steps"


@every_kind
def test_a_run_goes_on_after_a_finished_step_as_if_it_had_not_ended(
    run: Run, kind: str, tiny_options: dict[str, object], run_content: Callable[[Path], object], tmp_path: Path
) -> None:
    stopped = shutil.copytree(run(kind), tmp_path / "run")
    shutil.rmtree(stopped / "step2")
    shutil.rmtree(stopped / "step3")
    train(tiny_options | OPTIONS | KINDS[kind] | {"output_dir": stopped})
    assert run_content(stopped) == run_content(run(kind))


def test_a_lambda_that_is_given_wins(
    run: Run,
    run_script: Callable[..., Outcome],
    tiny_options: dict[str, object],
    tmp_path: Path,
) -> None:
    given = run("ridge with lambda")
    assert load(given / "step3").config.regularization == 3
    chosen = load(run("ridge") / "step3").config.regularization
    assert chosen not in (None, 3)

    # It holds in later steps, unless another one or none is given.
    step = shutil.copytree(given / "step2", tmp_path / "elsewhere")
    options = tiny_options | OPTIONS | MODELS_OWN | {"model_name_or_path": step, "method": "ridge"}
    (tmp_path / "none.yaml").write_text("ridge:\n  ridge_lambda: null\n")
    for name, other, expected in (
        ("other", {"ridge_lambda": 5.0}, 5),
        ("none", {"config": tmp_path / "none.yaml"}, chosen),
    ):
        more = train(options | other | {"output_dir": tmp_path / name})
        assert load(more / "step3").config.regularization == expected

    recipe = step / "training_config.yaml"
    whole = recipe.read_text()
    for damaged, message in (
        (whole.replace("ridge_lambda: 3.0", "ridge_lambda: -3.0"), "--ridge_lambda -3.0 must be greater than 0"),
        (whole.replace("ridge_lambda: 3.0", "ridge_lambda: [1, 2]"), "training_config.yaml is the list [1, 2]"),
        ("- no recipe\n", "training_config.yaml is damaged: give a step as it was published."),
    ):
        recipe.write_text(damaged)
        assert message in run_script(*words(options | {"output_dir": tmp_path / "bad"})).refusal


def test_the_plan_counts_the_sums_among_what_the_disk_must_hold(
    run: Run, run_script: Callable[..., Outcome], tiny_options: dict[str, object], tmp_path: Path
) -> None:
    options = {"projection_dim": 512}
    written = sum(file.stat().st_size for file in run("ridge", **options).glob("step*/*.safetensors")) / 1e6
    chosen = tiny_options | OPTIONS | KINDS["ridge"] | options | {"output_dir": tmp_path / "more", "dry_run": True}
    (line,) = [line for line in run_script(*words(chosen)).output.splitlines() if line.startswith("Disk: ")]
    assert float(line.split()[2]) == pytest.approx(written, rel=0.02) and line.split()[3] == "MB,"


@pytest.mark.parametrize("method", ["ncm", "ridge"])
def test_without_a_frozen_encoder_they_are_refused(run_script: Callable[..., Outcome], method: str) -> None:
    refusal = run_script("--dataset_name", "digits", "--method", method).refusal
    assert f"--method {method} needs a pretrained encoder" in refusal and "--encoder_name_or_path" in refusal
    trained = words({"dataset_name": "digits", "method": method, "freeze_encoder": "false"})
    assert f"--freeze_encoder false: --method {method} needs" in run_script(*trained).refusal


def test_sums_that_are_missing_damaged_or_of_another_method_are_refused(
    run: Run, run_script: Callable[..., Outcome], tiny_options: dict[str, object], tmp_path: Path
) -> None:
    step = shutil.copytree(run("ridge") / "step2", tmp_path / "elsewhere")
    shared = tiny_options | OPTIONS | MODELS_OWN | {"model_name_or_path": step}
    continued = words(shared | {"method": "ridge", "output_dir": tmp_path / "more"})
    other = words(shared | {"method": "ncm", "output_dir": tmp_path / "more"})
    assert "the head of the model is 'ridge', not 'ncm'" in run_script(*other).refusal
    file = step / "statistics.safetensors"
    whole = file.read_bytes()
    for damage, message in {
        whole[:-100]: "does not fit --method ridge",
        whole[:-8] + b"01234567": "its content does not fit its digest",
        None: "is missing, without which --method ridge cannot go on",
    }.items():
        file.unlink(missing_ok=True)
        if damage is not None:
            file.write_bytes(damage)
        refusal = run_script(*continued).refusal
        assert message in refusal and "give a step of that method" in refusal
    stopped = shutil.copytree(run("ridge"), tmp_path / "run")
    shutil.rmtree(stopped / "step3")
    (stopped / "step2" / "statistics.safetensors").unlink()
    resumed = run_script(*words(tiny_options | OPTIONS | KINDS["ridge"] | {"output_dir": stopped}))
    assert "restore it, or delete step2 to learn it again" in resumed.refusal
    assert not (tmp_path / "more").exists()


def test_sums_of_other_shapes_are_refused(run: Run) -> None:
    folder = run("ncm") / "step3"
    method: Any = make_method(parse_arguments(words({"dataset_name": "digits", "method": "ncm"})))
    sums = load_file(folder / "statistics.safetensors")
    model = load(folder)
    expected = "expected torch.float64 of shape (6, 32)"
    for changed, message in (
        ({"sums": sums["sums"][:5].float()}, f"sums is torch.float32 of shape (5, 32), {expected}"),
        ({"counts": sums["counts"] * float("nan")}, "counts has values that are not finite"),
        ({"gram": sums["sums"]}, "it holds counts, gram, sums, expected counts, sums"),
    ):
        with pytest.raises(ValueError) as refused:
            method.load_statistics(sums | changed, model)
        assert str(refused.value) == message


def test_the_card_says_what_scores_and_sums_are(run: Run) -> None:
    for kind, title in (("ncm", "Nearest class mean"), ("ridge without projection", "Ridge regression on `digits`")):
        card = (run(kind) / "step3" / "README.md").read_text()
        assert title in card and "no probability that an image shows none of them" in card
        assert "not anonymous" in card
        measured = json.loads((run(kind) / "step3" / "results.json").read_text())["steps"][-1]
        assert measured["memory_size"] == 0 and measured["train_seconds"] > 0


def test_the_plan_of_a_run_without_updates(
    run_script: Callable[..., Outcome], tiny_options: dict[str, object], tmp_path: Path
) -> None:
    options = tiny_options | OPTIONS | KINDS["ncm"] | {"output_dir": tmp_path / "run", "dry_run": "true"}
    shown = run_script(*words(options))
    assert shown.status == 0, shown.errors
    assert "0 updates\n" in shown.output and "No updates: the encoder sees each image once" in shown.output
