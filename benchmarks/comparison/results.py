"""The file of a comparison: every number of every run, by variant and seed."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.comparison.runs import MeasuredRun
from hub.run.atomic import write_aside
from hub.run.errors import InputError
from hub.run.schema import Count, decode, read_json, short_name


@dataclass(frozen=True)
class VariantResults:
    """
    The runs of a variant.

    Args:
        options (`str`): its own, without local paths.
        seeds (`tuple[int, ...]`): those that were asked for; a run may be missing.
        runs (`dict[str, MeasuredRun]`): by seed.
    """

    options: str
    seeds: tuple[Count, ...]
    runs: dict[str, MeasuredRun] = field(default_factory=dict)

    @property
    def measured(self) -> list[MeasuredRun]:
        """The runs in the order of the seeds."""
        return [self.runs[str(seed)] for seed in self.seeds if str(seed) in self.runs]

    @property
    def num_seeds(self) -> str:
        """How many seeds a row is made of: `3`, or `2 of 3 seeds` where runs are missing."""
        found, asked = len(self.measured), len(self.seeds)
        return str(asked) if found == asked else f"{found} of {asked} seeds"


@dataclass(frozen=True)
class Comparison:
    """
    The content of the file.

    Args:
        options (`str`): those that all runs share, without local paths.
        variants (`dict[str, VariantResults]`): by name.
    """

    options: str
    variants: dict[str, VariantResults] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Comparison":
        """
        Reads the file.

        Raises:
            StepFolderError: it is missing or damaged.
        """
        return decode(cls, read_json(path), short_name(path))

    @classmethod
    def open(cls, path: Path, options: str) -> "Comparison":
        """
        Reads the file if there is one, to add runs to it.

        Raises:
            InputError: its runs have other options in common.
            StepFolderError: it is damaged.
        """
        before = cls.read(path) if path.exists() else cls(options)
        if before.options != options:
            raise InputError(
                f"--results {path} holds runs with the options {before.options!r}, not {options!r}: their rows cannot "
                "be compared; choose another file."
            )
        return before

    def write(self, path: Path) -> None:
        """
        Replaces the file as a whole.

        Raises:
            InputError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_aside(path, _compact(json.dumps(asdict(self), indent=1)) + "\n")
        except OSError as error:
            raise InputError(f"--results {path} cannot be written ({error.strerror}): choose another.") from error

    def with_variant(self, name: str, options: str, seeds: Sequence[int]) -> "Comparison":
        """With a variant whose runs have these seeds, among others; runs of the same name with other options go."""
        known = self.variants.get(name)
        if known is None or known.options != options:
            known = VariantResults(options, ())
        return self._with(name, replace(known, seeds=tuple(sorted({*known.seeds, *seeds}))))

    def with_run(self, name: str, seed: int, run: MeasuredRun | None) -> "Comparison":
        """With what a run measured; None where it failed: what it measured before goes."""
        known = self.variants[name]
        runs = {key: value for key, value in known.runs.items() if key != str(seed)}
        return self._with(name, replace(known, runs=runs if run is None else {**runs, str(seed): run}))

    def _with(self, name: str, variant: VariantResults) -> "Comparison":
        return replace(self, variants={**self.variants, name: variant})


def _compact(text: str) -> str:
    """JSON with each list of numbers on one line; line breaks within strings are escaped."""
    return re.sub(r"\[\n[^\[\]{}]*\n *\]", lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text)
