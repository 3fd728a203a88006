"""Every recipe says what it is and its command runs it; those of a family differ in what their names say alone."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

from hub.run.errors import InputError
from training.arguments import DataArguments
from training.data.class_order import BUNDLED_ORDERS, resolve_class_order
from training.data.scenario import class_ranges
from training.methods import METHODS
from training.parsing import parse_arguments


ROOT = Path(__file__).parents[3]
RECIPES = {path.stem: path for path in (ROOT / "training" / "recipes").glob("*.yaml")}

CIFAR_VARIANTS = ("dytox", "dytox_plus", "dytox_plus_plus")
CIFAR = [f"cifar100_{steps}steps_{variant}" for steps in (10, 20, 50) for variant in CIFAR_VARIANTS]
AS_PUBLISHED = [f"{name}_as_published" for name in CIFAR if not name.endswith("plus_plus")]
IMAGENET = [f"imagenet{classes}_10steps_{variant}" for classes in (100, 1000) for variant in CIFAR_VARIANTS[:2]]
PRETRAINED = ["cifar100_10steps_lite0", "cifar100_10steps_vit_b16_in21k", "photos"]
JOINT = ["cifar100_joint_transformer", "cifar100_joint_resnet18"]
OTHERS = ["digits", "cifar100_tiny_10steps", "cifar20_4steps", *JOINT, *PRETRAINED]

# Avg and Last, on ImageNet top-5 as well, as corrected by the authors (https://github.com/arthurdouillard/dytox,
# erratum_distributed.md): with distributed memory on CIFAR-100, with global memory on ImageNet.
PUBLISHED = {
    "cifar100_10steps_dytox": "71.50 57.76",
    "cifar100_20steps_dytox": "68.86 51.47",
    "cifar100_50steps_dytox": "64.82 45.61",
    "cifar100_10steps_dytox_plus": "74.10 62.34",
    "cifar100_20steps_dytox_plus": "71.62 57.43",
    "cifar100_50steps_dytox_plus": "68.90 51.09",
    "imagenet100_10steps_dytox": "71.85 57.94 90.72 83.52",
    "imagenet100_10steps_dytox_plus": "77.62 65.94 93.15 88.78",
    "imagenet1000_10steps_dytox": "68.14 59.75 87.03 82.93",
    "imagenet1000_10steps_dytox_plus": "73.21 64.56 91.09 87.07",
}
ACCIDENTS = {"repeated_augmentation": 3, "augmented_herding": True, "shuffle_finetuning": False}
ACCIDENTS |= {"lagging_schedule": True}
# Without these a recipe would leave to the defaults what its experiment is.
PINNED = """
    dataset_name classes_per_step image_size patch_size hidden_size num_hidden_layers num_attention_heads
    drop_path_rate method memory_size finetuning_epochs finetuning_learning_rate num_epochs
    per_device_train_batch_size learning_rate learning_rate_batch_size warmup_epochs weight_decay auto_augment
    train_crop horizontal_flip seed
"""
PINNED_WHERE_PRETRAINED = """
    dataset_name classes_per_step encoder_name_or_path freeze_encoder image_size method seed
"""
PINNED_WHERE_JOINT = """
    dataset_name class_order classes_per_step image_size hidden_size num_attention_heads drop_path_rate method
    num_epochs per_device_train_batch_size learning_rate learning_rate_batch_size warmup_epochs weight_decay
    auto_augment train_crop horizontal_flip seed
