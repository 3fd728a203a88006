"""Options: from a YAML file, from the command line, and the errors of both."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from hub.run.errors import InputError
from hub.run.results import RunResults, StepResults
from training import evaluate, parsing
from training.arguments import GROUPS, Arguments
from training.evaluate import EvaluationArguments
from training.methods import METHODS
from training.parsing import REMOVED, RemovedOption, option_names, parse_arguments


FIELDS = {option.name: option for group in (*GROUPS, METHODS["dytox"].Options) for option in fields(group)}
DATA = ("--dataset_name", "digits")

Write = Callable[[str | bytes], str]


@pytest.fixture
def write_recipe(tmp_path: Path) -> Write:
    """Writes a YAML file and returns its path."""

    def write(content: str | bytes) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def error_of(*command_line: str) -> str:
    """The message with which these options are refused: always one line."""
    with pytest.raises(InputError) as caught:
        parse_arguments(command_line)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def value_of(arguments: Arguments, name: str) -> Any:
    """The value of an option of any group."""
    (group,) = [group for group in vars(arguments).values() if hasattr(group, name)]
    return getattr(group, name)


@pytest.mark.parametrize("order", ["config first", "config last", "with an equals sign"])
def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(write_recipe: Write, order: str) -> None:
    recipe = write_recipe("dataset_name: digits\nnum_epochs: 7\nlearning_rate: 0.25\nclass_order: [cat, 3, dog]\n")
    config = [f"--config={recipe}"] if order == "with an equals sign" else ["--config", recipe]
    own = ["--num_epochs", "9", "--class_order", "a", "b"]
    arguments = parse_arguments(own + config if order == "config last" else config + own)
    assert (arguments.optimization.num_epochs, arguments.data.class_order) == (9, ["a", "b"])
    assert arguments.optimization.learning_rate == 0.25
    assert arguments.optimization.warmup_epochs == FIELDS["warmup_epochs"].default


def test_without_a_file_the_defaults_hold(write_recipe: Write) -> None:
    arguments = parse_arguments(DATA)
    decided = {"dataset_name": "digits", "classes_per_step": [10], "method": "dytox", "image_size": 32}
    for name, option in FIELDS.items():
        assert value_of(arguments, name) == decided.get(name, option.default)
    assert parse_arguments(["--config", write_recipe("# nothing\n"), *DATA]) == arguments
    # A published model is taught all new classes at once.
    continued = parse_arguments([*DATA, "--model_name_or_path", "org/name", "--method", "dytox"])
    assert continued.data.classes_per_step is None


VALUES: list[tuple[str, Any]] = [
    ("class_order: [cat, 3, dog]", ["cat", "3", "dog"]),
    ("class_order: seed:1993", ["seed:1993"]),
    # As they are written, whatever YAML makes of them.
    ("class_order: [yes, no, 010, null]", ["yes", "no", "010", "null"]),
    ("output_dir: ~/runs/x", str(Path("~/runs/x").expanduser())),
    ("class_order:", None),
    ("num_classes: null", None),
    ("num_epochs: [7]", 7),
    *((f"learning_rate: {text}", 0.001) for text in ("1.0e-3", "1e-3", "0.001", ".001")),
    ("learning_rate: ~", 5e-4),
    ("classes_per_step: [5, 3, 1]", [5, 3, 1]),
    ("classes_per_step: 4", [4]),
    ("--classes_per_step 5 3", [5, 3]),
    *((f"distillation: {text}", True) for text in ("true", "yes", "on")),
    *((f"distillation: {text}", False) for text in ("false", "no")),
    ("mixed_precision: no", "no"),
    ("--fixed_memory", True),
    ("--no_distillation", False),
    ("--distillation false", False),
]


@pytest.mark.parametrize(("given", "expected"), VALUES)
def test_values_in_yaml_and_on_the_command_line(write_recipe: Write, given: str, expected: Any) -> None:
    words = given.split() if given.startswith("--") else ["--config", write_recipe(given)]
    name = given.removeprefix("--").removeprefix("no_").replace(":", " ").split()[0]
    assert value_of(parse_arguments([*DATA, *words]), name) == expected


@pytest.mark.parametrize(
    ("content", "part"),
    [
        *((text, "recipe.yaml holds ") for text in ("- dataset_name", "digits", "3")),
        *((content, "recipe.yaml is not valid YAML") for content in (b"a: [1", b"a: b: c", b"\x00", b"name: \xe9")),
        ("class_per_step: 2", "recipe.yaml: did you mean --classes_per_step?"),
        ("sam_roh: 2", "recipe.yaml: did you mean --sam_rho?"),
        ("num_epochs: [1, 2]", "recipe.yaml is the list [1, 2]: give one value"),
        ("num_epochs: []", "recipe.yaml is the list []: give one value"),
        ("num_epochs: {a: 1}", "--num_epochs/--num-epochs: invalid int value: "),
        ("learning_rate: -1e-4", "--learning_rate -0.0001 must be at least 0."),
        ("learning_rate: .nan", "--learning_rate nan must be a finite number"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(write_recipe: Write, content: str | bytes, part: str) -> None:
    assert part in error_of("--config", write_recipe(content), *DATA)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        assert f"--config {path} does not exist: give the path" in error_of("--config", str(path))


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        *((word, "did you mean --memory_size?") for word in ("--memory_sise", "--memory_siz=3", "--memory-sise")),
        ("--sam_roh", "did you mean --sam_rho?"),
        ("--xyzzy", "see --help"),
        # An abbreviation would change its meaning when an option is added.
        ("--num_ep", "did you mean --num_epochs?"),
    ],
)
def test_an_unknown_option_is_refused_with_the_closest_known_one(word: str, hint: str) -> None:
    assert f"Unknown option {word}: {hint}" in error_of(*DATA, word, "3")


def test_an_option_that_was_removed_is_ignored_at_its_old_default_and_refused_otherwise(
    write_recipe: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REMOVED, "warm_restarts", RemovedOption(0, "use --warmup_epochs."))
    for text in ("0", "[0]", "null"):
        assert parse_arguments(["--config", write_recipe(f"warm_restarts: {text}"), *DATA]) == parse_arguments(DATA)
    refused = "was removed: use --warmup_epochs."
    recipe = write_recipe("warm_restarts: 2")
    assert error_of("--config", recipe, *DATA) == f"Option warm_restarts in {recipe} {refused}"
    assert error_of(*DATA, "--warm_restarts=0") == f"Option --warm_restarts=0 {refused}"


def test_options_of_a_method_stand_in_its_block_and_blocks_of_others_are_skipped(write_recipe: Write) -> None:
    recipe = write_recipe("dytox: {sam_rho: 2, finetuning_epochs: 3}\nwa: {distillation_temperature: 4}\nder:\n")
    config = ["--config", recipe, *DATA]
    assert value_of(parse_arguments(config), "sam_rho") == 2
    assert value_of(parse_arguments([*config, "--sam_rho", "5"]), "sam_rho") == 5, "the command line wins"
    assert parse_arguments([*config, "--method", "wa"]).options == METHODS["wa"].Options(4.0)
    assert parse_arguments([*config, "--method", "der"]).options == METHODS["der"].Options()
    for content, part in (
        *((f"wa: {value}", f"wa in {{}} is {value}: expected a block of options") for value in ("3", "[]", "False")),
        ("wa: {memory_size: 2}", "option memory_size in the block wa of {}: all methods share it, write it outside"),
        (
            "wa: {sam_rho: 2}",
            "option sam_rho in the block wa of {}: --method wa has distillation_temperature.",
        ),
        ("replay: {sam_rho: 2}", "--method replay has no options of its own."),
    ):
        assert part.format(recipe) in error_of("--config", write_recipe(content), *DATA)


# Methods with a second phase.
FINETUNING = [name for name, kind in METHODS.items() if "finetuning_epochs" in option_names(kind.Options)]


@pytest.mark.parametrize(
    ("method", "words", "owners"),
    [
        ("wa", ["--sam_rho", "2"], "dytox"),
        *(("wa", [word], "dytox") for word in ("--sam-rho=2", "--no_distillation", "--no-distillation")),
        ("replay", ["--finetuning_epochs=20"], " and ".join(FINETUNING)),
    ],
)
def test_an_option_of_another_method_is_refused_on_the_command_line(
    method: str, words: list[str], owners: str
) -> None:
    assert error_of(*DATA, "--method", method, *words) == (
        f"Option {words[0]} belongs to --method {owners}, not to {method}: leave it out, or choose another method."
    )


def test_a_flat_file_of_earlier_versions_serves_the_methods_that_lack_its_options_where_it_leaves_defaults(
    write_recipe: Write,
) -> None:
    flat = "method: replay\ndistillation: true\nfinetuning_epochs: [20]\nfinetuning_learning_rate: 5e-5\nsam_rho:\n"
    assert parse_arguments(["--config", write_recipe(flat), *DATA]).options == METHODS["replay"].Options()
    # What it says of its own method's options is not said of those that another method has under the same names.
    flat = "method: dytox\ndistillation_temperature: 1\nfinetuning_epochs: 20\n"
    for method in ("wa", "der"):
        arguments = parse_arguments(["--config", write_recipe(flat), *DATA, "--method", method])
        assert arguments.options == METHODS[method].Options()


@pytest.mark.parametrize(
    ("written_for", "method", "line", "owners"),
    [("replay", "replay", "sam_rho: 2", ["dytox"]), ("dytox", "der", "finetuning_epochs: 3", ["dytox"])]
    + [(method, "icarl", "finetuning_epochs: 3", FINETUNING) for method in ("wa", "icarl")],
)
def test_other_values_of_options_that_the_method_lacks_are_refused_with_advice_that_works(
    write_recipe: Write, written_for: str, method: str, line: str, owners: list[str]
) -> None:
    recipe = write_recipe(f"method: {written_for}\n{line}\n")
    words = ["--config", recipe, *DATA, "--method", method]
    assert error_of(*words) == (
        f"{line.replace(':', '')} in {recipe} is for --method {' and '.join(owners)}, not for {method}: leave it out, "
        f"or put it into a block '{owners[0]}:'."
    )
    write_recipe(f"method: {written_for}\n{owners[0]}:\n  {line}\n")
    assert parse_arguments(words).options == METHODS[method].Options()


def test_a_model_is_taught_by_the_method_it_was_learned_with(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    step = StepResults(
        step=1, classes=("a",), num_seen_classes=1, accuracy=1.0, accuracy_per_step=(1.0,), num_parameters=1
    )
    results = RunResults(dataset="d", num_steps=1, class_order=("a",), seed=0, method="icarl", steps=(step,))
    results = replace(results, average_incremental_accuracy=1.0, last_accuracy=1.0)
    words = [*DATA, "--model_name_or_path", str(tmp_path)]
    for learned, asked, taught in (("icarl", [], "icarl"), ("icarl", ["--method", "wa"], "wa"), ("joint", [], None)):
        replace(results, method=learned).write(tmp_path / "results.json")
        if taught:
            assert parse_arguments([*words, *asked]).method.method == taught
        else:
            assert "The method joint, with which the model was learned, cannot continue a model" in error_of(*words)


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (["--help"], 0, "dynamically expandable representation"),
        (["--method", "x", "--help"], 2, "error: --method 'x' is unknown: choose one of dytox, "),
        (["--dataset_name", "digits", "--memory_sise", "3"], 2, "did you mean --memory_size?"),
        (["--dataset_name", "digits", "--method", "wa", "--sam_rho", "2"], 2, "belongs to --method dytox"),
        (["--dataset_name", "digits", "--hidden_size", "7"], 2, "is not a multiple of"),
    ],
)
def test_help_and_refusals_come_before_torch_is_imported(root: Path, words: list[str], status: int, part: str) -> None:
    script = [sys.executable, "-X", "importtime", "training/incremental.py", *words]
    ended = subprocess.run(script, cwd=root, capture_output=True, text=True, check=False)
    imported = {
        line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time")
    }
    assert ended.returncode == status and part in ended.stdout + ended.stderr
    assert "training.parsing" in imported and not imported & {"torch", "accelerate", "datasets", "torchvision", "timm"}


# The lower bound of every number but those in a range of their own.
BOUNDS = {
    1: "classes_per_step initial_classes num_classes max_train_samples_per_class max_eval_samples_per_class "
    "image_size patch_size hidden_size num_hidden_layers num_task_attention_layers num_attention_heads "
    "intermediate_size num_epochs updates_per_epoch per_device_train_batch_size gradient_accumulation_steps "
    "per_device_eval_batch_size repeated_augmentation",
    0: "finetuning_epochs finetuning_learning_rate memory_size divergence_weight mixup_alpha sam_rho learning_rate "
    "learning_rate_batch_size warmup_epochs warmup_learning_rate min_learning_rate weight_decay num_workers seed "
    "encoder_output cached_views",
}


def test_every_number_is_refused_out_of_its_bounds() -> None:
    bounded = {"distillation_temperature", "feature_cache_gb", "holdout", "drop_path_rate", "mixup_label_smoothing"}
    for bound, names in BOUNDS.items():
        bounded |= set(names.split())
        for name in names.split():
            message = error_of(*DATA, f"--{name}", str(bound - 1))
            assert f"--{name} {bound - 1}" in message and f"must be at least {bound}." in message
    for name in ("drop_path_rate", "mixup_label_smoothing"):
        for value in ("-0.5", "1.0", "1.5"):
            assert error_of(*DATA, f"--{name}", value) == f"--{name} {value} must be in [0, 1)."
    for value in ("0.0", "1.0"):
        assert error_of(*DATA, "--holdout", value) == f"--holdout {value} must be in (0, 1)."
    assert "--feature_cache_gb 0.0 must be greater than 0." in error_of(*DATA, "--feature_cache_gb", "0")
    message = error_of(*DATA, "--distillation_temperature", "0")
    assert message == "--distillation_temperature 0.0 must be greater than 0."
    hints = {
        name: hint for group in (*GROUPS, METHODS["dytox"].Options) for name, hint in get_type_hints(group).items()
    }
    assert {
        name
        for name, hint in hints.items()
        if {int, float} & {hint, *get_args(hint), *get_args(get_args(hint)[0] if get_args(hint) else None)}
    } == bounded
    for method, kind in METHODS.items():
        for name, hint in get_type_hints(kind.Options).items():
            if hint in (int, float):
                assert f"--{name} -1" in error_of(*DATA, "--method", method, f"--{name}=-1")


def help_of(script: Any, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The help of a script, without white space: the terminal's width decides where lines break."""
    with pytest.raises(SystemExit) as caught:
        script.parse_arguments([*words, "--help"])
    assert caught.value.code == 0
    return "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("method", [None, *METHODS, "evaluate"])
