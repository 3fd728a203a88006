"""The table of a comparison: one variant a row."""

from collections.abc import Callable, Iterable, Sequence

from benchmarks.comparison.results import Comparison, VariantResults
from benchmarks.comparison.runs import MeasuredRun
from hub.run.seed_results import Spread


Column = tuple[str, Callable[[MeasuredRun], float | None]]
_ABSENT = "–"
_PERCENTS: tuple[Column, ...] = (
    ("Avg", lambda run: run.average_incremental_accuracy),
    ("Last", lambda run: run.last_accuracy),
    ("forgetting", lambda run: run.forgetting),
    ("task-aware Last", lambda run: run.task_aware_accuracy),
)

# Of models that could predict by another rule than the one they do; left out where no run has it.
_OTHER_READOUTS: tuple[Column, ...] = (
    ("head Last", lambda run: run.head_accuracy),
    ("nearest-mean Last", lambda run: run.nearest_mean_accuracy),
)


def comparison_table(comparison: Comparison) -> str:
    """The variants as a table in Markdown: mean ± sample standard deviation over seeds, accuracies in percent."""
    runs = [run for variant in comparison.variants.values() for run in variant.measured]
    others = [column for column in _OTHER_READOUTS if any(column[1](run) is not None for run in runs)]
    percents = [*_PERCENTS, *others]
    names = [name for name, _ in percents]
    header = ["variant", "encoder", "memory", "seeds", *names, "parameters", "MB", "seconds", "CPU seconds"]
    return markdown_table(header, [_row(name, variant, percents) for name, variant in comparison.variants.items()], 3)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], num_words: int) -> str:
    """A table in Markdown; columns after the first `num_words` hold numbers."""
    rule = "|" + "---|" * num_words + "--:|" * (len(header) - num_words)
    return "\n".join([f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def _row(name: str, variant: VariantResults, columns: Sequence[Column]) -> list[str]:
    runs = variant.measured
    percents = [percents_text([value(run) for run in runs]) for _, value in columns]
    return [
        name,
        _distinct([run.encoder for run in runs]),
        _distinct([run.memory_size for run in runs]),
        variant.num_seeds,
        *percents,
        size_text([run.num_parameters for run in runs], ",.0f"),
        size_text([run.weights_bytes for run in runs], ".2f", 1e-6),
        size_text([run.seconds for run in runs], ".1f"),
        size_text([run.cpu_seconds for run in runs], ".1f"),
    ]


def percents_text(fractions: Sequence[float | None]) -> str:
    """Fractions as percents: `95.73 ± 0.44`, one alone `95.73`, and a dash where one is not known."""
    spread = Spread.of(fractions)
    if spread is not None:
        return spread.text()
    return _ABSENT if len(fractions) != 1 or fractions[0] is None else f"{100 * fractions[0]:.2f}"


def size_text(values: Sequence[float | None], form: str, scale: float = 1) -> str:
    """Numbers that are mostly the same for all seeds: then without a deviation; a dash where one is not known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return _ABSENT
    spread = Spread.of(known)
    return f"{known[0] * scale:{form}}" if spread is None or len(set(known)) == 1 else spread.text(form, scale)


def _distinct(values: Sequence[object]) -> str:
    return ", ".join(dict.fromkeys(_ABSENT if value is None else str(value) for value in values)) or _ABSENT
