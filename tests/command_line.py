"""Options as words of a command line."""

from collections.abc import Mapping

from training.methods import DEFAULT_METHOD, METHODS
from training.parsing import option_names


def words(options: Mapping[str, object]) -> list[str]:
    """
    `{"seed": 1}` as `["--seed", "1"]`; a list gives several words, None leaves an option out, and so do the finetuning
    epochs of the tiny options for methods that have none.
    """
    found: list[str] = []
    method = METHODS.get(str(options.get("method", DEFAULT_METHOD)))
    has_finetuning = method is None or "finetuning_epochs" in option_names(method.Options)
    for name, value in options.items():
        if value is not None and (has_finetuning or name != "finetuning_epochs"):
            found += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return found
