"""What training changes in an image, and how pixels become the input of the model."""

import re
from collections.abc import Callable
from functools import partial

import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import RandAugment, rand_augment_transform
from torchvision import transforms
from transformers import ViTImageProcessor

from training.arguments import MethodArguments, ModelArguments, OptimizationArguments
from training.errors import InputError


# Zero padding on each side of a crop, as a fraction of the image: the 4 of CIFAR's 32 pixels.
CROP_PADDING = 1 / 8
# Grey that RandAugment fills in, as the reference does on every data set: the mean of ImageNet.
FILL_COLOR = (124, 116, 104)
POLICY = r"rand(-(m|n|p|mstd|mmax|inc)\d[\d.]*|-t\w+)*"
CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_image_processor(image_size: int) -> ViTImageProcessor:
    """
    The image processor that is saved with the model: resizes to `image_size` pixels and normalises, with the
    statistics of CIFAR for small images and of ImageNet from 64 pixels on.
    """
    mean, std = (CIFAR_MEAN, CIFAR_STD) if image_size < 64 else (IMAGENET_MEAN, IMAGENET_STD)
    size = {"height": image_size, "width": image_size}
    return ViTImageProcessor(size=size, image_mean=list(mean), image_std=list(std), do_convert_rgb=True)


def make_train_transform(
    optimization: OptimizationArguments, image_size: int
) -> Callable[[Image.Image], torch.Tensor]:
    """
    The training augmentation: RGB image -> `(3, image_size, image_size)` uint8 tensor.

    Raises:
        InputError: timm does not know the `auto_augment` policy.
    """
    bicubic = transforms.InterpolationMode.BICUBIC
    steps: list[Callable] = []
    if optimization.train_crop == "resize":
        steps.append(transforms.RandomResizedCrop(image_size, interpolation=bicubic))
    else:
        steps.append(_ResizeTo(image_size))
    if optimization.train_crop == "pad":
        steps.append(transforms.RandomCrop(image_size, padding=round(image_size * CROP_PADDING)))
    if optimization.horizontal_flip:
        steps.append(transforms.RandomHorizontalFlip())
    if optimization.auto_augment != "none":
        steps.append(_rand_augment(optimization.auto_augment, image_size))
    return transforms.Compose([*steps, transforms.PILToTensor()])


class _ResizeTo:
    """Resizes as the image processor does, and leaves images of the right size alone."""

    def __init__(self, image_size: int) -> None:
        self.size = (image_size, image_size)

    def __call__(self, image: Image.Image) -> Image.Image:
        return image if image.size == self.size else image.resize(self.size, Image.Resampling.BILINEAR)


def _rand_augment(policy: str, image_size: int) -> RandAugment:
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


def make_mixup(method: MethodArguments, num_classes: int) -> Mixup | None:
    """
    MixUp of DyTox+ (https://arxiv.org/abs/1710.09412): one ratio a batch, images and smoothed targets mixed with the
    batch in reverse order. None when it is switched off.
    """
    if method.mixup_alpha == 0:
        return None
    return Mixup(
        mixup_alpha=method.mixup_alpha,
        cutmix_alpha=0.0,
        label_smoothing=method.mixup_label_smoothing,
        num_classes=num_classes,
    )


def check_model_fits(model: ModelArguments) -> None:
    """
    Raises:
        InputError: the patches do not fill the image, or the heads do not share the width equally.
    """
    if model.patch_size < 1 or model.image_size < model.patch_size or model.image_size % model.patch_size:
        raise InputError(
            f"--image_size {model.image_size} is not a multiple of --patch_size {model.patch_size}: change one."
        )
    if model.hidden_size % model.num_attention_heads:
        raise InputError(
            f"--hidden_size {model.hidden_size} is not a multiple of --num_attention_heads "
            f"{model.num_attention_heads}: change one."
        )
