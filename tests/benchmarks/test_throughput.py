"""The throughput benchmark: what it prints, what it counts, and that both implementations do the same work."""

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import measures, t_pass, throughput, workloads
from benchmarks.measures import Linear, count_flops, gemm_flops_per_second, linear_layers
from benchmarks.options import Options, parse_options
from benchmarks.t_pass import TPassDyTox
from benchmarks.workloads import Training, make_batch, make_inference, make_workload
from training.loop.phase import make_optimizer
from training.methods.losses import one_hot_targets


# Sizes at which a step takes milliseconds.
TINY: dict[str, Any] = {
    "num_steps": 3,
    "classes_per_step": 2,
    "batch_size": 4,
    # It would hold for the whole process of the tests.
    "keep_freed_memory": False,
    "repeats": 3,
    "warmup": 1,
    "image_size": 12,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
}
MODES = ["eval", "train", "train_teacher", "herding", "data"]
NUMBERS = [
    "median_step_seconds",
    "min_step_seconds",
    "images_per_second",
    "peak_rss_bytes",
    "peak_rss_growth_bytes",
    "peak_gpu_memory_bytes",
    "flops_per_step",
    "gemm_flops_per_second",
    "fraction_of_gemm_limit",
]
OF_A_MODEL = ["num_parameters", "flops_per_step", "gemm_flops_per_second", "fraction_of_gemm_limit"]


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """Keeps the precision and device of one test from the next."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def words(mode: str, **options: Any) -> list[str]:
    """A command line with tiny sizes; an option that is True is a flag."""
    values = {"mode": mode} | TINY | options
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()]


def make_options(mode: str, **options: Any) -> Options:
    """Options with tiny sizes."""
    return parse_options(words(mode, **options))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs the script in this process, and reads the one JSON object that it prints."""

    def run(mode: str, **options: Any) -> dict[str, Any]:
        capsys.readouterr()
        assert throughput.main(words(mode, **options)) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the script with a command line that it must refuse, and gives the one line that says why."""

    def fails(*command_line: str) -> str:
        assert throughput.main(command_line) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        return line

    return fails


@pytest.mark.parametrize("mode", MODES)
def test_prints_the_options_and_numbers_that_agree_with_each_other(mode: str, run: Callable[..., Any]) -> None:
    result = run(mode, num_workers=0)

    assert {
        name: result[name] for name in ("mode", "implementation", "device", "dtype", "num_steps", "batch_size")
    } == {
        "mode": mode,
        "implementation": "ours",
        "device": "cpu",
        "dtype": "float32",
        "num_steps": 3,
        "batch_size": 4,
    }
    assert result["model"]["hidden_size"] == 16
    assert (result["torch_version"], result["num_threads"]) == (torch.__version__, torch.get_num_threads())
    assert set(NUMBERS) <= set(result)
    assert 0 < result["min_step_seconds"] <= result["median_step_seconds"]
    assert result["images_per_second"] == pytest.approx(4 / result["median_step_seconds"])
    assert 0 <= result["peak_rss_growth_bytes"] < result["peak_rss_bytes"]
    assert result["peak_gpu_memory_bytes"] is None
    if mode == "data":
        assert [result[name] for name in OF_A_MODEL] == [None] * 4
    else:
        limit = result["flops_per_step"] / result["gemm_flops_per_second"]
        assert result["fraction_of_gemm_limit"] == pytest.approx(limit / result["median_step_seconds"])


def test_num_parameters_are_those_of_the_model_that_has_grown(run: Callable[..., Any]) -> None:
    counts = {mode: run(mode)["num_parameters"] for mode in ("eval", "train", "train_teacher")}
    # A token, and a classifier of two classes: its normalisation, and a weight and a bias a class.
    of_a_step = 16 + 2 * 16 + 2 * (16 + 1)

    assert set(counts.values()) == {run("eval", num_steps=2)["num_parameters"] + of_a_step}


def test_seconds_are_those_of_a_batch_where_a_call_goes_through_many(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "seconds_of", lambda *_: [8.0, 2.0, 4.0])

    result = run("data", num_workers=0)

    assert (result["median_step_seconds"], result["min_step_seconds"]) == (4.0 / 20, 2.0 / 20)


def test_a_step_is_timed_after_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    monkeypatch.setattr(measures.time, "perf_counter", lambda: 10.0 * sum(calls))

    seconds = measures.seconds_of(lambda: calls.append(len(calls)), repeats=2, warmup=3, device=torch.device("cpu"))

    assert seconds == [30.0, 40.0]


def test_the_peak_of_memory_follows_what_the_process_holds() -> None:
    missing = measures.peak_resident_bytes() - measures.resident_bytes()
    before = measures.peak_resident_bytes()

    ballast = torch.ones(missing + 2**26, dtype=torch.uint8)

    assert measures.peak_resident_bytes() - before > 2**25
    del ballast
    assert measures.peak_resident_bytes() - before > 2**25


def test_loads_the_batches_that_training_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    epochs = workloads.TrainingLoader.epochs

    def watched(self: Any, *seed: Any) -> Iterator[Any]:
        for steps in epochs(self, *seed):
            loaded = [batch for (batch,) in steps]
            shapes.extend((batch.images.dtype, tuple(batch.images.shape), len(batch.labels)) for batch in loaded)
            yield iter(loaded)

    monkeypatch.setattr(workloads.TrainingLoader, "epochs", watched)

    workload = make_workload(make_options("data"))
    workload.call()
    workload.call()

    assert shapes == [(torch.uint8, (4, 3, 12, 12), 4)] * 2 * workload.batches


# What a forward pass multiplies, written down from the paper: a product (m, k) x (k, n) is 2 m k n operations.
def encoder_flops(options: Options, mixes_before_values: bool) -> tuple[int, int]:
    """Operations of the encoder, and those of them whose inputs have no gradient: patches and their offsets."""
    batch, patches, width, inner = _sizes(options)
    layers, heads = options.model.num_hidden_layers, options.model.num_attention_heads
    pixels = 3 * options.model.patch_size**2
    embedding = 2 * batch * patches * pixels * width
    positions = 2 * patches**2 * 3 * heads
    projections = 4 * 2 * batch * patches * width**2
    scores_or_mean = 2 * batch * patches**2 * width
    attention = (2 if mixes_before_values else 3) * scores_or_mean
    mlp = 2 * 2 * batch * patches * width * inner
    return embedding + layers * (positions + projections + attention + mlp), embedding + layers * positions


def one_pass_flops(options: Options, num_steps: int) -> int:
    """Operations of the decoder in one pass: keys and values of the patches once, those of the tokens once a batch."""
    batch, patches, width, inner = _sizes(options)
    of_tokens = 3 * 2 * num_steps * width**2
    of_patches = 2 * 2 * batch * patches * width**2
    attention = 2 * 2 * batch * num_steps * (patches + num_steps) * width
    output = 2 * batch * num_steps * width**2
    mlp = 2 * 2 * batch * num_steps * width * inner
    return of_tokens + of_patches + attention + output + mlp


def a_pass_flops(options: Options) -> int:
    """Operations of the decoder for one task token and the patches."""
    batch, patches, width, inner = _sizes(options)
    query = 2 * batch * width**2
    keys_values = 2 * 2 * batch * (patches + 1) * width**2
    attention = 2 * 2 * batch * (patches + 1) * width
    return query + keys_values + attention + 2 * batch * width**2 + 2 * 2 * batch * width * inner


def classifier_flops(options: Options, num_classes: int) -> int:
    """Operations of the linear layers of classifiers of so many classes."""
    batch, _, width, _ = _sizes(options)
    return 2 * batch * width * num_classes


def _sizes(options: Options) -> tuple[int, int, int, int]:
    model = options.model
    patches = (model.image_size // model.patch_size) ** 2
    return options.run.batch_size, patches, model.hidden_size, model.intermediate_size or 4 * model.hidden_size


def forward_flops(options: Options, num_steps: int) -> int:
    """Operations of a forward pass."""
    classifiers = classifier_flops(options, num_steps * options.run.classes_per_step)
    if options.run.implementation == "ours":
        encoder, _ = encoder_flops(options, mixes_before_values=False)
        return encoder + one_pass_flops(options, num_steps) + classifiers
    encoder, _ = encoder_flops(options, mixes_before_values=True)
    return encoder + num_steps * a_pass_flops(options) + classifiers


@pytest.mark.parametrize("implementation", ["ours", "t_pass"])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_counts_every_matrix_multiplication_of_a_forward_pass(implementation: str, num_steps: int) -> None:
    options = make_options("eval", implementation=implementation, num_steps=num_steps)

    assert count_flops(make_workload(options).call) == forward_flops(options, num_steps)


@pytest.mark.parametrize("implementation", ["ours", "t_pass"])
def test_counts_every_matrix_multiplication_of_a_training_step(implementation: str) -> None:
    options = make_options("train", implementation=implementation)
    forward = forward_flops(options, 3)
    _, without_input_gradient = encoder_flops(options, mixes_before_values=True)
    frozen = classifier_flops(options, 4)
    divergence = classifier_flops(options, 1 + 2)

    flops = count_flops(make_workload(options).call)

    # Each product is followed by two in the backward pass, but where inputs or weights need no gradient.
    assert flops == 3 * (forward + divergence) - without_input_gradient - frozen


@pytest.mark.parametrize("implementation", ["ours", "t_pass"])
def test_the_teacher_adds_a_forward_pass_of_the_model_of_the_step_before(implementation: str) -> None:
    options = make_options("train_teacher", implementation=implementation)
    student = count_flops(make_workload(make_options("train", implementation=implementation)).call)

    assert count_flops(make_workload(options).call) - student == forward_flops(options, 2)


def cifar_flops(implementation: str, num_steps: int) -> int:
    """Operations of a forward pass of one image, at the sizes that are the defaults of the script."""
    options = ["--mode=eval", f"--num_steps={num_steps}", "--classes_per_step=2", "--batch_size=1"]
    return count_flops(make_workload(parse_options([*options, f"--implementation={implementation}"])).call)


def test_fifty_steps_cost_a_fifth_more_at_most_in_one_pass_and_grow_linearly_in_t_passes() -> None:
    ours = {num_steps: cifar_flops("ours", num_steps) for num_steps in (1, 50)}
    t_passes = {num_steps: cifar_flops("t_pass", num_steps) for num_steps in (1, 2, 50)}

    assert ours[50] < 1.2 * ours[1]
    assert t_passes[50] - t_passes[1] == 49 * (t_passes[2] - t_passes[1])
    assert t_passes[50] > 2.5 * t_passes[1]


def test_the_limit_is_measured_on_the_layers_of_the_model() -> None:
    options = make_options("eval")
    batch, patches, width, inner = _sizes(options)

    layers = linear_layers(make_workload(options).model.config, batch)  # type: ignore[union-attr]

    assert layers == {
        # Two encoder blocks of four projections, and keys and values of the decoder.
        Linear(batch * patches, width, width): 2 * 4 + 2,
        Linear(batch * patches, width, inner): 2,
        Linear(batch * patches, inner, width): 2,
        Linear(batch * 3, width, width): 1,
        Linear(batch * 3, width, inner): 1,
        Linear(batch * 3, inner, width): 1,
    }
    rest = count_flops(make_workload(options).call) - sum(layer.flops * times for layer, times in layers.items())
    attention = 3 * 2 * 2 * batch * patches**2 * width + 2 * 2 * batch * 3 * (patches + 3) * width
    embedding_and_positions = encoder_flops(options, mixes_before_values=False)[1]
    assert rest == attention + embedding_and_positions + 3 * 2 * 3 * width**2 + classifier_flops(options, 6)


def test_the_limit_weighs_each_product_by_how_often_a_step_makes_it() -> None:
    shapes = []

    def seconds(product: Callable[[], torch.Tensor]) -> float:
        shapes.append(tuple(product().shape))
        return float(len(shapes))

    layers = {Linear(8, 2, 3): 5, Linear(4, 3, 2): 1}
    rate = gemm_flops_per_second(layers, 2, 1, seconds, torch.device("cpu"), torch.float32)

    assert shapes == [(8, 3), (8, 2), (3, 2), (4, 2), (4, 3), (2, 3)]
    flops = 5 * (2 + 1 + 1) * 2 * 8 * 2 * 3 + (2 + 1 + 1) * 2 * 4 * 3 * 2
    assert rate == pytest.approx(flops / (5 * (2 * 1 + 2 + 3) + 2 * 4 + 5 + 6))


def test_the_limit_of_a_forward_pass_times_no_backward_pass() -> None:
    times = iter([4.0])

    assert gemm_flops_per_second(
        {Linear(8, 2, 3): 5}, 1, 0, lambda _: next(times), torch.device("cpu"), torch.float32
    ) == pytest.approx(2 * 8 * 2 * 3 / 4.0)


def disturb(*modules: torch.nn.Module) -> None:
    """Moves all weights far from where they start, the same way for the same shapes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


def test_both_implementations_give_the_same_logits() -> None:
    options = make_options("eval")
    model = make_inference(options).model
    assert model is not None
    disturb(model)
    pixel_values = make_batch(options).images.float() / 255

    with torch.no_grad():
        ours, t_passes = model(pixel_values), TPassDyTox(model)(pixel_values)

    torch.testing.assert_close(ours.logits, t_passes.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.task_embeddings, t_passes.task_embeddings, rtol=1e-4, atol=1e-5)
    assert ours.logits.std() > 0.1


def terms_and_gradients(mode: str, implementation: str) -> tuple[dict[str, float], dict[str, torch.Tensor | None]]:
    """The terms of the loss and the gradient of each parameter, of weights that are the same in every call."""
    training = Training(make_options(mode, implementation=implementation, drop_path_rate=0))
    learner = training.learner
    teacher = vars(learner.method).get("teacher")
    disturb(training.model, learner.auxiliary, *([] if teacher is None else [teacher]))
    pixel_values = training.trainer.normalize(training.batch.images)
    terms = learner(pixel_values, one_hot_targets(training.batch.labels, 6))
    sum(terms.values()).backward()
    gradients = {
        name.removeprefix("model.model.").removeprefix("model."): parameter.grad
        for name, parameter in learner.named_parameters()
    }
    return {name: term.item() for name, term in terms.items()}, gradients


