"""What training changes in an image, and how pixels become the input of the model; timm is imported where it draws."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torchvision import transforms
from transformers import ViTImageProcessor

from hub.run.errors import InputError
from training.arguments import OptimizationArguments


if TYPE_CHECKING:
    from timm.data import Mixup
    from timm.data.auto_augment import RandAugment

# Zero padding on each side of a crop, as a fraction of the image: the 4 of CIFAR's 32 pixels.
CROP_PADDING = 1 / 8
# Grey that RandAugment fills in, as the reference does on every data set: the mean of ImageNet.
FILL_COLOR = (124, 116, 104)
POLICY = r"rand(-(m|n|p|mstd|mmax|inc)\d[\d.]*|-t\w+)*"


def make_train_transform(
    optimization: OptimizationArguments, processor: ViTImageProcessor
) -> Callable[[Image.Image], torch.Tensor]:
    """
    The training augmentation: RGB image -> `(3, height, width)` uint8 tensor of the size that the processor gives.

    Args:
        optimization (`OptimizationArguments`): crop, flip and RandAugment.
        processor (`ViTImageProcessor`): the one that is published with the model; gives resize and crop.

    Raises:
        InputError: timm does not know the `auto_augment` policy.
    """
    height, width = output_size(processor)
    interpolation = transforms.InterpolationMode.BICUBIC
    steps: list[Callable] = []
    if optimization.train_crop == "resize":
        steps.append(transforms.RandomResizedCrop((height, width), interpolation=interpolation))
    else:
        steps += _fit(processor)
    if optimization.train_crop == "pad":
        steps.append(transforms.RandomCrop((height, width), padding=round(height * CROP_PADDING)))
    if optimization.horizontal_flip:
        steps.append(transforms.RandomHorizontalFlip())
    if optimization.auto_augment != "none":
        steps.append(_rand_augment(optimization.auto_augment, height))
    return transforms.Compose([*steps, transforms.PILToTensor()])


def output_size(processor: Any) -> tuple[int, int]:
    """Height and width, in pixels, of the images that a processor gives."""
    size = processor.crop_size if processor.do_center_crop else processor.size
    return size["height"], size["width"]


def _fit(processor: Any) -> list[Callable]:
    """Resizes and crops as the image processor does."""
    interpolation = transforms.InterpolationMode(Image.Resampling(processor.resample).name.lower())
    steps: list[Callable] = []
    if processor.do_resize:
        shorter = processor.size.get("shortest_edge")
        size = shorter if shorter else (processor.size["height"], processor.size["width"])
        steps.append(transforms.Resize(size, interpolation=interpolation))
    if processor.do_center_crop:
        steps.append(transforms.CenterCrop(output_size(processor)))
    return steps


def _rand_augment(policy: str, image_size: int) -> RandAugment:
    try:
        from timm.data.auto_augment import rand_augment_transform
    except ImportError as error:
        raise InputError(f"--auto_augment {policy} needs timm: pip install timm, or choose none.") from error
    settings = {
        "translate_const": int(image_size * 0.45),
        "img_mean": FILL_COLOR,
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        # timm skips the parts that it does not know.
        if not re.fullmatch(POLICY, policy):
            raise ValueError(policy)
        augment = rand_augment_transform(policy, settings)
    except (AssertionError, ValueError, KeyError) as error:
        raise InputError(
            f"--auto_augment {policy!r} is no RandAugment policy of timm: use e.g. rand-m9-mstd0.5-inc1, or none."
        ) from error
    for operation in augment.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_keep_a_bit, operation.level_fn)
    return augment


def _keep_a_bit(level_fn: Callable[[float, dict], tuple[int]], level: float, settings: dict) -> tuple[int]:
    # At full magnitude the policy keeps no bit: a black image for the authors, an error in newer versions of Pillow.
    (bits,) = level_fn(level, settings)
    return (max(bits, 1),)


class Normalizer:
    """
    Turns uint8 pixels into `pixel_values`, as the image processor would.

    Args:
        processor (`ViTImageProcessor`): gives mean and standard deviation of each channel, in 0..1.
        device (`torch.device`): where the pixels are.
    """

    def __init__(self, processor: ViTImageProcessor, device: torch.device) -> None:
        self.mean = torch.tensor(processor.image_mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(processor.image_std, device=device).view(1, -1, 1, 1)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """`(B, 3, height, width)` uint8 -> float32."""
        return (pixels.float() / 255 - self.mean) / self.std


def make_mixup(alpha: float, label_smoothing: float, num_classes: int) -> Mixup | None:
    """
    MixUp of DyTox+ (https://arxiv.org/abs/1710.09412): one ratio a batch, images and smoothed targets mixed with the
    batch in reverse order. None when it is switched off.

    Args:
        alpha (`float`): parameter of the Beta distribution of the ratio; 0 switches it off.
        label_smoothing (`float`): of the targets, in [0, 1).
        num_classes (`int`): classes seen so far.
    """
    if alpha == 0:
        return None
    from timm.data import Mixup

    return Mixup(mixup_alpha=alpha, cutmix_alpha=0.0, label_smoothing=label_smoothing, num_classes=num_classes)
