"""The options of the throughput benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch

from hub.run.errors import InputError
from training.arguments import (
    Arguments,
    ContinuationArguments,
    DataArguments,
    EncoderArguments,
    MemoryArguments,
    MethodArguments,
    ModelArguments,
    OptimizationArguments,
    OutputArguments,
    option,
)
from training.methods.dytox import DyTox, DyToxOptions
from training.methods.ncm import NearestClassMean
from training.methods.ridge import Ridge, RidgeOptions
from training.option_parser import OptionParser
from training.parsing import check_arguments


#: The modes of methods whose weights have a closed form, and all modes on kept features.
CLOSED_FORM = (NearestClassMean.name, Ridge.name)
ON_FEATURES = ("cached", *CLOSED_FORM)
#: Its name is never looked up: the features are drawn at random.
FROZEN_ENCODER = EncoderArguments(encoder_name_or_path="random", freeze_encoder=True, cached_views=1)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class ThroughputArguments:
    """What the benchmark measures, and how."""

    mode: Literal["eval", "train", "train_teacher", "herding", "data", "cached", "ncm", "ridge"] = field(
        metadata={
            "help": "What a step is: 'eval', a forward pass without gradients; 'train', an update of the main "
            "phase of the last step, without a teacher; 'train_teacher', the same with distillation from the model "
            "of the step before; 'herding', the embedding of a batch that exemplars are chosen by; 'data', a "
            "training batch from the loader: decoded, augmented, stacked; 'cached', an update of the main phase of "
            "the last step, with its teacher, on kept features of a frozen encoder; 'ncm' and 'ridge', all that the "
            "method learns of kept features: sums and weights. Required."
        }
    )
    num_steps: int = option("Steps that the model knows: its task tokens and classifiers.", 10)
    classes_per_step: int = option("Classes of each step.", 10)
    batch_size: int = option("Images of a batch.", 128)
    device: Literal["cpu", "cuda"] = option("Where the model runs: 'cpu' or 'cuda'.", "cpu")
    dtype: Literal["float32", "bfloat16"] = option(
        "Precision: that of the weights in eval and herding, that of accelerate's mixed precision in training.",
        "float32",
    )
    compile: bool = option("Compile with torch.compile; the first warm-up step then takes long.", False)
    implementation: Literal["ours", "t_pass"] = option(
        "'ours', the model with one pass for all task tokens; 't_pass', Algorithm 1 of the paper in plain tensor "
        "operations: one pass of the decoder per task token, on the same weights and without drop path.",
        "ours",
    )
    keep_freed_memory: bool = option(
        "Let the process keep the memory that it frees, as training and evaluation do (Linux with glibc). With "
        "--compare only the model does: the reference code runs without it.",
        True,
    )
    repeats: int = option("Steps that are timed; in mode 'data' passes over 20 batches, in mode 'cached' epochs.", 20)
    warmup: int = option("Steps, passes or epochs before those, which are not timed.", 3)
    num_workers: int = option("Mode 'data': processes that load images; 0 loads in the process itself.", 2)
    num_images: int = option("Modes 'cached', 'ncm' and 'ridge': images whose features are learned from.", 5000)
    num_tokens: int = option("Mode 'cached': tokens of an image.", 16)
    token_width: int = option("Mode 'cached': width of these tokens.", 320)
    pooled_width: int = option("Modes 'ncm' and 'ridge': width of pooled features.", 1280)
    seed: int = option("Seed of weights and images.", 0)
    compare: bool = option(
        "Measure both implementations in turn, each in a new process, without drop path, and print both results and "
        "their ratios.",
        False,
    )
    rounds: int = option("With --compare: number of measurements of each implementation.", 3)


@dataclass(frozen=True)
class Options:
    """
    All options of the benchmark.

    Args:
        run (`ThroughputArguments`): what the benchmark measures, and how.
        model (`ModelArguments`): sizes of the model.
        ridge (`RidgeOptions`): of mode 'ridge'.
    """

    run: ThroughputArguments
    model: ModelArguments
    ridge: RidgeOptions

    @property
    def training(self) -> Arguments:
        """Options of a training run that does the same work."""
        mode = self.run.mode
        return Arguments(
            DataArguments(dataset_name="digits", classes_per_step=[self.run.classes_per_step]),
            ContinuationArguments(),
            self.model,
            FROZEN_ENCODER if mode in ON_FEATURES else EncoderArguments(),
            MethodArguments(mode if mode in CLOSED_FORM else DyTox.name),
            MemoryArguments(),
            OptimizationArguments(
                num_epochs=self.run.warmup + self.run.repeats,
                per_device_train_batch_size=self.run.batch_size,
                num_workers=self.run.num_workers,
                mixed_precision="no" if self.run.dtype == "float32" else "bf16",
                seed=self.run.seed,
            ),
            OutputArguments(),
            self._method_options(),
        )

    def _method_options(self) -> Any:
        if self.run.mode in CLOSED_FORM:
            return self.ridge if self.run.mode == Ridge.name else NearestClassMean.Options()
        return DyToxOptions(distillation=self.run.mode in ("train_teacher", "cached"))

    def with_implementation(self, name: Literal["ours", "t_pass"]) -> "Options":
        """Options that measure one implementation alone."""
        keep = self.run.keep_freed_memory and name == "ours"
        return replace(self, run=replace(self.run, implementation=name, compare=False, keep_freed_memory=keep))

    def command_line(self) -> list[str]:
        """The options as words of a command line."""
        groups = (self.run, self.model, self.ridge)
        values = {each.name: getattr(group, each.name) for group in groups for each in fields(group)}
        return [f"--{name}={value}" for name, value in values.items() if value is not None]


def parse_options(command_line: Sequence[str] | None = None) -> Options:
    """
    Reads the options from the command line.

    Args:
        command_line (`Sequence[str]`, *optional*): words of the command line, by default those of the process.

    Returns:
        `Options`: the options.

    Raises:
        `InputError`: if an option is unknown, has a bad value, or contradicts another.
    """
    groups: list[Any] = [ThroughputArguments, ModelArguments, RidgeOptions]
    parser = OptionParser(
        groups,
        description="Measures speed and memory of a model on synthetic images, and prints one JSON object.",
    )
    run, model, ridge, unknown = parser.parse_args_into_dataclasses(
        command_line, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise InputError(f"Unknown option {unknown[0]}: see --help for all options.")
    if run.compare or run.implementation == "t_pass":
        # The T passes have no drop path, and both implementations must do the same work.
        model.drop_path_rate = 0.0
    options = Options(run, model, ridge)
    _check(options)
    return options


_SMALLEST = {
    "num_steps": 1,
    "classes_per_step": 1,
    "batch_size": 1,
    "repeats": 1,
    "warmup": 0,
    "num_workers": 0,
    "num_images": 1,
    "num_tokens": 1,
    "token_width": 1,
    "pooled_width": 1,
    "seed": 0,
    "rounds": 1,
}


def _check(options: Options) -> None:
    run = options.run
    for name, smallest in _SMALLEST.items():
        if getattr(run, name) < smallest:
            raise InputError(f"--{name} {getattr(run, name)} must be at least {smallest}.")
    check_arguments(options.training)
    if run.mode == "train_teacher" and run.num_steps == 1:
        raise InputError(
            "--mode train_teacher learns from the model of the step before: --num_steps must be 2 or more."
        )
    if run.mode in ("data", *ON_FEATURES) and (run.compare or run.implementation != "ours"):
        raise InputError(f"--mode {run.mode} has no T passes: leave out --compare and --implementation.")
    if run.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device here, use --device cpu.")
