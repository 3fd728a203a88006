"""What each task token attends to, laid over the image as the model sees it."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from hub.space.revisions import LoadedRevision


_SMALLEST_SIDE = 256
# How much of the image shows where a token does not look.
_FLOOR = 0.15


@dataclass(frozen=True)
class TokenView:
    """
    Args:
        step (`int`): the step of the task token.
        classes (`tuple[str, ...]`): what its classifier tells apart.
        own (`float`): share of its attention on itself, in 0..1; the rest is on the patches.
        overlay (`Image`): the image, bright where the token looks.
    """

    step: int
    classes: tuple[str, ...]
    own: float
    overlay: Image.Image


@torch.no_grad()
def token_views(revision: LoadedRevision, image: Image.Image) -> list[TokenView]:
    """
    A view for each task token, in the order of the steps; none where the model has no task tokens, or the tokens of
    its encoder are no square grid of patches.
    """
    shares = task_attention(revision, image)
    if shares is None or math.isqrt(shares.shape[1] - 1) ** 2 != shares.shape[1] - 1:
        return []
    seen = _as_seen(revision.processor, image)
    return [
        TokenView(step.step, step.classes, share[0].item(), _overlay(seen, share[1:]))
        for step, share in zip(revision.results.steps, shares, strict=True)
    ]


def task_attention(revision: LoadedRevision, image: Image.Image) -> torch.Tensor | None:
    """
    Attention of each task token in the last task-attention block, mean over heads.

    Returns:
        `Tensor` of shape `(T, 1 + N)`, *optional*: rows add up to 1; first on the token itself, then on the patches.
        None where the model has no task token for each step.
    """
    model: Any = revision.model
    if not getattr(model.config, "num_task_tokens", 0):
        return None
    pixels = revision.processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    (attention,) = model(pixels, output_attentions=True).task_attentions[-1]
    shares: torch.Tensor = attention.float().mean(0)
    return shares if len(shares) == len(revision.results.steps) else None


def _as_seen(processor: Any, image: Image.Image) -> torch.Tensor:
    """The image `(3, H, W)` in 0..1 as the processor cuts and scales it."""
    pixels: torch.Tensor = processor(image.convert("RGB"), do_normalize=False, return_tensors="pt")["pixel_values"][0]
    return pixels.clamp(0, 1)


def _overlay(seen: torch.Tensor, share: torch.Tensor) -> Image.Image:
    side = math.isqrt(len(share))
    factor = math.ceil(_SMALLEST_SIDE / min(seen.shape[1:]))
    size = [length * factor for length in seen.shape[1:]]
    light = torch.nn.functional.interpolate(share.view(1, 1, side, side), size=size, mode="bilinear")[0]
    light = _FLOOR + (1 - _FLOOR) * light / light.max()
    large = torch.nn.functional.interpolate(seen[None], size=size, mode="nearest")[0]
    values = (255 * large * light).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())
