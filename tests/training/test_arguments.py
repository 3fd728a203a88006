"""Options: from a YAML file, from the command line, and the errors of both."""

import importlib.util
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub.run.errors import InputError
from training.arguments import GROUPS, Arguments, option_names, parse_arguments


RECIPES = Path(__file__).parents[2] / "training" / "recipes"
FIELDS = {option.name: option for group in GROUPS for option in fields(group)}

Write = Callable[[str], str]


@pytest.fixture
def write_recipe(tmp_path: Path) -> Write:
    """Writes a YAML file and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def error_of(*command_line: str) -> str:
    """The message with which these options are refused: always one line."""
    with pytest.raises(InputError) as caught:
        parse_arguments(command_line)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def value_of(arguments: Arguments, name: str) -> Any:
    """The value of an option, whichever group it is in."""
    (group,) = [group for group in vars(arguments).values() if hasattr(group, name)]
    return getattr(group, name)


@pytest.mark.parametrize("config_first", [True, False])
def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(
    write_recipe: Write, config_first: bool
) -> None:
    recipe = write_recipe("dataset_name: digits\nnum_epochs: 7\nlearning_rate: 0.25\nhorizontal_flip: false\n")
    config, own = ["--config", recipe], ["--num_epochs", "9", "--horizontal_flip", "true"]
    arguments = parse_arguments(config + own if config_first else own + config)
    assert arguments.optimization.num_epochs == 9
    assert arguments.optimization.horizontal_flip is True
    assert arguments.optimization.learning_rate == 0.25
    assert arguments.optimization.warmup_epochs == FIELDS["warmup_epochs"].default


def test_config_may_be_given_with_an_equals_sign(write_recipe: Write) -> None:
    assert parse_arguments([f"--config={write_recipe('dataset_name: digits')}"]).data.dataset_name == "digits"


def test_without_a_file_the_defaults_hold() -> None:
    arguments = parse_arguments(["--dataset_name", "digits"])
    derived = {"dataset_name": "digits", "classes_per_step": 10}
    for name, option in FIELDS.items():
        assert value_of(arguments, name) == derived.get(name, option.default)


def test_lists_come_from_yaml_and_are_replaced_as_a_whole(write_recipe: Write) -> None:
    recipe = write_recipe("dataset_name: digits\nclass_order: [cat, 3, dog]\n")
    assert parse_arguments(["--config", recipe]).data.class_order == ["cat", "3", "dog"]
    assert parse_arguments(["--config", recipe, "--class_order", "a", "b"]).data.class_order == ["a", "b"]


def test_null_in_yaml_is_the_default(write_recipe: Write) -> None:
    recipe = write_recipe("dataset_name: digits\nnum_classes: null\nlearning_rate: ~\nclass_order:\n")
    arguments = parse_arguments(["--config", recipe])
    assert arguments.data.num_classes is None
    assert arguments.data.class_order is None
    assert arguments.optimization.learning_rate == FIELDS["learning_rate"].default


@pytest.mark.parametrize("text", ["1.0e-3", "1e-3", "0.001", ".001"])
def test_numbers_may_be_written_in_every_way(write_recipe: Write, text: str) -> None:
    recipe = write_recipe(f"dataset_name: digits\nlearning_rate: {text}")
    assert parse_arguments(["--config", recipe]).optimization.learning_rate == 0.001


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("yes", True), ("on", True), ("false", False), ("no", False)]
)
def test_booleans_in_yaml(write_recipe: Write, text: str, expected: bool) -> None:
    recipe = write_recipe(f"dataset_name: digits\ndistillation: {text}\nfixed_memory: {text}")
    method = parse_arguments(["--config", recipe]).method
    assert method.distillation is expected
    assert method.fixed_memory is expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--fixed_memory"], (True, True)),
        (["--no_distillation"], (False, False)),
        (["--distillation", "false", "--fixed_memory", "1"], (False, True)),
    ],
)
def test_booleans_on_the_command_line(words: list[str], expected: tuple[bool, bool]) -> None:
    method = parse_arguments(["--dataset_name", "digits", *words]).method
    assert (method.distillation, method.fixed_memory) == expected


def test_an_unknown_option_in_the_file_is_refused_with_the_closest_known_one(write_recipe: Write) -> None:
    recipe = write_recipe("dataset_name: digits\nlearning_rat: 1\n")
    message = error_of("--config", recipe)
    assert "learning_rat " in message
    assert recipe in message
    assert "did you mean --learning_rate?" in message


@pytest.mark.parametrize("word", ["--memory_sise", "--memory_siz=3", "--memorysize"])
def test_an_unknown_option_on_the_command_line_is_refused_with_the_closest_known_one(word: str) -> None:
    message = error_of("--dataset_name", "digits", word, "3")
    assert word in message
    assert "did you mean --memory_size?" in message


def test_an_unlike_option_is_refused_with_a_pointer_to_help() -> None:
    assert "--xyzzy: see --help" in error_of("--dataset_name", "digits", "--xyzzy")


def test_options_are_not_abbreviated() -> None:
    # An abbreviation would change its meaning when an option is added.
    assert "--num_ep" in error_of("--dataset_name", "digits", "--num_ep", "3")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_epochs", "ten"),
        ("num_epochs", "1.5"),
        ("learning_rate", "fast"),
        ("distillation", "perhaps"),
        ("train_crop", "centre"),
        ("encoder_attention", "sparse"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_option(write_recipe: Write, name: str, value: str) -> None:
    for command_line in (
        ("--dataset_name", "digits", f"--{name}", value),
        ("--config", write_recipe(f"dataset_name: digits\n{name}: {value}")),
    ):
        message = error_of(*command_line)
        assert name in message
        assert value in message


@pytest.mark.parametrize("value", ["[1, 2]", "{a: 1}"])
def test_yaml_of_another_shape_is_refused(write_recipe: Write, value: str) -> None:
    assert "num_epochs" in error_of("--config", write_recipe(f"dataset_name: digits\nnum_epochs: {value}"))


@pytest.mark.parametrize("value", ["-1", "-1.0e-4", "-1e-4", "-0.5", "-.inf", ".nan", ".inf"])
def test_a_bad_number_in_yaml_is_named(write_recipe: Write, value: str) -> None:
    message = error_of("--config", write_recipe(f"dataset_name: digits\nlearning_rate: {value}"))
    assert message.startswith(f"--learning_rate {float(value.replace('.inf', 'inf').replace('.nan', 'nan'))} must be")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        assert f"--config {path} does not exist" in error_of("--config", str(path))


@pytest.mark.parametrize("text", ["- dataset_name", "digits", "3"])
def test_a_file_that_is_no_mapping_is_refused(write_recipe: Write, text: str) -> None:
    recipe = write_recipe(text)
    assert f"--config {recipe} holds" in error_of("--config", recipe)


@pytest.mark.parametrize("content", [b"a: [1", b"a: b: c", b"\x00\x01", b"\xff\xfe\xfa", b"name: \xe9"])
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(content)
    assert f"--config {recipe} is not valid YAML" in error_of("--config", str(recipe))


def test_an_empty_file_says_nothing(write_recipe: Write) -> None:
    empty = write_recipe("# nothing\n")
    assert parse_arguments(["--config", empty, "--dataset_name", "digits"]) == parse_arguments(
        ["--dataset_name", "digits"]
    )


def test_a_data_set_is_required() -> None:
    assert "--dataset_name is missing" in error_of()


def test_help_explains_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(["--help"])
    assert caught.value.code == 0
    # The terminal's width decides where lines break.
    text = "".join(capsys.readouterr().out.split())
    for name in option_names():
        option = FIELDS[name]
        assert f"--{name}" in text
        assert option.metadata["help"].endswith((".", ")"))
        assert "".join(option.metadata["help"].split()) + f"(default:{option.default})" in text


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused(name: str) -> None:
    packages = (name, "tensorboardX") if name == "tensorboard" else (name,)
    command_line = ["--dataset_name", "digits", "--report_to", name]
    if any(importlib.util.find_spec(package) for package in packages):
        assert parse_arguments(command_line).output.report_to == name
    else:
        assert f"pip install {name}" in error_of(*command_line)


def test_the_recipe_holds_what_decides_the_result_and_nothing_else(make_arguments: Callable[..., Arguments]) -> None:
    recipe = make_arguments().recipe()
    irrelevant = make_arguments(
        num_workers=7, per_device_eval_batch_size=3, output_dir="elsewhere", hub_model_id="a/b", overwrite_output_dir=1
    )
    assert irrelevant.recipe() == recipe
    for name, value in (("seed", 1), ("num_epochs", 3), ("method", "joint"), ("hidden_size", 96), ("num_classes", 2)):
        changed = make_arguments(**{name: value}).recipe()
        assert {key for key in recipe if recipe[key] != changed[key]} == {name}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_parses_and_says_what_it_is(path: Path) -> None:
    arguments = parse_arguments(["--config", str(path)])
    for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if value is not None:
            assert str(value_of(arguments, name)) == str(value) or float(value_of(arguments, name)) == float(value)
    header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    for word in ("Paper:", "Cost:", "Command:", f"training/recipes/{path.name}"):
        assert word in header
