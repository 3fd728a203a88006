"""Class-incremental methods, chosen by name with `--method`; importing them imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub.run.errors import InputError
from training.arguments import Arguments
from training.methods.base import Method, Phase, PhaseData
from training.methods.bic import BiasCorrection
from training.methods.der import DynamicallyExpandable
from training.methods.dytox import DyTox
from training.methods.eeil import EndToEnd
from training.methods.finetune import Finetune
from training.methods.icarl import ICaRL
from training.methods.joint import Joint
from training.methods.ncm import NearestClassMean
from training.methods.podnet import PooledOutputs
from training.methods.replay import Replay
from training.methods.ridge import Ridge
from training.methods.ucir import UnifiedClassifier
from training.methods.wa import WeightAligning


if TYPE_CHECKING:
    from training.run.encoder import Encoder


METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        DyTox,
        ICaRL,
        EndToEnd,
        UnifiedClassifier,
        BiasCorrection,
        PooledOutputs,
        WeightAligning,
        DynamicallyExpandable,
        NearestClassMean,
        Ridge,
        Replay,
        Finetune,
        Joint,
    )
}
DEFAULT_METHOD = DyTox.name


def method_named(name: str) -> type[Method]:
    """
    A method by its name.

    Raises:
        InputError: there is no such method.
    """
    if name not in METHODS:
        raise InputError(f"--method {name!r} is unknown: choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def make_method(arguments: Arguments, encoder: Encoder | None = None) -> Method:
    """
    The method that the options name, with its options.

    Args:
        arguments (`Arguments`): the options.
        encoder (`Encoder`, *optional*): of new models, in place of the paper's own.

    Raises:
        InputError: there is no such method.
    """
    return method_named(arguments.method.method or DEFAULT_METHOD)(arguments.options, arguments, encoder)


__all__ = ["DEFAULT_METHOD", "METHODS", "Method", "Phase", "PhaseData", "make_method", "method_named"]