@pytest.mark.parametrize("mode", ["train", "train_teacher"])
def test_both_implementations_give_the_same_losses_and_gradients(mode: str) -> None:
    terms, gradients = terms_and_gradients(mode, "ours")
    other_terms, other_gradients = terms_and_gradients(mode, "t_pass")

    assert set(terms) == {"classification", "divergence"} | ({"distillation"} if mode == "train_teacher" else set())
    assert other_terms == pytest.approx(terms, rel=1e-4)
    assert all(value > 0 for value in terms.values())
    assert set(other_gradients) == set(gradients)
    for name, gradient in gradients.items():
        is_old = name.startswith(("dytox.task_tokens.0", "dytox.task_tokens.1", "classifiers.0", "classifiers.1"))
        assert (gradient is None) == (other_gradients[name] is None) == is_old, name
        if gradient is not None:
            torch.testing.assert_close(gradient, other_gradients[name], rtol=1e-3, atol=1e-5, msg=name)


def test_training_starts_from_the_same_weights_for_both_implementations() -> None:
    states = [
        [tensor.clone() for tensor in Training(make_options("train", implementation=name)).learner.parameters()]
        for name in throughput.IMPLEMENTATIONS
    ]

    assert all(torch.equal(*pair) for pair in zip(*states, strict=True))