"""
PINNED_WHERE_PUBLISHED = "class_order distillation divergence_weight fixed_memory mixup_alpha encoder_attention"


def options_of(name: str) -> dict[str, Any]:
    """All options that decide the result of a recipe, by name."""
    return parse_arguments(["--config", str(RECIPES[name])]).recipe()


def differences(first: str, second: str) -> dict[str, Any]:
    """Options in which two recipes differ, with the value in the second."""
    before, after = options_of(first), options_of(second)
    return {option: after[option] for option in after if before[option] != after[option]}


def header_of(name: str) -> dict[str, str]:
    """The comment that opens a recipe: its `title`, and each field by its word."""
    comment = re.match(r"(?:#.*\n)+", RECIPES[name].read_text(encoding="utf-8"))
    assert comment is not None
    title, *lines = [line.removeprefix("#").strip() for line in comment[0].splitlines()]
    fields = {"title": title}
    for line in lines:
        if start := re.match(r"(Paper|Expected|Cost|Command): +", line):
            word, line = start[1], line[start.end() :]
            fields[word] = line
        else:
            fields[word] += " " + line
    return fields


def command_of(name: str) -> tuple[Any, list[str]]:
    """The command of a recipe: what `accelerate launch` makes of it, and the options that the script gets."""
    words = shlex.split(header_of(name)["Command"].replace("\\ ", ""))
    assert words[:2] == ["accelerate", "launch"]
    launch = launch_command_parser().parse_args(words[2:])
    assert launch.training_script == "training/incremental.py"
    return launch, launch.training_script_args


def num_steps_of(name: str) -> int:
    if name in JOINT:
        return 1
    return 5 if name == "digits" else int(name.split("steps")[0].split("_")[-1])


def num_classes_of(name: str) -> int:
    return options_of(name)["num_classes"] or {"cifar100": 100, "digits": 10}[name.split("_")[0]]


def pinned_in(name: str) -> set[str]:
    """Options that a recipe does not leave to their defaults."""
    if name in PRETRAINED:
        return set(PINNED_WHERE_PRETRAINED.split())
    if name in JOINT:
        return set(PINNED_WHERE_JOINT.split())
    return set(PINNED.split()) | (set() if name == "digits" else set(PINNED_WHERE_PUBLISHED.split()))


def test_there_are_all_recipes_and_no_other() -> None:
    assert sorted(RECIPES) == sorted([*CIFAR, *AS_PUBLISHED, *IMAGENET, *OTHERS])


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_says_what_it_is_and_its_command_runs_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text, header, options = RECIPES[name].read_text(encoding="utf-8"), header_of(name), options_of(name)
    assert set(header) == {"title", "Paper", "Expected", "Cost", "Command"} and all(header.values())
    assert ("arXiv" if name in PRETRAINED else "arXiv 2111.11326") in header["Paper"]
    assert all(len(line) <= 119 for line in text.splitlines())

    launch, command_line = command_of(name)
    assert command_line[:2] == ["--config", f"training/recipes/{name}.yaml"]
    arguments = parse_arguments(command_line)
    assert arguments.recipe() == options and arguments.output.output_dir == f"outputs/{name}"
    # None leaves the number of processes to the user's configuration of accelerate.
    assert launch.num_processes == (2 if name in AS_PUBLISHED else None)

    written = yaml.safe_load(text)
    written |= written.pop(options["method"], {})
    assert pinned_in(name) <= written.keys()
    for option in written.keys() & options.keys():
        expected = float(written[option]) if isinstance(options[option], float) else written[option]
        assert options[option] == expected, option

    if name == "photos":  # Its classes are those of the folder.
        return
    ranges = class_ranges(num_classes_of(name), options["initial_classes"], [options["classes_per_step"]])
    assert len(ranges) == num_steps_of(name)
    size = "all 100 classes in one step" if name in JOINT else f"in {len(ranges)} steps of {ranges[0][1]} classes"
    assert name == "digits" or size in header["title"]


@pytest.mark.parametrize("name", [*CIFAR, *AS_PUBLISHED, *IMAGENET])
def test_the_expected_numbers_are_the_corrected_ones(name: str) -> None:
    header = header_of(name)
    expected = re.search(
        r"published Avg ([\d.]+) / Last ([\d.]+)(?: \(top-5 ([\d.]+) / ([\d.]+)\))?", header["Expected"]
    )
    if name.endswith("plus_plus"):
        assert expected is None and "no corrected number" in header["Expected"]
    else:
        assert expected is not None
        assert " ".join(filter(None, expected.groups())) == PUBLISHED[name.removesuffix("_as_published")]
    assert name not in AS_PUBLISHED or "one global memory" in header["Expected"]


def test_the_recipes_of_a_family_differ_in_what_their_names_say_alone() -> None:
    for name in RECIPES:
        if "_dytox_plus" in name:
            sam = {"sam_rho": 3.0} if "plus_plus" in name else {}
            assert differences(name.replace("_plus", ""), name) == {"mixup_alpha": 0.8} | sam
            assert options_of(name)["mixup_label_smoothing"] == 0.1 and options_of(name)["sam_adaptive"] is True
        if name in [*CIFAR, *AS_PUBLISHED]:
            change = {"classes_per_step": 100 // num_steps_of(name)} if num_steps_of(name) != 10 else {}
            assert differences(re.sub(r"_\d+steps_", "_10steps_", name), name) == change
        if name in AS_PUBLISHED:
            assert differences(name.removesuffix("_as_published"), name) == ACCIDENTS


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_a_recipe_serves_the_other_methods_with_their_published_values(steps: int) -> None:
    recipe = RECIPES[f"cifar100_{steps}steps_dytox"]
    blocks = yaml.safe_load(recipe.read_text(encoding="utf-8")).keys() & METHODS.keys() - {"dytox"}
    assert blocks == {"icarl", "eeil", "ucir", "bic", "podnet", "wa", "der"}
    for method in blocks:
        options = parse_arguments(["--config", str(recipe), "--method", method]).options
        assert options == METHODS[method].Options(), "the defaults are the published values"


def test_what_a_recipe_changes_from_the_defaults_or_from_another_data_set() -> None:
    cifar, imagenet = "cifar100_10steps_dytox", "imagenet100_10steps_dytox"
    defaults = parse_arguments(["--dataset_name", "uoft-cs/cifar100"]).recipe()
    columns = {"image_column": "img", "label_column": "fine_label", "class_order": ["cifar100_order1"]}
    assert options_of(cifar) == defaults | columns
    data = {"dataset_name": "ILSVRC/imagenet-1k", "image_column": "image", "label_column": "label"}
    data |= {"test_split": "validation", "num_classes": 100, "class_order": ["imagenet100_order1"]}
    images = {"image_size": 224, "patch_size": 16, "train_crop": "resize", "mixed_precision": "bf16"}
    assert differences(cifar, imagenet) == data | images
    tenfold = {"num_classes": 1000, "classes_per_step": 100, "memory_size": 20000}
    for name in (imagenet, f"{imagenet}_plus"):
        larger = name.replace("imagenet100", "imagenet1000")
        assert differences(name, larger) == tenfold | {"class_order": ["imagenet1000_order1"]}


# Classes, the first five of them, and the last.
BUNDLED = {
    "cifar100_order1": (100, [87, 0, 52, 58, 44], 39),
    "cifar100_order2": (100, [58, 30, 93, 69, 21], 61),
    "cifar100_order3": (100, [71, 54, 45, 32, 4], 11),
    "imagenet100_order1": (100, [68, 56, 78, 8, 23], 33),
    "imagenet1000_order1": (1000, [54, 7, 894, 512, 126], 417),
}


def test_bundled_orders() -> None:
    assert BUNDLED.keys() == {path.stem for path in BUNDLED_ORDERS.iterdir()}
    for order, (num_classes, first, last) in BUNDLED.items():
        labels = resolve_class_order([order], [f"class {label}" for label in range(num_classes)], None)
        assert sorted(labels) == list(range(num_classes))
        assert (labels[:5], labels[-1]) == (first, last)
        assert (BUNDLED_ORDERS / f"{order}.txt").read_text(encoding="utf-8").startswith("# Order of learning of the ")
        assert order in DataArguments.__dataclass_fields__["class_order"].metadata["help"]


def test_imagenet100_takes_the_first_hundred_classes_of_imagenet() -> None:
    # Label ids of ImageNet-1k follow the sorted WordNet ids, and ImageNet-100 is made of the first hundred of them.
    names = [f"n{number:08}" for number in range(1000)]
    options = options_of("imagenet100_10steps_dytox")
    labels = resolve_class_order(options["class_order"], names, options["num_classes"])
    assert sorted(labels) == list(range(100))
    with pytest.raises(InputError, match="misses 900 of 1000 classes.*--num_classes N"):
        resolve_class_order(options["class_order"], names, None)
