"""The scenario: class orders, and how the data set is cut into steps."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from hub.run.errors import InputError
from training.arguments import Arguments
from training.data.class_order import resolve_class_order
from training.data.examples import Examples
from training.data.scenario import LearnedClasses, Scenario, class_ranges, make_scenario
from training.data.splits import LabelledSplits


NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]
SHUFFLED = ["fox", "ant", "eel", "bee", "dog", "cat"]
# Three classes, two of which the data set of `NAMES` holds under other label ids, learned in two steps.
KNOWN = ("bee", "owl", "ant")

Cut = Callable[..., Scenario]


@pytest.fixture
def cut(
    make_arguments: Callable[..., Arguments],
    make_examples: Callable[..., Examples],
    marked_image: Callable[[int], PILImage.Image],
) -> Cut:
    """
    Cuts splits of these labels; the image of training row i has the number i, that of test row i 1000 + i. With a
    `policy` it cuts them into the steps after those of `KNOWN`.
    """

    def cut(train: Sequence[int], test: Sequence[int], policy: str | None = None, **options: Any) -> Scenario:
        splits = LabelledSplits(
            make_examples([marked_image(row) for row in range(len(train))], train),
            make_examples([marked_image(1000 + row) for row in range(len(test))], test),
            NAMES if policy else [f"class{label}" for label in range(max(*train, *test) + 1)],
        )
        if policy is None:
            return make_scenario(splits, make_arguments(**options).data)
        arguments = make_arguments(model_name_or_path="org/model", method="dytox", **options)
        return make_scenario(splits, arguments.data, LearnedClasses(KNOWN, 2, policy))  # type: ignore[arg-type]

    return cut


def order_of(order: Sequence[str] | None, num_classes: int | None = None) -> list[str]:
    return [NAMES[label] for label in resolve_class_order(order, NAMES, num_classes)]


def error_of(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("order", "num_classes", "expected"),
    [
        (None, None, NAMES),
        (None, 4, NAMES[:4]),
        (SHUFFLED, None, SHUFFLED),
        (["5", "0", "4", "1", "3", "2"], None, SHUFFLED),
        (["fox", "0", "eel", "1", "dog", "2"], None, SHUFFLED),
        # The first classes of an order need no complete order.
        (["fox", "ant", "eel"], 2, ["fox", "ant"]),
        (["fox", "ant"], 2, ["fox", "ant"]),
    ],
)
def test_an_order_of_names_or_label_ids(order: list[str] | None, num_classes: int | None, expected: list[str]) -> None:
    assert order_of(order, num_classes) == expected


def test_a_class_that_is_named_like_a_number_is_meant_by_its_name() -> None:
    assert resolve_class_order(["7", "9", "8"], ["9", "8", "7"], None) == [2, 0, 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("order.txt", "\ufeff# from the paper\n" + "\n\n".join(SHUFFLED) + "\n"),
        ("order", "\n".join(SHUFFLED)),
        ("order.json", json.dumps(SHUFFLED)),
        ("ids.json", "[5, 0, 4, 1, 3, 2]"),
        ("order.yaml", "\n".join(f"- {entry}" for entry in SHUFFLED)),
        ("order.yml", f"[{', '.join(SHUFFLED)}]"),
    ],
)
def test_an_order_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert order_of([str(tmp_path / name)]) == SHUFFLED


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


@pytest.mark.parametrize("seed", [0, 1, 1993, 2**32 - 1])
def test_a_random_order_is_numpys_legacy_permutation(seed: int) -> None:
    names = [str(label) for label in range(100)]
    np.random.seed(seed)
    expected = np.random.permutation(100).tolist()
    assert resolve_class_order([f"seed:{seed}"], names, None) == expected
    assert resolve_class_order([f"seed:{seed}"], names, 30) == expected[:30]


@pytest.mark.parametrize(
    ("order", "num_classes", "message"),
    [
        *(
            ([f"seed:{seed}"], None, f"--class_order seed:{seed} needs a whole number")
            for seed in ("", "x", "-1", "1.5", 2**32)
        ),
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


@pytest.mark.parametrize("initial_classes", [None, 1, 2, 5])
def test_class_ranges_cover_the_classes_and_the_last_step_may_be_smaller(initial_classes: int | None) -> None:
    for num_classes, classes_per_step in product(range(1, 13), range(1, 6)):
        if initial_classes is not None and initial_classes > num_classes:
            message = error_of(class_ranges, num_classes, initial_classes, [classes_per_step])
            assert f"--initial_classes {initial_classes} is more than the {num_classes} classes" in message
            continue
        ranges = class_ranges(num_classes, initial_classes, [classes_per_step])
        assert [label for class_range in ranges for label in range(*class_range)] == list(range(num_classes))
        first, *rest = [stop - start for start, stop in ranges]
        assert first == min(initial_classes or classes_per_step, num_classes)
        assert all(size == classes_per_step for size in rest[:-1]) and all(size <= classes_per_step for size in rest)


def test_steps_of_several_sizes(cut: Cut) -> None:
    labels = list(range(9))
    scenario = cut(labels, labels, classes_per_step=[5, 3, 1])
    assert [step.class_range for step in scenario.steps] == [(0, 5), (5, 8), (8, 9)]
    assert "3 steps of 5, 3 and 1 classes" in scenario.describe()
    message = error_of(cut, labels, labels, classes_per_step=[5, 3])
    assert "--classes_per_step 5 3 makes 8 classes of the 9 there are" in message
    message = error_of(cut, labels, labels, classes_per_step=[5, 4], initial_classes=5)
    assert "both say how many classes the first step has: leave --initial_classes out" in message


def test_steps_from_a_file(cut: Cut, tmp_path: Path) -> None:
    file = tmp_path / "steps.yaml"
    file.write_text("\ufeffspring: [class4, class0]\nautumn:\n- class2\n")
    labels = list(range(5))
    scenario = cut(labels, labels, steps=file, classes_per_step=None)
    assert [step.class_names for step in scenario.steps] == [["class4", "class0"], ["class2"]]
    file.write_text("[[class1, class2], [class3]]")
    assert [len(step.class_names) for step in cut(labels, labels, steps=file).steps] == [2, 1]
    for content, part in (("spring: rose", "is no list of steps"), ("[1", "cannot be read"), ("", "no list of steps")):
        file.write_text(content)
        assert part in error_of(cut, labels, labels, steps=file)
    file.write_text("[[class1]]")
    message = error_of(cut, labels, labels, steps=file, classes_per_step=2)
    assert "says what --classes_per_step does: leave one of the two out" in message


@pytest.mark.parametrize("seed", range(8))
def test_every_row_is_in_exactly_one_step_with_its_label_and_its_pixels(
    cut: Cut, number_of: Callable[[PILImage.Image], int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    num_steps, classes_per_step, initial = random.integers(1, 4, size=3)
    num_classes = int(initial + (num_steps - 1) * classes_per_step)
    extra = int(random.integers(0, 3))  # Classes that the run leaves out.
    all_labels = np.arange(num_classes + extra)
    train = random.permutation(np.concatenate([all_labels, random.choice(all_labels, 30)])).tolist()
    test = random.permutation(np.concatenate([all_labels, random.choice(all_labels, 9)])).tolist()
    order = random.permutation(all_labels).tolist()
    scenario = cut(
        train,
        test,
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
        assert Counter(scenario.seen_train(step).source_indices.tolist()) == Counter(rows)
        seen = scenario.seen_test(step)
        tested = {number_of(seen.image(position)) - 1000: label for position, label in enumerate(seen.labels)}
        labels = {row: order.index(label) for row, label in enumerate(test)}
        assert tested == {row: label for row, label in labels.items() if label < step.num_seen_classes}
    assert Counter(rows) == Counter(row for row, label in enumerate(train) if label in order[:num_classes])
    assert scenario.class_names == [f"class{label}" for label in order[:num_classes]]
    assert len(scenario.steps) == num_steps


def test_the_first_images_of_each_class_are_kept(cut: Cut, number_of: Callable[[PILImage.Image], int]) -> None:
    options = {"classes_per_step": 3, "max_train_samples_per_class": 2, "max_eval_samples_per_class": 1}
    scenario = cut([0, 1, 0, 0, 1, 2, 0], [2, 1, 0, 0, 0], **options)
    assert scenario.train.source_indices.tolist() == [0, 1, 2, 4, 5]
    assert [number_of(scenario.train.image(position)) for position in range(5)] == [0, 1, 2, 4, 5]
    assert scenario.test.source_indices.tolist() == [0, 1, 2]


def test_a_class_without_training_images_is_refused_unless_the_run_leaves_it_out(cut: Cut) -> None:
    assert "Class 'class2' has no training image" in error_of(cut, [0, 1], [0, 1, 2], classes_per_step=1)
    assert len(cut([0, 1], [0, 1, 2], classes_per_step=1, num_classes=2).steps) == 2


def test_a_class_without_test_images_is_learned_but_for_the_whole_first_step(cut: Cut) -> None:
    scenario = cut([0, 1, 2], [0, 1], classes_per_step=1)
    assert len(scenario.steps) == 3 and len(scenario.seen_test(scenario.steps[2])) == 2
    assert "Not measured, as they have no test image: 1 class(es), class2" in scenario.describe()
    message = error_of(cut, [0, 1, 2], [1, 2], classes_per_step=1)
    assert "No class of the first step, class0 first, has a test image" in message


@pytest.mark.parametrize("policy", ["test", "merge"])
def test_images_of_known_classes_keep_the_label_ids_that_the_model_gives_them(cut: Cut, policy: str) -> None:
    scenario = cut([0, 1, 2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 4, 5], policy, classes_per_step=2)
    assert scenario.class_names == [*KNOWN, "cat", "dog", "eel", "fox"]
    assert [(step.number, step.class_range) for step in scenario.steps] == [(3, (3, 5)), (4, (5, 7))]
    assert scenario.num_steps == 4
    first, second = (dict(zip(step.train.source_indices, step.train.labels, strict=True)) for step in scenario.steps)
    merged = {0: 2, 1: 0, 6: 2, 7: 0} if policy == "merge" else {}
    assert first == {2: 3, 3: 4} | merged, "known classes come with the first step, once"
    assert second == {4: 5, 5: 6}
    seen = scenario.seen_test(scenario.steps[0])
    assert dict(zip(seen.source_indices, seen.labels, strict=True)) == {0: 2, 1: 0, 2: 3, 3: 4}


def test_known_classes_are_refused_unless_the_run_says_what_to_do_with_them(cut: Cut) -> None:
    everything = [0, 1, 2, 3, 4, 5]
    message = error_of(cut, everything, everything, "refuse")
    assert "knows 'ant' already (2 of the 6 classes" in message and "--known_classes" in message
    only_new = cut(everything, everything, "refuse", class_order=["fox", "cat", "0", "1", "3", "4"], num_classes=2)
    assert only_new.class_names == [*KNOWN, "fox", "cat"]
    assert set(only_new.test.labels) == {3, 4}, "what was not asked for is not taken for a known class"
    for policy in ("test", "merge"):
        nothing_new = {"class_order": ["bee", "ant", "cat", "dog", "eel", "fox"], "num_classes": 2}
        assert "knows all 2 classes already" in error_of(cut, everything, everything, policy, **nothing_new)


def test_new_classes_make_one_step_unless_they_are_to_be_cut(cut: Cut) -> None:
    train, test = [2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 4, 5]
    assert [step.class_range for step in cut(train, test, "test").steps] == [(3, 7)]
    uneven = cut(train, test, "test", initial_classes=1)
    assert [step.class_range for step in uneven.steps] == [(3, 4), (4, 7)]
    assert [step.class_names for step in uneven.steps] == [["cat"], ["dog", "eel", "fox"]]
