"""Finetuning on the new classes alone: the floor."""

from hub.run.results import MethodCard
from training.methods.base import Method


class Finetune(Method):
    """Learns the new classes alone, without memory or distillation, and forgets the old ones."""

    name = "finetune"
    summary = "floor: new classes alone, forgets the old ones"
    card = MethodCard(
        title="Finetune baseline",
        sentence="This is the *finetune* baseline: each step trains on its new classes alone, without memory or "
        "distillation. It marks the floor that a method for incremental learning has to beat.",
    )
    architecture = "growing_head"
    continues_any = True
    uses_memory = False
