"""
What the metrics have in common as modules of `evaluate`: they need no network, and keep nothing on disk.

`evaluate.load` fetches a script; these classes are imported and instantiated instead.
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import evaluate
import numpy as np
from datasets import Features, List, Value

from training.metrics.checks import check_fractions, check_logits, check_same_length, check_whole_numbers


class Column(NamedTuple):
    """
    One input of a metric.

    Args:
        feature: its type in `datasets`, for one image.
        check: takes the values of several images and the name of the column; gives an array or raises `ValueError`.
    """

    feature: Any
    check: Callable[[Any, str], np.ndarray]


WHOLE_NUMBERS = Column(Value("int64"), check_whole_numbers)
FRACTIONS = Column(Value("float64"), check_fractions)
LOGITS = Column(List(Value("float64")), check_logits)


class InMemoryMetric(evaluate.Metric):
    """
    A metric whose inputs are checked when they are added and kept in memory until they are computed.

    Subclasses name their columns, and compute in `_compute` with a function of `training.metrics`.

    Args:
        config_name (`str`, *optional*): a variant of the metric, where it has several.
        keep_in_memory (`bool`): false lets `evaluate` keep inputs in its cache on disk, which it needs to compute over
            several processes.
        **options: of `evaluate.Metric`.
    """

    citation: ClassVar[str] = ""

    def __init__(self, config_name: str | None = None, keep_in_memory: bool = True, **options: Any) -> None:
        super().__init__(config_name, keep_in_memory=keep_in_memory, **options)

    def columns(self) -> dict[str, Column]:
        """The inputs by name."""
        raise NotImplementedError

    def add_batch(self, *, predictions: Any = None, references: Any = None, **columns: Any) -> None:
        """
        Adds several images.

        Raises:
            ValueError: a column is missing or unknown, a value cannot be used, or lengths differ.
        """
        given = {"predictions": predictions, "references": references, **columns}
        checked = {name: column.check(given.pop(name, None), name) for name, column in self.columns().items()}
        if given:
            raise ValueError(f"{next(iter(given))} is unknown, expected {', '.join(self.columns())}: leave it out.")
        check_same_length(**checked)
        super().add_batch(**checked)

    def add(self, *, prediction: Any = None, reference: Any = None, **columns: Any) -> None:
        """
        Adds one image; its other columns have the names that they have for several images.

        Raises:
            ValueError: a column is missing or unknown, or a value cannot be used.
        """
        of_one = {name: [value] for name, value in columns.items()}
        self.add_batch(predictions=[prediction], references=[reference], **of_one)

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any] | None:
        """
        Computes the metric of the images given here, or of those added before.

        Raises:
            ValueError: there is no image, or a value cannot be used.
        """
        given = {"predictions": predictions, "references": references, **options}
        names = self.columns()
        if self.writer is None and all(given.get(name) is None for name in names):
            raise ValueError(f"{self.name} has no images, expected {', '.join(names)}: give them.")
        return super().compute(**dict.fromkeys(names) | given)

    def _info(self) -> evaluate.MetricInfo:
        text = inspect.getdoc(type(self)) or ""
        features = Features({name: column.feature for name, column in self.columns().items()})
        return evaluate.MetricInfo(
            description=text.partition("\n\n")[0],
            citation=self.citation,
            inputs_description=f"\n\n{text}",
            features=features,
        )

    def _build_data_dir(self) -> str:
        # `evaluate` makes its folder in the user's cache even where it keeps everything in memory.
        return "" if self.keep_in_memory else super()._build_data_dir()
