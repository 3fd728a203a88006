"""Images of every kind become RGB, and broken ones are named."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from transformers.image_utils import load_image

from hub.run.errors import InputError
from training import convert_images
from training.convert_images import to_8_bit_rgb
from training.data.examples import Examples


SIDE = 16
FORMATS = ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]

MakeExamples = Callable[..., Examples]
NoiseImage = Callable[..., PILImage.Image]


# Pixels. Each case: the content of a file, and its RGB values as they should be.


def blended(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return (color.astype(float) * alpha + 255.0 * (255.0 - alpha)) / 255


def ramp(channels: int, dtype: Any = np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(channels).integers(0, top, (SIDE, SIDE, channels), dtype=dtype, endpoint=True)


def grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.reshape(SIDE, SIDE, 1).astype(float), 3, axis=2)


def pixel_cases() -> dict[str, tuple[bytes, np.ndarray]]:
    cases: dict[str, tuple[bytes, np.ndarray]] = {}

    def add(name: str, image: PILImage.Image, expected: np.ndarray, file_format: str = "PNG", **options: Any) -> None:
        file = io.BytesIO()
        image.save(file, file_format, **options)
        assert PILImage.open(io.BytesIO(file.getvalue())).mode == name.split(" ")[0]
        cases[name] = file.getvalue(), expected

    rgb, rgba, grey, two = ramp(3), ramp(4), ramp(1)[..., 0], ramp(2)
    grey[0, 0] = 9
    add("RGB", PILImage.fromarray(rgb), rgb)
    add("L", PILImage.fromarray(grey), grey_to_rgb(grey))
    add("L with a transparent level", PILImage.fromarray(grey), grey_to_rgb(np.where(grey == 9, 255, grey)),
        transparency=9)  # fmt: skip
    add("1", PILImage.fromarray(grey > 99), grey_to_rgb((grey > 99) * 255))
    add("RGBA", PILImage.fromarray(rgba), blended(rgba[..., :3], rgba[..., 3:]))
    add("LA", PILImage.fromarray(two, "LA"), blended(grey_to_rgb(two[..., 0]), two[..., 1:]))
    indices, palette = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE), ramp(3).reshape(-1, 3)
    image = PILImage.frombytes("P", (SIDE, SIDE), indices.tobytes())
    image.putpalette(palette.ravel().tolist())
    add("P", image, palette[indices])
    one = np.where((indices == 3)[..., None], 255, palette[indices])
    add("P with a transparent colour", image, one, transparency=3)
    alphas = np.arange(256)[::-1]
    add("P with transparent colours", image, blended(palette[indices], alphas[indices][..., None]),
        transparency=bytes(alphas.tolist()))  # fmt: skip
    add("CMYK", PILImage.fromarray(rgba, "CMYK"), (255 - rgba[..., :3]) * (255.0 - rgba[..., 3:]) / 255, "TIFF")
    deep = ramp(1, np.uint16)[..., 0]
    add("I;16", PILImage.fromarray(deep), grey_to_rgb(deep / 257))
    add("I", PILImage.fromarray(deep.astype(np.int32)), grey_to_rgb(deep / 257), "TIFF")
    return cases


CASES = pixel_cases()


UNFIT = ("L with a transparent level", "RGBA", "LA", "P with a transparent colour", "P with transparent colours")
DEEP = ("I;16", "I")


def opened(name: str) -> PILImage.Image:
    return PILImage.open(io.BytesIO(CASES[name][0]))


@pytest.mark.parametrize("name", CASES)
def test_an_image_is_read_as_pipelines_read_it_or_refused_with_what_to_do(
    make_examples: MakeExamples, name: str
) -> None:
    examples = make_examples([CASES[name][0]])
    if name in (*UNFIT, *DEEP):
        message = error_of(examples.image, 0)
        assert (
            "The image in row 0 has " in message and "python -m training.convert_images FOLDER NEW_FOLDER" in message
        )
        assert ("--transparency drop" in message) == (name in UNFIT)
        examples = replace(examples, transparency="drop")
    if name in DEEP:
        assert "more than 8 bits" in error_of(examples.image, 0)
    else:
        assert (np.asarray(examples.image(0)) == np.asarray(load_image(opened(name)))).all()


@pytest.mark.parametrize("alpha", [255, 254])
def test_only_pixels_that_are_not_opaque_are_refused(make_examples: MakeExamples, alpha: int) -> None:
    pixels = np.full((SIDE, SIDE, 4), 255, dtype=np.uint8)
    pixels[3, 4, 3] = alpha
    examples = make_examples([PILImage.fromarray(pixels)])
    if alpha == 255:
        assert examples.image(0).mode == "RGB"
    else:
        assert "transparent pixels" in error_of(examples.image, 0)


@pytest.mark.parametrize("name", CASES)
def test_the_converter_makes_what_a_viewer_shows(name: str) -> None:
    converted = to_8_bit_rgb(opened(name))
    assert converted.mode == "RGB"
    assert np.abs(np.asarray(converted).astype(float) - CASES[name][1]).max() <= 1


def test_a_folder_is_converted_whole_and_only_where_it_needs_it(
    tmp_path: Path, make_examples: MakeExamples, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "images", tmp_path / "converted"
    for number, name in enumerate(CASES):
        file = source / "train" / f"class {number % 2}" / f"{number}.{opened(name).format}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(CASES[name][0])
    assert convert_images.main([str(source), str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: {len(CASES)} images, {len(UNFIT) + len(DEEP)} of them converted\n"
    for number, name in enumerate(CASES):
        (file,) = (target / "train" / f"class {number % 2}").glob(f"{number}.*")
        assert make_examples([file.read_bytes()]).image(0).mode == "RGB"
        assert (file.read_bytes() == CASES[name][0]) == (name not in (*UNFIT, *DEEP))
    # Neither an existing folder nor one with an image of unknown range is left half done.
    assert convert_images.main([str(source), str(target)]) == 2 and "exists already" in capsys.readouterr().err
    PILImage.fromarray(np.full((4, 4), 0.5, np.float32)).save(source / "train" / "class 0" / "x.tiff")
    assert convert_images.main([str(source), str(tmp_path / "other")]) == 2
    assert "x.tiff cannot be converted (pixels of mode F" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"images", "converted"}


def test_a_photo_is_turned_as_its_camera_says_and_keeps_its_size(
    make_examples: MakeExamples, noise_image: NoiseImage, encode_image: Callable[..., bytes]
) -> None:
    image, exif = noise_image(1, 6, 4), PILImage.Exif()
    exif[0x0112] = 6  # To be turned by a quarter, clockwise.
    turned = make_examples([encode_image(image, exif=exif)]).image(0)
    assert (np.asarray(turned) == np.rot90(np.asarray(image), -1)).all()


def test_images_read_together_are_those_read_alone(make_examples: MakeExamples, noise_image: NoiseImage) -> None:
    examples = make_examples([noise_image(0), noise_image(1), noise_image(2, width=9), noise_image(3).convert("L")])
    positions = [3, 0, 2, 3]
    together = examples.images_at(np.array(positions))
    assert [image.mode for image in together] == ["RGB"] * 4
    assert [image.tobytes() for image in together] == [examples.image(position).tobytes() for position in positions]


# Broken images.


def error_of(read: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_truncated_image_is_named_by_its_row_in_the_data_set(
    make_examples: MakeExamples, encode_image: Callable[..., bytes], noise_image: NoiseImage, file_format: str
) -> None:
    whole = encode_image(noise_image(0), file_format)
    examples = make_examples([whole, whole[: len(whole) // 2], whole], source_indices=[7, 4321, 9])
    assert examples.image(0).size == (SIDE, SIDE)
    for message in (error_of(examples.image, 1), error_of(examples.images_at, [2, 1, 0])):
        assert message.startswith("The image in row 4321 cannot be read (")
        assert message.endswith("repair or remove it.")
    assert len(examples.images_at([2, 0])) == 2


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + b"\0" * 99, None])
def test_what_is_no_image_is_named(make_examples: MakeExamples, content: bytes | None) -> None:
    assert "row 0 cannot be read" in error_of(make_examples([content]).image, 0)


def test_an_image_too_large_to_be_decoded_is_named(
    make_examples: MakeExamples, noise_image: NoiseImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = make_examples([noise_image(0)])
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 10)
    assert "row 0 cannot be read" in error_of(examples.image, 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", FORMATS)
def test_damaged_bytes_give_an_rgb_image_or_the_one_line_error(
    make_examples: MakeExamples, encode_image: Callable[..., bytes], noise_image: NoiseImage, file_format: str
) -> None:
    whole, random = encode_image(noise_image(0, 8, 8), file_format), np.random.default_rng(0)
    contents = []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, min(len(whole), 120), size=random.integers(1, 6)):
            damaged[place] = random.integers(256)
        contents.append(bytes(damaged))
    examples = make_examples(contents)
    refused = 0
    for position in range(len(contents)):
        try:
            assert examples.image(position).mode == "RGB"
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused
