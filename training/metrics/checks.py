"""Checks of what metrics are given: every error names the value, what was expected and what to do."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np


def check_accuracies(accuracies: Sequence[float | None], name: str = "accuracies") -> list[float]:
    """Accuracies as floats, with nan for None; refuses what is no list of fractions in 0..1, or is empty."""
    _check_list(accuracies, name)
    for position, accuracy in enumerate(accuracies):
        # nan fails this comparison as well.
        if accuracy is not None and not (isinstance(accuracy, Real) and 0 <= accuracy <= 1):
            raise ValueError(
                f"{name}[{position}] is {accuracy}, expected a fraction in 0..1: give fractions, not percentages, and "
                "None for what was not measured."
            )
    return [float("nan") if accuracy is None else float(accuracy) for accuracy in accuracies]


def check_matrix_rows(rows: Sequence[Sequence[float | None]], name: str = "accuracy_matrix") -> list[list[float]]:
    """Rows of an accuracy matrix as floats, with nan for None; refuses rows of anything but fractions in 0..1."""
    _check_list(rows, name)
    return [check_accuracies(row, f"{name}[{position}]") for position, row in enumerate(rows)]


def check_accuracy_matrix(matrix: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """The accuracy matrix as floats, with nan for None; refuses what is empty or not lower triangular."""
    rows = check_matrix_rows(matrix)
    for step, row in enumerate(rows, start=1):
        if len(row) != step:
            raise ValueError(
                f"accuracy_matrix[{step - 1}] holds {len(row)} value(s), expected {step}: after step {step} give one "
                "accuracy for the classes of each step so far, and none for later ones."
            )
    return rows


def check_class_ranges(
    class_ranges: Sequence[Sequence[int]] | None, num_classes: int | None = None
) -> list[tuple[int, int]]:
    """The class ranges as pairs; refuses what does not cover the label ids from 0, up to `num_classes` if given."""
    pairs, ends = [] if class_ranges is None else list(class_ranges), [0]
    for pair in pairs:
        if len(pair) == 2 and pair[0] == ends[-1] < pair[1]:
            ends.append(int(pair[1]))
    if not pairs or len(ends) <= len(pairs) or num_classes not in (None, ends[-1]):
        last = "" if num_classes is None else f" to {num_classes}"
        raise ValueError(
            f"class_ranges is {pairs or class_ranges}, expected the [start, stop) label ids of each step from 0{last} "
            "without a gap: give e.g. [[0, 2], [2, 4]], as config.class_ranges of the model has them."
        )
    return list(pairwise(ends))


def check_scored_labels(logits: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(n, C)` and label ids `(n,)` as arrays; refuses label ids without a logit and different lengths."""
    scores = check_logits(logits, "logits")
    label_ids = check_whole_numbers(labels, "labels", stop=scores.shape[1] or None)
    check_same_length(logits=scores, labels=label_ids)
    return scores, label_ids


def check_logits(values: Any, name: str) -> np.ndarray:
    """The values as an array `(n, C)`; refuses rows of different lengths and what is not finite."""
    return _check_numbers(values, name, 2, np.isfinite, "a finite score: leave out models whose training diverged")


def check_fractions(values: Any, name: str) -> np.ndarray:
    """The values as float64 `(n,)`; refuses what is no fraction in 0..1."""
    expected = "a fraction in 0..1: give the sigmoid or softmax score of the predicted class, not its logit"
    return _check_numbers(values, name, 1, lambda n: (n >= 0) & (n <= 1), expected).astype(np.float64)


def check_whole_numbers(
    values: Any, name: str, stop: int | None = None, advice: str = "number classes from 0 as they are learned"
) -> np.ndarray:
    """The values as int64 `(n,)`; refuses what is not whole, below 0, or not below `stop`."""
    expected = f"a whole number {'0 or more' if stop is None else f'in 0..{stop - 1}'}: {advice}"
    end = np.inf if stop is None else stop
    numbers = _check_numbers(values, name, 1, lambda n: (n >= 0) & (n < end) & (n == np.floor(n)), expected)
    return numbers.astype(np.int64)


def check_same_length(**columns: Any) -> None:
    """Refuses columns without a value, or with different numbers of values."""
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1 or 0 in lengths:
        listed = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise ValueError(f"There are {listed}, expected as many of each, at least one: give one of each an image.")


def _check_list(values: Any, name: str) -> None:
    if not hasattr(values, "__len__") or len(values) == 0:
        raise ValueError(f"{name} is {values}, expected one value a step: give a list with at least that of step 1.")


def _check_numbers(
    values: Any, name: str, dimensions: int, allowed: Callable[[np.ndarray], np.ndarray], expected: str
) -> np.ndarray:
    shape = "one number each" if dimensions == 1 else "for each image one score a class"
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} has rows of different lengths, expected {shape}: evaluate one model.") from error
    if array.size == 0:
        return np.empty((0,) * dimensions)
    if array.ndim != dimensions or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        got = f"shape {array.shape} and type {array.dtype}"
        raise ValueError(f"{name} has {got}, expected {shape}: give numbers in {dimensions} dimension(s).")
    wrong = np.argwhere(~allowed(array))
    if len(wrong):
        place = "".join(f"[{index}]" for index in wrong[0])
        raise ValueError(f"{name}{place} is {array[tuple(wrong[0])]}, expected {expected}.")
    return array