def test_help_explains_every_option_with_its_default(
    method: str | None, capsys: pytest.CaptureFixture[str], write_recipe: Write
) -> None:
    if method == "evaluate":
        text, groups = help_of(evaluate, [], capsys), [EvaluationArguments]
    else:
        own = METHODS[method or "dytox"].Options
        text, groups = help_of(parsing, ["--method", method] if method else [], capsys), [*GROUPS, own]
        assert ("optionsof--method" in text) == bool(fields(own))
        assert all("".join(f"{name} {kind.summary}".split()) in text for name, kind in METHODS.items())
        if method:
            assert help_of(parsing, ["--config", write_recipe(f"method: [{method}]")], capsys) == text
    for option in (option for group in groups for option in fields(group)):
        words = option.metadata["help"]
        assert f"--{option.name}" in text and words.endswith((".", ")"))
        assert option.default is not None or re.search("default|[Rr]equired|Inferred", words)
        default = "" if option.default is None else f"(default:{option.default})"
        assert "".join(words.split()) + default in text


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused(name: str) -> None:
    command_line = [*DATA, "--report_to", name]
    if importlib.util.find_spec(name):
        assert parse_arguments(command_line).output.report_to == name
    else:
        assert f"pip install {name}" in error_of(*command_line)


def test_the_recipe_holds_what_decides_the_result_and_nothing_else(make_arguments: Callable[..., Arguments]) -> None:
    recipe = make_arguments().recipe()
    irrelevant = {"num_workers": 7, "per_device_eval_batch_size": 3, "output_dir": "elsewhere", "hub_model_id": "a/b"}
    assert make_arguments(**irrelevant, overwrite_output_dir=1).recipe() == recipe
    for name, value in (("seed", 1), ("num_epochs", 3), ("hidden_size", 96), ("num_classes", 2), ("sam_rho", 3)):
        changed = make_arguments(**{name: value}).recipe()
        assert {key for key in recipe if recipe[key] != changed[key]} == {name}
    # The options of one method are part of its own recipes alone.
    other = make_arguments(method="wa").recipe()
    assert recipe.keys() - other.keys() == {option.name for option in fields(METHODS["dytox"].Options)} - other.keys()
