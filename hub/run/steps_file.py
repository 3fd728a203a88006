"""
`steps.json`: what each revision of a repository knows, on `main`, so that one request tells it of all.

    {"steps": [{"tag": "step1", "commit": "…", "classes": ["cat", "dog"], "accuracy": 0.97, …}, …]}

It goes up in the commit of a step, whose own entry has no commit, as no commit can name itself: its tag does. It is
derived: the tags are the authority, and what is missing or disagrees with them is read from `results.json` there.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hub.run.confusion import Confusion
from hub.run.layout import STEPS_FILE, step_name, step_number
from hub.run.results import RunResults
from hub.run.schema import Count, Difference, Fraction, decode


@dataclass(frozen=True, kw_only=True)
class StepEntry:
    """
    What a revision knows. Fractions are in 0..1, after its step; None where it was not measured or is not known.

    Args:
        tag (`str`): name of the revision, `step{t}`.
        commit (`str`, *optional*): its commit; None in the file that this commit itself holds.
        classes (`tuple[str, ...]`): the classes that the step added.
        num_seen_classes (`int`): number of classes known.
        num_test_images (`int`, *optional*): test images of the classes known.
        accuracy (`float`, *optional*): on these images ("Last").
        average_incremental_accuracy (`float`, *optional*): mean of the accuracies up to this step ("Avg").
        forgetting (`float`, *optional*): see `training.metrics`.
        memory_size (`int`, *optional*): exemplars in the rehearsal memory.
        memory_repository (`str`, *optional*): the data set that holds them at the tag of the same name, if they were
            published with the model.
        code_version (`str`, *optional*): version of this project that learned the step.
    """

    tag: str
    commit: str | None = None
    classes: tuple[str, ...]
    num_seen_classes: Count
    num_test_images: Count | None = None
    accuracy: Fraction | None = None
    average_incremental_accuracy: Fraction | None = None
    forgetting: Difference | None = None
    memory_size: Count | None = None
    memory_repository: str | None = None
    code_version: str | None = None

    @property
    def step(self) -> int:
        """Number of the step, from 1; 0 where the tag is not that of a step."""
        return step_number(self.tag) or 0

    @classmethod
    def of(
        cls, results: RunResults, confusion: Confusion | None = None, memory_repository: str | None = None
    ) -> "StepEntry":
        """The entry of the last step of `results`."""
        last = results.last
        return cls(
            tag=step_name(last.step),
            classes=last.classes,
            num_seen_classes=last.num_seen_classes,
            num_test_images=sum(confusion.counts.values()) if confusion else None,
            accuracy=last.accuracy,
            average_incremental_accuracy=results.average_incremental_accuracy,
            forgetting=results.forgetting if last.step > 1 else None,
            memory_size=last.memory_size,
            memory_repository=memory_repository,
            code_version=results.code_version,
        )


@dataclass(frozen=True)
class _File:
    steps: tuple[StepEntry, ...]


def encode_steps(entries: Sequence[StepEntry]) -> bytes:
    """The bytes of `steps.json`."""
    content = {"steps": [asdict(entry) for entry in entries]}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def decode_steps(raw: Any) -> tuple[StepEntry, ...]:
    """
    The entries of a parsed `steps.json`.

    Raises:
        StepFolderError: it breaks the schema.
    """
    return decode(_File, raw, STEPS_FILE).steps
