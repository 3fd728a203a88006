"""Image processor of DyTox: the one of ViT, configured as in the evaluation of the paper."""

from transformers import ViTImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling


CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
# Larger images are cropped like the photographs of ImageNet, smaller ones are thumbnails like those of CIFAR.
SMALLEST_CROPPED = 64
# Shorter side of a photograph before the centre crop, relative to the side of the crop.
RESIZE_RATIO = 256 / 224


def make_image_processor(image_size: int) -> ViTImageProcessor:
    """
    Makes the image processor to save with a model of square images.

    Args:
        image_size (`int`): height and width, in pixels. Below 64, images are resized to this size and normalised with
            the statistics of CIFAR-100. From 64 on, their shorter side is resized to 256 / 224 of this size, the
            centre is cropped, and the statistics are those of ImageNet.

    Returns:
        `ViTImageProcessor`: the image processor.
    """
    size = {"height": image_size, "width": image_size}
    if image_size < SMALLEST_CROPPED:
        return ViTImageProcessor(size=size, image_mean=CIFAR_MEAN, image_std=CIFAR_STD, do_convert_rgb=True)
    return ViTImageProcessor(
        size={"shortest_edge": shorter_side(image_size)},
        do_center_crop=True,
        crop_size=size,
        resample=PILImageResampling.BICUBIC,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
        do_convert_rgb=True,
    )


def shorter_side(image_size: int) -> int:
    """Shorter side, in pixels, to which a photograph is resized before the centre crop."""
    return round(RESIZE_RATIO * image_size)