def test_a_training_step_is_one_of_the_main_phase() -> None:
    training = Training(make_options("train_teacher", drop_path_rate=0.5))
    before = {name: tensor.clone() for name, tensor in training.learner.named_parameters()}

    training.step()

    assert (training.learner.phase.name, training.learner.step.number) == ("main", 3)
    assert training.learner.model.dytox.layers[1].drop_path.training
    changed = {name for name, tensor in training.learner.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, tensor in training.learner.named_parameters() if tensor.requires_grad}
    assert {name for name in before if "divergence" in name} < changed


def test_the_optimizer_is_that_of_the_loop() -> None:
    options = make_options("train")
    training = Training(options)
    learner, decay = training.learner, options.training.optimization.weight_decay

    ours: Any = training.trainer.optimizer.optimizer
    theirs = make_optimizer(learner, decay, learner.phase.learning_rate)

    assert type(ours) is type(theirs)
    assert ours.defaults == theirs.defaults
    assert [len(group["params"]) for group in ours.param_groups] == [
        len(group["params"]) for group in theirs.param_groups
    ]


def test_the_first_step_has_nothing_to_divide_and_nothing_frozen() -> None:
    learner = Training(make_options("train", num_steps=1)).learner

    assert not learner.auxiliary
    assert all(parameter.requires_grad for parameter in learner.parameters())


