"""Augmentation of training images, and the way from pixels to the input of the model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import AutoImageProcessor

from hub.run.errors import InputError
from modeling_dytox.image_processing import make_image_processor
from training.arguments import Arguments
from training.data.augmentation import (
    CROP_PADDING,
    Normalizer,
    make_mixup,
    make_train_transform,
)
from training.seeding import isolated_randomness


SIDE = 16
NEITHER = {"train_crop": "none", "horizontal_flip": False, "auto_augment": "none"}

MakeArguments = Callable[..., Arguments]
Transform = Callable[[PILImage.Image], Tensor]


@pytest.fixture
def make_transform(make_arguments: MakeArguments) -> Callable[..., Transform]:
    """Makes the training augmentation of these options, everything else off."""
    return lambda image_size=SIDE, **options: make_train_transform(
        make_arguments(**NEITHER | options).optimization, image_size
    )


def draw(transform: Transform, image: PILImage.Image, times: int) -> list[np.ndarray]:
    """Augments an image several times; each is `(height, width, 3)`."""
    drawn = []
    for seed in range(times):
        with isolated_randomness() as reseed:
            reseed(seed)
            drawn.append(transform(image).permute(1, 2, 0).numpy())
    return drawn


@pytest.mark.parametrize("image_size", [16, 32])
def test_the_saved_image_processor_makes_what_training_sees(
    tmp_path: Path, noise_image: Callable[..., PILImage.Image], image_size: int
) -> None:
    make_image_processor(image_size).save_pretrained(tmp_path)
    images = [noise_image(seed, image_size, image_size) for seed in range(3)]
    expected = AutoImageProcessor.from_pretrained(tmp_path)(images=images, return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    normalize = Normalizer(make_image_processor(image_size), torch.device("cpu"))
    assert (normalize(pixels) - expected).abs().max() < 1e-6


@pytest.mark.parametrize(("image_size", "mean"), [(32, 0.5071), (64, 0.485)])
def test_normalisation_is_that_of_cifar_for_small_images_and_of_imagenet_for_large(
    image_size: int, mean: float
) -> None:
    assert make_image_processor(image_size).image_mean[0] == mean


@pytest.mark.parametrize("image_size", [SIDE, 64])
def test_other_sizes_are_resized_and_cropped_as_the_image_processor_does(
    make_transform: Callable[..., Transform], noise_image: Callable[..., PILImage.Image], image_size: int
) -> None:
    processor = make_image_processor(image_size)
    normalize = Normalizer(processor, torch.device("cpu"))
    for width, height in ((8, 8), (40, 23), (SIDE, 2 * SIDE), (130, 90), (64, 64)):
        image = noise_image(0, width, height)
        expected = processor(images=[image], return_tensors="pt")["pixel_values"]
        # Two implementations of resizing, each rounding to 8 bits.
        in_levels = (normalize(make_transform(image_size)(image)[None]) - expected).abs() * 255 * 0.27
        assert in_levels.max() < 2


def test_with_everything_off_an_image_of_the_right_size_stays_as_it_is(
    make_transform: Callable[..., Transform], noise_image: Callable[..., PILImage.Image]
) -> None:
    image = noise_image(1)
    for drawn in draw(make_transform(), image, 40):
        assert (drawn == np.asarray(image)).all()


@pytest.mark.parametrize("image_size", [16, 32])
def test_a_padded_crop_is_a_crop_of_the_zero_padded_image(
    make_transform: Callable[..., Transform], noise_image: Callable[..., PILImage.Image], image_size: int
) -> None:
    image = noise_image(2, image_size, image_size)
    padding = round(image_size * CROP_PADDING)
    assert padding > 0
    padded = np.pad(np.asarray(image), ((padding, padding), (padding, padding), (0, 0)))
    crops = {
        padded[top : top + image_size, left : left + image_size].tobytes(): (top, left)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }
    drawn = draw(make_transform(image_size, train_crop="pad"), image, 300)
    offsets = {crops[crop.tobytes()] for crop in drawn}
    for axis in (0, 1):
        assert {offset[axis] for offset in offsets} == set(range(2 * padding + 1))


def test_a_resized_crop_has_the_size_of_the_model(
    make_transform: Callable[..., Transform], noise_image: Callable[..., PILImage.Image]
) -> None:
    drawn = draw(make_transform(train_crop="resize"), noise_image(3, 50, 20), 10)
    assert {crop.shape for crop in drawn} == {(SIDE, SIDE, 3)}
    assert len({crop.tobytes() for crop in drawn}) > 5


def test_a_flip_mirrors_about_half_of_the_images(
    make_transform: Callable[..., Transform], noise_image: Callable[..., PILImage.Image]
) -> None:
    image = noise_image(4)
    plain, mirrored = np.asarray(image), np.asarray(image)[:, ::-1]
    drawn = draw(make_transform(horizontal_flip=True), image, 400)
    flipped = [(crop == mirrored).all() for crop in drawn]
    assert all(is_flipped or (crop == plain).all() for is_flipped, crop in zip(flipped, drawn, strict=True))
    assert 150 < sum(flipped) < 250


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m10-n3-p1.0", "rand", "rand-m7-mmax9-tweights"])
@pytest.mark.parametrize("image_size", [4, 16])
def test_rand_augment_changes_images_and_keeps_their_shape(
    make_transform: Callable[..., Transform],
    noise_image: Callable[..., PILImage.Image],
    policy: str,
    image_size: int,
) -> None:
    image = noise_image(5, image_size, image_size)
    drawn = draw(make_transform(image_size, auto_augment=policy), image, 150)
    assert {(crop.shape, crop.dtype.name) for crop in drawn} == {((image_size, image_size, 3), "uint8")}
    assert len({crop.tobytes() for crop in drawn}) > 30


@pytest.mark.parametrize(
    "policy",
    ["", "None", "augmix-m3", "rand-q9", "rand-m", "rand-mx", "rand-m9-mstd", "rand-m9.5", "rand m9", "rand-m9-foo"],
)
def test_a_policy_that_timm_would_refuse_or_skip_is_named(
    make_transform: Callable[..., Transform], policy: str
) -> None:
    with pytest.raises(InputError) as caught:
        make_transform(auto_augment=policy)
    assert f"--auto_augment {policy!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mixup_is_off_by_default(make_arguments: MakeArguments) -> None:
    assert make_mixup(make_arguments().method, 10) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_mixup_mixes_images_and_smoothed_targets_by_one_ratio(make_arguments: MakeArguments, smoothing: float) -> None:
    num_classes, labels = 5, torch.tensor([0, 1, 4, 3])
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.full((4, num_classes), smoothing / num_classes)
    targets[range(4), labels] += 1 - smoothing
    mixup = make_mixup(make_arguments(mixup_alpha=0.8, mixup_label_smoothing=smoothing).method, num_classes)
    assert mixup is not None
    ratios = []
    for seed in range(20):
        with isolated_randomness() as reseed:
            reseed(seed)
            mixed_images, mixed_targets = mixup(images.clone(), labels)
        assert torch.allclose(mixed_targets.sum(dim=1), torch.ones(4))
        # The ratio that the images tell is that of the targets.
        other = images.flip(0)
        ratio = ((mixed_images - other) * (images - other)).sum() / (images - other).square().sum()
        assert torch.allclose(mixed_images, ratio * images + (1 - ratio) * other, atol=1e-5)
        assert torch.allclose(mixed_targets, ratio * targets + (1 - ratio) * targets.flip(0), atol=1e-5)
        ratios.append(float(ratio))
    assert len(set(ratios)) > 10
    assert all(-1e-5 <= ratio <= 1 + 1e-5 for ratio in ratios)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "--image_size 30 is not a multiple of --patch_size 4"),
        ({"image_size": 2}, "--image_size 2 is not a multiple of --patch_size 4"),
        ({"hidden_size": 100}, "--hidden_size 100 is not a multiple of --num_attention_heads 12"),
    ],
)
def test_sizes_that_do_not_fit_are_named(make_arguments: MakeArguments, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_arguments(**options)


def test_sizes_that_fit_pass(make_arguments: MakeArguments) -> None:
    for options in ({}, {"image_size": 16, "patch_size": 16}, {"hidden_size": 36, "num_attention_heads": 6}):
        make_arguments(**options)
