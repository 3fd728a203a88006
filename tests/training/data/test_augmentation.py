"""Augmentation of training images, and the way from pixels to the input of the model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import Tensor

from hub.run.errors import InputError
from modeling_dytox.image_processing import make_image_processor
from training.arguments import Arguments
from training.data.augmentation import CROP_PADDING, Normalizer, make_mixup, make_train_transform
from training.seeding import isolated_randomness


SIDE = 16
NEITHER = {"train_crop": "none", "horizontal_flip": False, "auto_augment": "none"}

MakeArguments = Callable[..., Arguments]
MakeTransform = Callable[..., Callable[[PILImage.Image], Tensor]]
NoiseImage = Callable[..., PILImage.Image]


@pytest.fixture
def make_transform(make_arguments: MakeArguments) -> MakeTransform:
    """Makes the training augmentation of these options, everything else off."""
    return lambda image_size=SIDE, **options: make_train_transform(
        make_arguments(**NEITHER | options).optimization, make_image_processor(image_size)
    )


def draw(transform: Callable[[PILImage.Image], Tensor], image: PILImage.Image, times: int) -> list[np.ndarray]:
    """Augments an image several times; each is `(height, width, 3)`."""
    drawn = []
    for seed in range(times):
        with isolated_randomness() as reseed:
            reseed(seed)
            drawn.append(transform(image).permute(1, 2, 0).numpy())
    return drawn


@pytest.mark.parametrize("image_size", [SIDE, 64])
def test_without_augmentation_training_sees_what_the_image_processor_makes(
    make_transform: MakeTransform, noise_image: NoiseImage, image_size: int
) -> None:
    processor = make_image_processor(image_size)
    normalize = Normalizer(processor, torch.device("cpu"))
    for width, height in ((8, 8), (40, 23), (SIDE, SIDE), (SIDE, 2 * SIDE), (130, 90), (64, 64)):
        image = noise_image(0, width, height)
        expected = processor(images=[image], return_tensors="pt")["pixel_values"]
        difference = (normalize(make_transform(image_size)(image)[None]) - expected).abs().max()
        # Two implementations of resizing, each rounding to 8 bits.
        assert difference < (1e-6 if width == height == image_size == SIDE else 2 / 255 / 0.27)


@pytest.mark.parametrize("image_size", [16, 32])
def test_a_padded_crop_is_a_crop_of_the_zero_padded_image(
    make_transform: MakeTransform, noise_image: NoiseImage, image_size: int
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


def test_a_resized_crop_has_the_size_of_the_model(make_transform: MakeTransform, noise_image: NoiseImage) -> None:
    drawn = draw(make_transform(train_crop="resize"), noise_image(3, 50, 20), 10)
    assert {crop.shape for crop in drawn} == {(SIDE, SIDE, 3)}
    assert len({crop.tobytes() for crop in drawn}) > 5


def test_a_flip_mirrors_about_half_of_the_images(make_transform: MakeTransform, noise_image: NoiseImage) -> None:
    image = noise_image(4)
    plain, mirrored = np.asarray(image), np.asarray(image)[:, ::-1]
    drawn = draw(make_transform(horizontal_flip=True), image, 400)
    flipped = [(crop == mirrored).all() for crop in drawn]
    assert all(is_flipped or (crop == plain).all() for is_flipped, crop in zip(flipped, drawn, strict=True))
    assert 150 < sum(flipped) < 250


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m10-n3-p1.0", "rand", "rand-m7-mmax9-tweights"])
@pytest.mark.parametrize("image_size", [4, 16])
def test_rand_augment_changes_images_and_keeps_their_shape(
    make_transform: MakeTransform, noise_image: NoiseImage, policy: str, image_size: int
) -> None:
    image = noise_image(5, image_size, image_size)
    drawn = draw(make_transform(image_size, auto_augment=policy), image, 150)
    assert {(crop.shape, crop.dtype.name) for crop in drawn} == {((image_size, image_size, 3), "uint8")}
    assert len({crop.tobytes() for crop in drawn}) > 30


@pytest.mark.parametrize(
    "policy",
    ["", "None", "augmix-m3", "rand-q9", "rand-m", "rand-mx", "rand-m9-mstd", "rand-m9.5", "rand m9", "rand-m9-foo"],
)
def test_a_policy_that_timm_would_refuse_or_skip_is_named(make_transform: MakeTransform, policy: str) -> None:
    with pytest.raises(InputError) as caught:
        make_transform(auto_augment=policy)
    assert f"--auto_augment {policy!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def mix(
    images: Tensor, labels: Tensor, ratio: float | Tensor, smoothing: float, classes: int
) -> tuple[Tensor, Tensor]:
    """MixUp by its definition: images and smoothed targets with those of the batch in reverse order."""
    targets = torch.full((len(labels), classes), smoothing / classes)
    targets[range(len(labels)), labels] += 1 - smoothing
    mixed, mixed_targets = (ratio * each + (1 - ratio) * each.flip(0) for each in (images, targets))
    return mixed, mixed_targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_mixup_mixes_images_and_smoothed_targets_by_one_ratio(smoothing: float) -> None:
    assert make_mixup(0.0, smoothing, 5) is None
    images, labels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 4, 3])
    mixup = make_mixup(0.8, smoothing, 5)
    assert mixup is not None
    ratios = []
    for seed in range(20):
        with isolated_randomness() as reseed:
            reseed(seed)
            mixed_images, mixed_targets = mixup(images.clone(), labels)
        # The ratio of the images is that of the targets.
        other = images.flip(0)
        ratio = ((mixed_images - other) * (images - other)).sum() / (images - other).square().sum()
        expected_images, expected_targets = mix(images, labels, ratio, smoothing, 5)
        assert torch.allclose(mixed_images, expected_images, atol=1e-5)
        assert torch.allclose(mixed_targets, expected_targets, atol=1e-5)
        ratios.append(float(ratio))
    assert len(set(ratios)) > 10
    assert all(-1e-5 <= ratio <= 1 + 1e-5 for ratio in ratios)


def test_the_definition_of_mixup_is_the_authors() -> None:
    theirs = {
        name: torch.from_numpy(array)
        for name, array in np.load(Path(__file__).parents[2] / "fixtures" / "losses_a.npz").items()
        if name.startswith("mixup_")
    }
    ratio = theirs["mixup_out_lam"].float()
    images, targets = mix(theirs["mixup_in_x"], theirs["mixup_in_y"], ratio, 0.1, theirs["mixup_out_y"].shape[1])
    torch.testing.assert_close(images, theirs["mixup_out_x"], atol=1e-5, rtol=0)
    torch.testing.assert_close(targets, theirs["mixup_out_y"], atol=1e-5, rtol=0)
