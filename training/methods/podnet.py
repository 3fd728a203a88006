"""PODNet, pooled outputs distillation (Douillard et al., ECCV 2020, https://arxiv.org/abs/2004.13513)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hub.run.errors import InputError
from hub.run.results import MethodCard
from training.arguments import (
    PREDICTION_HELP,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Prediction,
    option,
)
from training.methods.base import predicting_by
from training.methods.similarity_heads import SimilarityHeadMethod, grow_with_rows


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_dytox import IncrementalModel
    from training.data.scenario import Step
    from training.loop.context import StepContext
    from training.loop.learner import LossModule


CITATION = r"""
@inproceedings{douillard2020podnet,
  title     = {{PODNet}: Pooled Outputs Distillation for Small-Tasks Incremental Learning},
  author    = {Douillard, Arthur and Cord, Matthieu and Ollion, Charles and Robert, Thomas and Valle, Eduardo},
  booktitle = {Proceedings of the European Conference on Computer Vision (ECCV)},
  year      = {2020},
  eprint    = {2004.13513},
  archivePrefix = {arXiv}
}
""".strip()


@dataclass
class PooledOutputsOptions:
    """Options of PODNet; the defaults are the paper's for CIFAR-100, but for the start of the scale."""

    podnet_spatial: NonNegativeFloat = option(
        "Weight of the distillation of the pooled maps of each block, times the root of seen over new classes.", 3.0
    )
    podnet_flat: NonNegativeFloat = option(
        "Weight of the distillation of the embedding, times the root of seen over new classes.", 1.0
    )
    podnet_proxies: PositiveInt = option("Proxies of each class.", 10)
    podnet_margin: NonNegativeFloat = option("Margin of the classification loss, of similarities.", 0.6)
    podnet_public_loss: bool = option(
        "Classify by the loss of the authors' code, in which the margin cancels out, instead of the paper's.", False
    )
    head_scale_init: PositiveFloat = option(
        "Start of the learned scale of the similarities. The published 1 grows too slowly at learning rates of AdamW.",
        16.0,
    )
    finetuning_epochs: NonNegativeInt = option(
        "Epochs of the head alone on the balanced memory, after the main phase; 0 switches it off.", 20
    )
    balanced_learning_rate_factor: NonNegativeFloat = option(
        "Peak learning rate of these epochs, as a multiple of learning_rate.", 0.5
    )
    prediction: Prediction = option(PREDICTION_HELP, "logits")


class PooledOutputs(SimilarityHeadMethod):
    """
    A head with several proxies a class, which start as cluster centres of its images; old proxies do not change. The
    maps of all blocks, pooled over height and over width, and the embedding stay near those of the previous model.
    """

    name = "podnet"
    summary = "pooled maps of all blocks stay as they were, several proxies a class"
    Options = PooledOutputsOptions
    architecture = "growing_head"
    needs_fields = {"head": "proxy"}
    card = MethodCard(
        title="PODNet",
        sentence="Trained with [PODNet](https://arxiv.org/abs/2004.13513): several proxies a class, rehearsal from a "
        "bounded memory, and distillation of the embedding and of the maps of all blocks, pooled over height and over "
        "width.",
        citation=CITATION,
        tags=("podnet", "arxiv:2004.13513"),
    )
    options: PooledOutputsOptions

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        mixup_alpha = self.arguments.optimization.mixup_alpha
        if mixup_alpha > 0:
            raise InputError(
                f"--mixup_alpha {mixup_alpha}: podnet's loss has no form for mixed labels, give 0 or leave it out."
            )

    def describe(self) -> MethodCard:
        """Names the rule that predicts, and says where no maps are distilled."""
        card = predicting_by(self.card, self.options.prediction)
        maps = "of the embedding and of the maps of all blocks, pooled over height and over width."
        if self.arguments.encoder.freeze_encoder:
            reason = "That of the maps is left out: the encoder is frozen, so that they never change."
        elif self.options.podnet_spatial == 0:
            reason = "That of the maps is left out."
        else:
            return card
        return replace(card, sentence=card.sentence.replace(maps, f"of the embedding. {reason}"))

    def model_fields(self) -> dict[str, Any]:
        """A head of proxies, and prototypes beside it."""
        options = self.options
        return {
            "head": "proxy",
            "num_proxies": options.podnet_proxies,
            "head_scale_init": options.head_scale_init,
            "keeps_prototypes": True,
            "prediction": options.prediction,
        }

    def grow(self, context: StepContext) -> IncrementalModel:
        """Proxies of new classes start at cluster centres of their embeddings under the old model."""
        from training.methods.pooled_outputs import cluster_centres

        head: Any = context.model.head
        return grow_with_rows(
            context, lambda embeddings, labels: cluster_centres(embeddings, labels, head.num_proxies, context.seed)
        )

    def build(self, step: Step) -> IncrementalModel:
        """A new model; refuses an encoder whose maps cannot be pooled."""
        model = super().build(step)
        if self.options.podnet_spatial > 0 and not model.config.freeze_encoder and model.device.type != "meta":
            check_maps(model)
        return model

    def loss(self, learner: LossModule, pixel_values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Equation 6 of the paper, with the weights of its section 4; on the head alone nothing is distilled."""
        import torch
        from torch.nn.functional import cosine_similarity

        from training.methods.pooled_outputs import margin_loss, pooled_distance, public_loss

        options, step = self.options, learner.step
        model: Any = learner.model
        is_distilled = self.teacher is not None and learner.phase.name == "main"
        has_maps = is_distilled and options.podnet_spatial > 0 and not model.config.freeze_encoder
        outputs = model(pixel_values, output_hidden_states=has_maps)
        loss = public_loss if options.podnet_public_loss else margin_loss
        terms = {"classification": loss(outputs.head_logits, targets, model.head.scale, options.podnet_margin)}
        if not is_distilled or self.teacher is None:
            return terms
        weight = (step.num_seen_classes / len(step.class_names)) ** 0.5
        with torch.no_grad():
            teacher = self.teacher(pixel_values, output_hidden_states=has_maps)
        away = 1 - cosine_similarity(outputs.embeddings.float(), teacher.embeddings.float())
        terms["flat"] = options.podnet_flat * weight * away.mean()
        if has_maps:
            distance = pooled_distance(outputs.hidden_states, teacher.hidden_states, model.config)
            terms["spatial"] = options.podnet_spatial * weight * distance
        return terms


def check_maps(model: IncrementalModel) -> None:
    """
    Runs the model on an image.

    Raises:
        InputError: its hidden states are no maps.
    """
    import torch

    from training.methods.pooled_outputs import as_grids

    was_training, config = model.training, model.config
    image = torch.zeros(1, 3, *config.image_height_width, device=model.device)
    try:
        with torch.no_grad():
            as_grids(model.eval()(image, output_hidden_states=True).hidden_states, config)
    except ValueError as error:
        raise InputError(
            f"--podnet_spatial distils the maps of blocks, but the encoder {error}: give --podnet_spatial 0."
        ) from error
    finally:
        model.train(was_training)
