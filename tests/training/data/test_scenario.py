"""The scenario: class orders, and how the data set is cut into steps."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from hub.run.errors import InputError
from training.arguments import Arguments
from training.data.examples import Examples
from training.data.scenario import (
    BUNDLED_ORDERS,
    LearnedClasses,
    Scenario,
    class_ranges,
    make_scenario,
    resolve_class_order,
)
from training.data.splits import LabelledSplits


NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]
MakeScenario = Callable[..., Scenario]


@pytest.fixture
def make_splits(
    make_examples: Callable[..., Examples], marked_image: Callable[[int], PILImage.Image]
) -> Callable[..., LabelledSplits]:
    """Makes splits of these labels; the image of training row i has the number i, that of test row i 1000 + i."""

    def make(
        train: Sequence[int], test: Sequence[int] | None = None, names: Sequence[str] | None = None
    ) -> LabelledSplits:
        names = names or [f"class{label}" for label in range(max(train) + 1)]
        test = list(range(len(names))) if test is None else test
        return LabelledSplits(
            make_examples([marked_image(row) for row in range(len(train))], train),
            make_examples([marked_image(1000 + row) for row in range(len(test))], test),
            list(names),
        )

    return make


@pytest.fixture
def scenario_of(make_arguments: Callable[..., Arguments]) -> Callable[..., Scenario]:
    """Cuts splits by these options."""
    return lambda splits, **options: make_scenario(splits, make_arguments(**options).data)


def order_of(order: Sequence[str] | None, num_classes: int | None = None) -> list[str]:
    return [NAMES[label] for label in resolve_class_order(order, NAMES, num_classes)]


def error_of(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_by_default_the_order_is_that_of_the_data_set() -> None:
    assert order_of(None) == NAMES
    assert order_of(None, 4) == NAMES[:4]


def test_an_order_of_names_of_label_ids_and_of_both() -> None:
    expected = ["fox", "ant", "eel", "bee", "dog", "cat"]
    assert order_of(expected) == expected
    assert order_of([str(NAMES.index(name)) for name in expected]) == expected
    assert order_of(["fox", "0", "eel", "1", "dog", "2"]) == expected


def test_a_class_that_is_named_like_a_number_is_meant_by_its_name() -> None:
    assert resolve_class_order(["7", "9", "8"], ["9", "8", "7"], None) == [2, 0, 1]


@pytest.mark.parametrize("name", ["order.txt", "order.json", "order.yaml", "order.yml", "order"])
def test_an_order_from_a_file(tmp_path: Path, name: str) -> None:
    expected = ["fox", "ant", "eel", "bee", "dog", "cat"]
    texts = {
        ".json": json.dumps(expected),
        ".yaml": "\n".join(f"- {entry}" for entry in expected),
        ".yml": f"[{', '.join(expected)}]",
    }
    path = tmp_path / name
    path.write_text(texts.get(path.suffix, "# from the paper\n" + "\n\n".join(expected) + "\n"))
    assert order_of([str(path)]) == expected


def test_label_ids_in_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text("[5, 4, 3, 2, 1, 0]")
    assert order_of([str(path)]) == NAMES[::-1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("order.json", b"[1, 2"),
        ("order.yaml", b"[1, 2"),
        ("order.json", b'{"a": 1}'),
        ("order.yaml", b"a: 1"),
        ("order.txt", b"\xff\xfe\x00"),
    ],
)
def test_a_file_that_holds_no_order_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in error_of(order_of, [str(tmp_path / name)])


@pytest.mark.parametrize("name", sorted(file.stem for file in BUNDLED_ORDERS.glob("cifar100_*.txt")))
def test_the_bundled_orders_are_permutations_of_cifar100(name: str) -> None:
    names = [f"class{label}" for label in range(100)]
    order = resolve_class_order([name], names, None)
    assert sorted(order) == list(range(100))
    assert order != sorted(order)
    # By name, the data set may number its classes in any way.
    written = [
        line for line in (BUNDLED_ORDERS / f"{name}.txt").read_text().split("\n") if line and not line.startswith("#")
    ]
    assert list(map(int, written)) == order


@pytest.mark.parametrize("seed", [0, 1, 1993, 2**32 - 1])
def test_a_random_order_is_numpys_legacy_permutation(seed: int) -> None:
    names = [str(label) for label in range(100)]
    np.random.seed(seed)
    expected = np.random.permutation(100).tolist()
    assert resolve_class_order([f"seed:{seed}"], names, None) == expected
    assert resolve_class_order([f"seed:{seed}"], names, 30) == expected[:30]


@pytest.mark.parametrize("entry", ["seed:", "seed:x", "seed:-1", "seed:1.5", f"seed:{2**32}"])
def test_a_random_order_needs_a_seed(entry: str) -> None:
    assert f"--class_order {entry} needs a whole number" in error_of(order_of, [entry])


@pytest.mark.parametrize(
    ("order", "num_classes", "message"),
    [
        (["ant", "bee", "ant", "cat", "dog", "eel", "fox"], None, "'ant' more than once"),
        # By name and by label id.
        (["ant", "0", "bee", "cat", "dog", "eel", "fox"], None, "'ant' more than once"),
        (["ant", "bee", "cow", "cat", "dog", "eel"], None, "'cow', which is neither"),
        (["0", "1", "2", "3", "4", "6"], None, "'6', which is neither"),
        (["0", "1", "2", "3", "4", "-1"], None, "'-1', which is neither"),
        (["ant", "bee"], None, "misses 4 of 6 classes, 'cat' first"),
        (["ant", "bee"], 3, "misses 4 of 6 classes, 'cat' first"),
        (None, 7, "--num_classes 7 is more than the 6 classes"),
        (["no_such_file.txt"], None, "--class_order no_such_file.txt is no file"),
    ],
)
def test_an_order_that_is_wrong_is_explained(order: list[str] | None, num_classes: int | None, message: str) -> None:
    assert message in error_of(order_of, order, num_classes)


def test_the_first_classes_of_an_order_need_no_complete_order() -> None:
    assert order_of(["fox", "ant", "eel"], 2) == ["fox", "ant"]
    assert order_of(["fox", "ant"], 2) == ["fox", "ant"]


@pytest.mark.parametrize("num_classes", range(1, 13))
@pytest.mark.parametrize("classes_per_step", range(1, 6))
@pytest.mark.parametrize("initial_classes", [None, 1, 2, 5])
def test_class_ranges_cover_the_classes_or_are_refused(
    num_classes: int, classes_per_step: int, initial_classes: int | None
) -> None:
    first = initial_classes or classes_per_step
    if first <= num_classes and (num_classes - first) % classes_per_step == 0:
        ranges = class_ranges(num_classes, initial_classes, classes_per_step)
        assert [stop - start for start, stop in ranges] == [first] + [classes_per_step] * (len(ranges) - 1)
        assert [label for class_range in ranges for label in range(*class_range)] == list(range(num_classes))
    else:
        message = error_of(class_ranges, num_classes, initial_classes, classes_per_step)
        assert f"{num_classes} classes cannot be cut into a first step of {first}" in message


@pytest.mark.parametrize("seed", range(12))
def test_every_training_row_is_in_exactly_one_step_with_its_label_and_its_pixels(
    make_splits: Callable[..., LabelledSplits],
    scenario_of: MakeScenario,
    number_of: Callable[[PILImage.Image], int],
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    num_steps, classes_per_step, initial = random.integers(1, 4, size=3)
    num_classes = int(initial + (num_steps - 1) * classes_per_step)
    extra = int(random.integers(0, 3))  # Classes that the run leaves out.
    all_labels = np.arange(num_classes + extra)
    train = random.permutation(np.concatenate([all_labels, random.choice(all_labels, 30)])).tolist()
    test = random.permutation(np.concatenate([all_labels, random.choice(all_labels, 9)])).tolist()
    order = random.permutation(all_labels).tolist()
    splits = make_splits(train, test)
    scenario = scenario_of(
        splits,
        class_order=[*map(str, order)] if len(order) > 1 else ["seed:0"],
        num_classes=num_classes,
        initial_classes=initial,
        classes_per_step=classes_per_step,
    )
    rows: list[int] = []
    for number, step in enumerate(scenario.steps, start=1):
        assert step.number == number
        assert (step.num_old_classes, step.num_seen_classes) == step.class_range
        for position, row in enumerate(step.train.source_indices.tolist()):
            # Which class a row is of follows from the labels written above, through the order of learning.
            assert step.train.labels[position] == order.index(train[row])
            assert number_of(step.train.image(position)) == row
        assert step.train.source_indices.tolist() == sorted(step.train.source_indices)
        assert set(step.train.labels.tolist()) == set(range(*step.class_range))
        rows += step.train.source_indices.tolist()
        seen = {row for row, label in enumerate(test) if order.index(label) < step.num_seen_classes}
        assert {number_of(scenario.seen_test(step).image(i)) - 1000 for i in range(len(seen))} == seen
        assert len(scenario.seen_test(step)) == len(seen)
        assert Counter(scenario.seen_train(step).source_indices.tolist()) == Counter(rows)
    assert Counter(rows) == Counter(row for row, label in enumerate(train) if label in order[:num_classes])
    assert scenario.class_names == [f"class{label}" for label in order[:num_classes]]
    assert len(scenario.steps) == num_steps


def test_label_ids_of_the_test_images_follow_the_order_of_learning(
    make_splits: Callable[..., LabelledSplits], scenario_of: MakeScenario
) -> None:
    splits = make_splits([0, 1, 2], [2, 2, 0, 1])
    scenario = scenario_of(splits, class_order=["class2", "class0", "class1"], classes_per_step=1)
    assert scenario.test.labels.tolist() == [0, 0, 1, 2]


def test_the_first_images_of_each_class_are_kept(
    make_splits: Callable[..., LabelledSplits],
    scenario_of: MakeScenario,
    number_of: Callable[[PILImage.Image], int],
) -> None:
    splits = make_splits([0, 1, 0, 0, 1, 2, 0], [2, 1, 0, 0, 0])
    options = {"classes_per_step": 3, "max_train_samples_per_class": 2, "max_eval_samples_per_class": 1}
    scenario = scenario_of(splits, **options)
    assert scenario.train.source_indices.tolist() == [0, 1, 2, 4, 5]
    assert [number_of(scenario.train.image(position)) for position in range(5)] == [0, 1, 2, 4, 5]
    assert scenario.test.source_indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("train", "test", "kind"), [([0, 1], [0, 1, 2], "training"), ([0, 1, 2], [0, 1], "test")])
def test_a_class_without_images_is_refused_unless_the_run_leaves_it_out(
    make_splits: Callable[..., LabelledSplits], scenario_of: MakeScenario, train: list[int], test: list[int], kind: str
) -> None:
    splits = make_splits(train, test, ["ant", "bee", "cat"])
    assert f"Class 'cat' has no {kind} image" in error_of(scenario_of, splits, classes_per_step=1)
    assert len(scenario_of(splits, classes_per_step=1, num_classes=2).steps) == 2


KNOWN = ("bee", "owl", "ant")


def known(policy: str) -> LearnedClasses:
    """Three classes, two of which the data set of `NAMES` holds under other label ids, learned in two steps."""
    return LearnedClasses(KNOWN, 2, policy)  # type: ignore[arg-type]


@pytest.fixture
def continue_with(make_arguments: Callable[..., Arguments]) -> Callable[..., Scenario]:
    """Cuts splits into the steps after those of `KNOWN`."""

    def make(splits: LabelledSplits, policy: str, **options: Any) -> Scenario:
        arguments = make_arguments(model_name_or_path="org/model", **options)
        return make_scenario(splits, arguments.data, known(policy))

    return make


@pytest.mark.parametrize("policy", ["test", "merge"])
def test_images_of_known_classes_keep_the_label_ids_that_the_model_gives_them(
    make_splits: Callable[..., LabelledSplits], continue_with: MakeScenario, policy: str
) -> None:
    # ant bee cat dog eel fox ant bee, and the same in the test split.
    splits = make_splits([0, 1, 2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 4, 5], NAMES)
    scenario = continue_with(splits, policy, classes_per_step=2)
    assert scenario.class_names == [*KNOWN, "cat", "dog", "eel", "fox"]
    assert [(step.number, step.class_range) for step in scenario.steps] == [(3, (3, 5)), (4, (5, 7))]
    assert scenario.num_steps == 4
    first, second = (dict(zip(step.train.source_indices, step.train.labels, strict=True)) for step in scenario.steps)
    merged = {0: 2, 1: 0, 6: 2, 7: 0} if policy == "merge" else {}
    assert first == {2: 3, 3: 4} | merged, "known classes come with the first step, once"
    assert second == {4: 5, 5: 6}
    seen = scenario.seen_test(scenario.steps[0])
    assert dict(zip(seen.source_indices, seen.labels, strict=True)) == {0: 2, 1: 0, 2: 3, 3: 4}


def test_known_classes_are_refused_unless_the_run_says_what_to_do_with_them(
    make_splits: Callable[..., LabelledSplits], continue_with: MakeScenario
) -> None:
    splits = make_splits([0, 1, 2, 3, 4, 5], names=NAMES)
    message = error_of(continue_with, splits, "refuse")
    assert "knows 'ant' already (2 such class(es) of the 6" in message and "--known_classes" in message
    only_new = continue_with(splits, "refuse", class_order=["fox", "cat", "0", "1", "3", "4"], num_classes=2)
    assert only_new.class_names == [*KNOWN, "fox", "cat"]
    assert set(only_new.test.labels) == {3, 4}, "what was not asked for is not taken for a known class"
    for policy in ("test", "merge"):
        nothing_new = {"class_order": ["bee", "ant", "cat", "dog", "eel", "fox"], "num_classes": 2}
        assert "knows all 2 classes already" in error_of(continue_with, splits, policy, **nothing_new)


def test_new_classes_make_one_step_unless_they_are_to_be_cut(
    make_splits: Callable[..., LabelledSplits], continue_with: MakeScenario
) -> None:
    splits = make_splits([2, 3, 4, 5, 0, 1], names=NAMES)
    assert [step.class_range for step in continue_with(splits, "test").steps] == [(3, 7)]
    uneven = continue_with(splits, "test", initial_classes=1)
    assert [step.class_range for step in uneven.steps] == [(3, 4), (4, 7)]
    assert [step.class_names for step in uneven.steps] == [["cat"], ["dog", "eel", "fox"]]
