"""How images are prepared for a DyTox: with the image processor of ViT, set up as the paper evaluates."""

from transformers import ViTImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling


CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
# From this size on images are photographs to crop, as those of ImageNet; below they are thumbnails, as those of CIFAR.
SMALLEST_CROPPED = 64
# The shorter side of a photograph before the centre is cropped, for each pixel of the crop.
RESIZE_RATIO = 256 / 224


def make_image_processor(image_size: int) -> ViTImageProcessor:
    """
    The image processor to save with a model of square images.

    Args:
        image_size (`int`): height and width, in pixels. Below 64 images are resized to it and normalised with the
            statistics of CIFAR-100; from 64 on their shorter side is resized to 256 / 224 of it, the centre is
            cropped, and the statistics are those of ImageNet.
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
    """The shorter side, in pixels, that a photograph is resized to before its centre is cropped."""
    return round(RESIZE_RATIO * image_size)
