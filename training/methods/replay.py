"""Replay alone: what any method with a rehearsal memory has to beat."""

from hub.run.results import MethodCard
from training.methods.base import Method


class Replay(Method):
    """Learns the new classes together with the rehearsal memory, without distillation."""

    name = "replay"
    summary = "baseline: new classes and memory together, no distillation"
    card = MethodCard(
        title="Replay baseline",
        sentence="This is the *replay* baseline: each step trains on its new classes and a bounded memory of old "
        "images, without distillation.",
    )
    architecture = "growing_head"
    continues_any = True
