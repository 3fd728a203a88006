"""Options as words of a command line."""

from collections.abc import Mapping


def words(options: Mapping[str, object]) -> list[str]:
    """`{"seed": 1}` as `["--seed", "1"]`."""
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]
