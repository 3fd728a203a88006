"""The throughput benchmark: its numbers agree with each other, and both implementations do the same work."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import measures, t_pass, throughput
from benchmarks.measures import Linear, count_flops
from benchmarks.options import Options, parse_options
from benchmarks.workloads import Training, make_batch, make_inference, make_workload
from hub.run.errors import InputError
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from training.methods.losses import one_hot_targets


SIZES = {"image_size": 12, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
# Steps of milliseconds; memory that is kept would be kept for the whole process of the tests.
TINY = {"num_steps": 3, "classes_per_step": 2, "batch_size": 4, "repeats": 3, "warmup": 1, "keep_freed_memory": False}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """Keeps the precision and device of one test from the next."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def words(mode: str, **options: Any) -> list[str]:
    """A command line with tiny sizes; an option that is True is a flag."""
    values = {"mode": mode} | SIZES | TINY | options
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()]


def make_options(mode: str, **options: Any) -> Options:
    return parse_options(words(mode, **options))


def flops(*command_line: str) -> int:
    """The operations of a step."""
    return count_flops(make_workload(parse_options(command_line)).call)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs the script in this process, and reads the one JSON object that it prints."""

    def run(mode: str, **options: Any) -> dict[str, Any]:
        assert throughput.main(words(mode, **options)) == 0
        return json.loads(capsys.readouterr().out)

    return run


WITH_A_MODEL = product(("eval", "train", "train_teacher", "herding"), ("ours", "t_pass"), ("float32", "bfloat16"))


@pytest.mark.parametrize(("mode", "implementation", "dtype"), [*WITH_A_MODEL, ("data", "ours", "float32")])
def test_prints_numbers_that_agree_with_each_other(
    mode: str, implementation: str, dtype: str, run: Callable[..., Any]
) -> None:
    started = time.perf_counter()
    result = run(mode, implementation=implementation, dtype=dtype, num_workers=0)
    wall = time.perf_counter() - started

    assert (result["mode"], result["implementation"], result["dtype"]) == (mode, implementation, dtype)
    assert (result["device"], result["batch_size"], result["model"]["hidden_size"]) == ("cpu", 4, 16)
    assert 0 < result["min_step_seconds"] <= result["median_step_seconds"]
    # A step is a batch, also where one call goes through twenty.
    assert 3 * (20 if mode == "data" else 1) * result["min_step_seconds"] < wall
    assert result["images_per_second"] == pytest.approx(4 / result["median_step_seconds"])
    assert 0 <= result["peak_rss_growth_bytes"] < result["peak_rss_bytes"]
    assert result["peak_gpu_memory_bytes"] is None
    if mode == "data":
        assert result["num_parameters"] is result["flops_per_step"] is result["fraction_of_gemm_limit"] is None
        return
    model = DyToxForImageClassification(
        DyToxConfig(**SIZES, intermediate_size=64, class_ranges=[[0, 2], [2, 4], [4, 6]])
    )
    assert result["num_parameters"] == model.num_parameters()
    limit = result["flops_per_step"] / result["gemm_flops_per_second"]
    assert result["fraction_of_gemm_limit"] == pytest.approx(limit / result["median_step_seconds"])


def test_computes_in_the_precision_that_is_asked_for() -> None:
    model = make_inference(make_options("eval", dtype="bfloat16")).model
    assert model is not None and model.dtype == torch.bfloat16
    assert Training(make_options("train", dtype="bfloat16")).accelerator.mixed_precision == "bf16"


@pytest.mark.parametrize("implementation", ["ours", "t_pass"])
@pytest.mark.parametrize("mode", ["eval", "herding", "train"])
def test_compiles_what_a_step_calls(mode: str, implementation: str) -> None:
    call = make_workload(make_options(mode, compile=True, implementation=implementation)).call
    # Compiled code is refused where it would be compiled: nothing has to be.
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="fail_on_recompile"):
        call()


def test_steps_are_timed_after_warm_up_and_the_peak_of_memory_is_kept() -> None:
    calls: list[int] = []
    assert len(measures.seconds_of(lambda: calls.append(0), repeats=2, warmup=3, device=CPU)) == 2
    assert len(calls) == 5
    before = measures.peak_resident_bytes()
    ballast = torch.ones(before - measures.resident_bytes() + 2**26, dtype=torch.uint8)
    del ballast
    assert measures.peak_resident_bytes() - before > 2**25


def test_fused_attention_counts_as_the_products_that_it_fuses() -> None:
    def counts(attention: str) -> list[int]:
        config = DyToxConfig(**SIZES, encoder_attention="plain", num_labels=2, attn_implementation=attention)
        model, images = DyToxForImageClassification(config), torch.randn(4, 3, 12, 12)
        labels = torch.zeros(4, dtype=torch.long)
        return [count_flops(lambda: model(images)), count_flops(lambda: model(images, labels=labels).loss.backward())]

    assert counts("sdpa") == counts("eager")


@pytest.mark.parametrize("implementation", ["ours", "t_pass"])
def test_operations_of_one_mode_follow_from_those_of_another(implementation: str) -> None:
    def of(mode: str, **options: Any) -> int:
        return flops(*words(mode, implementation=implementation, **options))

    # The teacher knows a step less. Each product of the student is followed by at most two in the backward pass.
    assert of("train_teacher") - of("train") == of("eval", num_steps=2)
    classifiers = 2 * 4 * 16 * 6
    assert 2 * of("eval") < of("train") <= 3 * (of("eval") + classifiers)
    assert of("eval") - classifiers <= of("herding") <= of("eval")


def test_fifty_steps_cost_a_fifth_more_at_most_in_one_pass_and_grow_linearly_in_t_passes() -> None:
    def of(num_steps: int, implementation: str) -> int:
        sizes = (f"--num_steps={num_steps}", "--classes_per_step=2", "--batch_size=1")
        return flops("--mode=eval", f"--implementation={implementation}", *sizes)

    assert of(50, "ours") < 1.2 * of(1, "ours")
    one, two, fifty = (of(num_steps, "t_pass") for num_steps in (1, 2, 50))
    assert fifty - one == 49 * (two - one)
    assert fifty > 2.5 * one


def test_the_limit_is_measured_on_the_layers_of_the_model() -> None:
    model, seen = make_inference(make_options("eval")).model, Counter[Linear]()
    assert model is not None

    def note(layer: torch.nn.Linear, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        rows = inputs[0].numel() // layer.in_features
        # The products of the three task tokens before they meet an image do not count.
        seen[Linear(rows, layer.in_features, layer.out_features)] += rows != 3

    for name, module in model.named_modules():
        if name.endswith(("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")):
            module.register_forward_hook(note)
    model(make_batch(make_options("eval")).images.float())
    assert measures.linear_layers(model.config, 4) == +seen


@pytest.mark.parametrize(("backwards", "seconds"), [(1, 5 * (1 + 2 + 3) + 1 * (4 + 5 + 6)), (0, 5 * 1 + 1 * 2)])
def test_the_limit_weighs_each_product_by_how_often_a_step_makes_it(backwards: int, seconds: int) -> None:
    layers, times = {Linear(8, 2, 3): 5, Linear(4, 3, 2): 1}, iter(range(1, 7))
    rate = measures.gemm_flops_per_second(layers, 1, backwards, lambda _: float(next(times)), CPU, torch.float32)
    assert rate == pytest.approx((5 * 2 * 8 * 2 * 3 + 1 * 2 * 4 * 3 * 2) * (1 + 2 * backwards) / seconds)


def terms_and_gradients(mode: str, implementation: str) -> tuple[dict[str, float], dict[str, torch.Tensor | None]]:
    """The terms of the loss and the gradient of each parameter, of weights that are the same in every call."""
    training = Training(make_options(mode, implementation=implementation, drop_path_rate=0))
    learner, generator = training.learner, torch.Generator().manual_seed(1)
    teacher = vars(learner.method).get("teacher")
    with torch.no_grad():
        for module in (training.model, learner.auxiliary, *([] if teacher is None else [teacher])):
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    pixel_values = training.trainer.normalize(training.batch.images)
    terms = learner(pixel_values, one_hot_targets(training.batch.labels, 6))
    sum(terms.values()).backward()
    gradients = {name.replace("model.", ""): parameter.grad for name, parameter in learner.named_parameters()}
    return {name: term.item() for name, term in terms.items()}, gradients


@pytest.mark.parametrize("mode", ["train", "train_teacher"])
def test_both_implementations_give_the_same_losses_and_gradients(mode: str) -> None:
    (terms, gradients), (other_terms, others) = (terms_and_gradients(mode, name) for name in ("ours", "t_pass"))
    assert set(terms) == {"classification", "divergence"} | ({"distillation"} if mode == "train_teacher" else set())
    assert other_terms == pytest.approx(terms, rel=1e-4)
    assert all(value > 0 for value in terms.values())
    assert set(others) == set(gradients)
    for name, gradient in gradients.items():
        is_old = name.startswith(("dytox.task_tokens.0", "dytox.task_tokens.1", "classifiers.0", "classifiers.1"))
        assert (gradient is None) == (others[name] is None) == is_old, name
        if gradient is not None:
            torch.testing.assert_close(gradient, others[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_training_step_moves_what_trains_in_the_main_phase(num_steps: int) -> None:
    training = Training(make_options("train", num_steps=num_steps, drop_path_rate=0.5))
    before = {name: tensor.clone() for name, tensor in training.learner.named_parameters()}
    training.step()
    assert (training.learner.phase.name, training.learner.step.number) == ("main", num_steps)
    assert training.learner.model.dytox.layers[1].drop_path.training
    moved = {name for name, tensor in training.learner.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, tensor in training.learner.named_parameters() if tensor.requires_grad}
    assert (moved == set(before)) == (num_steps == 1)


def test_the_summary_of_a_comparison_gives_ratios_of_medians() -> None:
    def rounds(*measured: tuple[float, int]) -> throughput.Rounds:
        names = ("median_step_seconds", "peak_rss_growth_bytes", "gpu")
        return throughput.Rounds([dict(zip(names, (*each, None), strict=True)) for each in measured])

    ours, theirs = rounds((1.0, 100), (5.0, 110), (2.0, 120)), rounds((3.0, 230), (8.0, 220), (9.0, 210))
    result = throughput.summarize(ours, theirs)
    assert (result["ours"]["median_step_seconds"], result["t_pass"]["median_step_seconds"]) == (2.0, 8.0)
    assert (result["speedup"], result["speedup_per_round"]) == (8.0 / 2.0, [3.0 / 1.0, 8.0 / 5.0, 9.0 / 2.0])
    assert (result["memory_ratio"], result["memory_ratio_of"]) == (2.0, "peak_rss_growth_bytes")


@pytest.mark.slow
def test_compare_starts_a_process_for_each_measurement(run: Callable[..., Any]) -> None:
    result = run("train_teacher", compare=True, rounds=1)
    assert [result[name]["implementation"] for name in ("ours", "t_pass")] == ["ours", "t_pass"]
    assert result["ours"]["num_parameters"] == result["t_pass"]["num_parameters"]
    assert result["ours"]["model"]["drop_path_rate"] == result["t_pass"]["model"]["drop_path_rate"] == 0
    ours, theirs = (result[name]["median_step_seconds"] for name in ("ours", "t_pass"))
    assert result["speedup"] == pytest.approx(theirs / ours)

    options = make_options("eval")
    with pytest.raises(InputError, match="ours ended with status 2: --num_steps 0 must be at least 1"):
        throughput.launch(replace(options, run=replace(options.run, num_steps=0)))


NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mode": "infer"}, "argument --mode: invalid choice: 'infer'"),
        ({"num_steps": 0}, "--num_steps 0 must be at least 1."),
        ({"hidden_size": 17}, "--hidden_size 17 is not a multiple of --num_attention_heads 4"),
        ({"mode": "train_teacher", "num_steps": 1}, "--num_steps must be 2 or more."),
        ({"mode": "data", "compare": True}, "leave out --compare"),
        ({"mode": "data", "implementation": "t_pass"}, "leave out --compare and --implementation"),
        ({"num_tasks": 3}, "Unknown option --num_tasks=3"),
        ({"implementation": "t_pass"}, "nowhere.py is missing"),
        ({"compare": True}, "nowhere.py is missing"),
        pytest.param({"device": "cuda"}, "--device cuda: torch finds no CUDA device here", marks=NO_CUDA),
    ],
    ids=str,
)
def test_refuses_what_it_cannot_measure(
    options: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(t_pass, "ORACLE", Path("nowhere.py"))
    assert throughput.main(words(**({"mode": "eval"} | options))) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("error: ") and expected.lower() in line.lower()