def test_computes_in_the_precision_that_is_asked_for(run: Callable[..., Any]) -> None:
    model = make_inference(make_options("eval", dtype="bfloat16")).model

    assert model is not None and model.dtype == torch.bfloat16
    assert Training(make_options("train", dtype="bfloat16")).accelerator.mixed_precision == "bf16"
    for mode in ("eval", "herding", "train_teacher"):
        for implementation in throughput.IMPLEMENTATIONS:
            assert run(mode, dtype="bfloat16", implementation=implementation)["dtype"] == "bfloat16"


@pytest.mark.parametrize("implementation", ["ours", "t_pass"])
def test_herds_on_the_embeddings_of_all_steps(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    herding_embedding = workloads.DyTox.herding_embedding

    def spy(*arguments: Any) -> torch.Tensor:
        embedding = herding_embedding(*arguments)
        shapes.append((tuple(embedding.shape), embedding.requires_grad))
        return embedding

    monkeypatch.setattr(workloads.DyTox, "herding_embedding", spy)

    make_workload(make_options("herding", implementation=implementation)).call()

    assert shapes == [((4, 3 * 16), False)]


def test_compare_measures_both_in_turn_and_gives_ratios(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    seconds = {"ours": iter([1.0, 5.0, 2.0]), "t_pass": iter([3.0, 8.0, 9.0])}
    grown = {"ours": iter([100, 110, 120]), "t_pass": iter([230, 220, 210])}

    def launch(options: Options) -> dict[str, Any]:
        # What the new process would read.
        assert parse_options(options.command_line()) == options
        assert (options.run.compare, options.model.drop_path_rate) == (False, 0)
        name = options.run.implementation
        started.append(name)
        measured = {"median_step_seconds": next(seconds[name]), "peak_rss_growth_bytes": next(grown[name])}
        return {"implementation": name, "gpu": None, **measured}

    monkeypatch.setattr(throughput, "launch", launch)

    result = run("train", compare=True, rounds=3)

    assert started == ["ours", "t_pass", "t_pass", "ours", "ours", "t_pass"]
    assert (result["ours"]["median_step_seconds"], result["t_pass"]["median_step_seconds"]) == (2.0, 8.0)
    assert result["speedup"] == 8.0 / 2.0
    assert result["speedup_per_round"] == [3.0 / 1.0, 8.0 / 5.0, 9.0 / 2.0]
    assert (result["memory_ratio"], result["memory_ratio_of"]) == (2.0, "peak_rss_growth_bytes")


@pytest.mark.slow
def test_compare_starts_a_process_for_each_measurement(run: Callable[..., Any]) -> None:
    result = run("train_teacher", compare=True, rounds=1)

    assert [result[name]["implementation"] for name in ("ours", "t_pass")] == ["ours", "t_pass"]
    assert result["ours"]["num_parameters"] == result["t_pass"]["num_parameters"]
    assert result["ours"]["flops_per_step"] < result["t_pass"]["flops_per_step"]
    ours, theirs = (result[name]["median_step_seconds"] for name in ("ours", "t_pass"))
    assert result["speedup"] == pytest.approx(theirs / ours)


def test_compare_names_the_reason_why_a_process_failed(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    done = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nMemoryError: too large\n")
    monkeypatch.setattr(throughput.subprocess, "run", lambda *_, **__: done)

    assert fails(*words("eval", compare=True)) == (
        "error: --implementation ours ended with status 1: MemoryError: too large"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mode": "infer"}, "argument --mode: invalid choice: 'infer'"),
        ({"num_steps": 0}, "--num_steps 0 must be at least 1."),
        ({"classes_per_step": 0}, "--classes_per_step 0 must be at least 1."),
        ({"batch_size": "many"}, "invalid int value: 'many'"),
        ({"repeats": 0}, "--repeats 0 must be at least 1."),
        ({"warmup": -1}, "--warmup -1 must be at least 0."),
        ({"dtype": "float16"}, "argument --dtype: invalid choice: 'float16'"),
        ({"hidden_size": 17}, "--hidden_size 17 is not a multiple of --num_attention_heads 4"),
        ({"image_size": 13}, "--image_size 13 is not a multiple of --patch_size 4"),
        ({"drop_path_rate": 1}, "--drop_path_rate 1.0 must be in [0, 1)."),
        ({"mode": "train_teacher", "num_steps": 1}, "--num_steps must be 2 or more."),
        ({"mode": "data", "compare": True}, "leave out --compare"),
        ({"mode": "data", "implementation": "t_pass"}, "leave out --compare and --implementation"),
        ({"num_tasks": 3}, "Unknown option --num_tasks=3"),
    ],
)
def test_refuses_what_it_cannot_measure(options: dict[str, Any], expected: str, fails: Callable[..., str]) -> None:
    line = fails(*words(**({"mode": "eval"} | options)))

    assert line.startswith("error: ") and expected.lower() in line.lower()


def test_asks_for_a_mode(fails: Callable[..., str]) -> None:
    assert "--mode" in fails("--num_steps=2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_refuses_a_device_that_is_not_there(fails: Callable[..., str]) -> None:
    assert "--device cuda" in fails(*words("eval", device="cuda"))


@pytest.mark.parametrize("option", [{"implementation": "t_pass"}, {"compare": True}])
def test_names_the_folder_that_t_passes_need(
    option: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: Callable[..., str]
) -> None:
    monkeypatch.setattr(t_pass, "ORACLE", tmp_path / "oracle.py")

    assert f"{tmp_path / 'oracle.py'} is missing" in fails(*words("eval", **option))


def test_compiles_what_a_step_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))

    for mode in ("eval", "herding"):
        for implementation in throughput.IMPLEMENTATIONS:
            make_workload(make_options(mode, compile=True, implementation=implementation))
    trainer = Training(make_options("train", compile=True)).trainer

    assert compiled == ["DyToxForImageClassification", "TPassDyTox", "DyToxModel", "TPassDyTox"]
    assert isinstance(trainer.learner, torch._dynamo.OptimizedModule)


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        throughput.main(["--help"])

    assert end.value.code == 0
    text = capsys.readouterr().out
    options = make_options("eval", intermediate_size=24)
    names = [word.split("=")[0] for word in options.command_line()]
    assert len(names) == len(fields(options.run)) + len(fields(options.model))
    for name in names:
        (_, *explained) = text.split(f"\n  {name} ")
        (explanation,) = [part.split("\n  --")[0] for part in explained]
        assert "(default:" in explanation and len(explanation.split("(default:")[0].split()) > 4, name
