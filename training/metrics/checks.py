"""Checks of what metrics are given: every error names the value, what was expected and what to do."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np


def check_accuracies(accuracies: Sequence[float | None], name: str = "accuracies") -> list[float]:
    """
    The accuracies as floats.

    Raises:
        ValueError: there is none, or one is no fraction in 0..1.
    """
    if len(accuracies) == 0:
        raise ValueError(f"{name} is empty, expected one accuracy a step: give at least that of step 1.")
    return [_check_accuracy(accuracy, f"{name}[{position}]") for position, accuracy in enumerate(accuracies)]


def _check_accuracy(accuracy: float | None, name: str) -> float:
    # nan fails this comparison as well.
    if not isinstance(accuracy, Real) or not 0 <= accuracy <= 1:
        raise ValueError(f"{name} is {accuracy}, expected a fraction in 0..1: give fractions, not percentages.")
    return float(accuracy)


def check_accuracy_matrix(matrix: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """
    The accuracy matrix as lists of floats, all of them measured.

    Raises:
        ValueError: it has no row, row i does not hold i + 1 values, or a value is no fraction in 0..1.
    """
    _check_triangular(matrix)
    return [check_accuracies(row, f"accuracy_matrix[{position}]") for position, row in enumerate(matrix)]


def check_partial_matrix(matrix: Sequence[Sequence[float | None]]) -> list[list[float | None]]:
    """
    The accuracy matrix as lists of floats, with None where an earlier step was not measured again.

    Raises:
        ValueError: as for [`check_accuracy_matrix`]; the accuracy right after a step is always needed.
    """
    _check_triangular(matrix)
    return [
        [
            None if value is None and of < after else _check_accuracy(value, f"accuracy_matrix[{after}][{of}]")
            for of, value in enumerate(row)
        ]
        for after, row in enumerate(matrix)
    ]


def _check_triangular(matrix: Sequence[Sequence[float | None]]) -> None:
    if len(matrix) == 0:
        raise ValueError("accuracy_matrix is empty, expected one row a step: give at least that of step 1.")
    for position, row in enumerate(matrix):
        if len(row) != position + 1:
            raise ValueError(
                f"accuracy_matrix[{position}] holds {len(row)} value(s), expected {position + 1}: after step "
                f"{position + 1} give one accuracy for the classes of each step so far, and none for later ones."
            )


def check_class_ranges(class_ranges: Sequence[Sequence[int]] | None) -> list[tuple[int, int]]:
    """
    The class ranges as pairs.

    Raises:
        ValueError: there is none, or they are not `[start, stop)` ranges that follow one another from 0.
    """
    if class_ranges is None or len(class_ranges) == 0:
        raise ValueError(
            f"class_ranges is {class_ranges}, expected the [start, stop) label ids of each step: give e.g. "
            "[[0, 2], [2, 4]], as config.class_ranges of a model has them."
        )
    expected_start = 0
    for position, class_range in enumerate(class_ranges):
        if len(class_range) != 2 or class_range[0] != expected_start or not class_range[1] > expected_start:
            raise ValueError(
                f"class_ranges[{position}] is {list(class_range)}, expected [{expected_start}, stop] with a larger "
                "stop: give ranges that follow one another from 0 without a gap."
            )
        expected_start = class_range[1]
    return [(int(start), int(stop)) for start, stop in class_ranges]


def check_whole_numbers(values: Any, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """
    The values as int64 of shape `(n,)`.

    Args:
        values: whole numbers: a list, an array or a tensor.
        name (`str`): of the values, for errors.
        start, stop (`int`): half-open range of what is allowed; no `stop` for no upper bound.

    Raises:
        ValueError: they are missing, not in one dimension, not whole, or outside the range.
    """
    array = _check_dimensions(values, name, 1, "one whole number an image")
    numbers = array.astype(np.float64)
    wrong = ~((numbers >= start) & (numbers == np.floor(numbers)) & (numbers < (np.inf if stop is None else stop)))
    if wrong.any():
        position = int(wrong.argmax())
        bounds = f"{start} or more" if stop is None else f"in {start}..{stop - 1}"
        raise ValueError(
            f"{name}[{position}] is {array[position]}, expected a whole number {bounds}: number the classes from 0 in "
            "the order of learning and the steps from 1."
        )
    return array.astype(np.int64)


def check_fractions(values: Any, name: str) -> np.ndarray:
    """
    The values as float64 of shape `(n,)`.

    Raises:
        ValueError: they are missing, not in one dimension, or one is no fraction in 0..1.
    """
    array = _check_dimensions(values, name, 1, "one fraction an image").astype(np.float64)
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        position = int(wrong.argmax())
        raise ValueError(
            f"{name}[{position}] is {array[position]}, expected a fraction in 0..1: give the sigmoid or softmax score "
            "of the predicted class, not its logit."
        )
    return array


def check_logits(values: Any, name: str) -> np.ndarray:
    """
    The values as floats of shape `(n, C)`.

    Raises:
        ValueError: they are missing, not in two dimensions, or one is not finite.
    """
    array = _check_dimensions(values, name, 2, "for each image one score a class")
    array = array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)
    wrong = ~np.isfinite(array)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name}[{row}][{column}] is {array[row, column]}, expected a finite score: leave out runs whose loss was "
            "not finite."
        )
    return array


def check_same_length(**columns: Any) -> None:
    """
    Checks that there is one value an image everywhere.

    Raises:
        ValueError: the lengths differ, or there is no image.
    """
    lengths: Mapping[str, int] = {name: len(column) for name, column in columns.items()}
    listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
    if len(set(lengths.values())) > 1:
        raise ValueError(f"There are {listed}, expected as many of each: give one of each an image.")
    if 0 in lengths.values():
        raise ValueError(f"There are {listed}, expected at least one image: give some.")


def _check_dimensions(values: Any, name: str, dimensions: int, expected: str) -> np.ndarray:
    if values is None:
        raise ValueError(f"{name} is missing, expected {expected}: give it.")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name} holds rows of different lengths, expected {expected}: evaluate one model."
        ) from error
    if array.size == 0:
        return array.reshape((0,) * dimensions)
    if array.ndim != dimensions or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise ValueError(
            f"{name} has shape {array.shape} and type {array.dtype}, expected {expected}: give numbers in "
            f"{dimensions} dimension(s)."
        )
    return array
