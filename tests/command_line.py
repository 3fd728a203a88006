"""Options as words of a command line."""

from collections.abc import Mapping

from tests.tiny_convnext import tiny_convnext
from training.methods import DEFAULT_METHOD, METHODS
from training.parsing import option_names


# What gives a model its encoder.
ENCODERS = {"encoder_name_or_path", "encoder_type", "model_name_or_path"}


def words(options: Mapping[str, object]) -> list[str]:
    """
    `{"seed": 1}` as `["--seed", "1"]`; a list gives several words, None leaves an option out, and so do the finetuning
    epochs of the tiny options for methods that have none. Methods that need a pretrained encoder get a tiny one.
    """
    found: list[str] = []
    method = METHODS.get(str(options.get("method", DEFAULT_METHOD)))
    has_finetuning = method is None or "finetuning_epochs" in option_names(method.Options)
    if method is not None and method.needs_frozen_encoder and not ENCODERS & options.keys():
        encoder = tiny_convnext()
        options = {"encoder_name_or_path": encoder, "feature_cache_dir": encoder.parent / "features", **options}
        if "projection_dim" in option_names(method.Options):
            options = {"projection_dim": 64, **options}
    for name, value in options.items():
        if value is not None and (has_finetuning or name != "finetuning_epochs"):
            found += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return found
