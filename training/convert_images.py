"""
Converts a folder of images to what every user of a model sees: 8 bits, opaque, RGB, upright.

    python -m training.convert_images data/xrays data/xrays_rgb
    python -m training.convert_images icons icons_rgb --background black

Transparent pixels show the background; 16-bit grey is scaled to 8 bits. Images that need nothing are copied as they
are. The folders below stay the same.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

from hub.run.atomic import PARTIAL
from hub.run.errors import InputError, UserError, one_line
from training.data.examples import to_rgb
from training.data.inventory import image_files


def convert_folder(source: Path, target: Path, background: str = "white") -> tuple[int, int]:
    """
    Converts all images below a folder. The new folder appears when all is done.

    Args:
        source (`Path`): the folder of images.
        target (`Path`): the folder to make.
        background (`str`): colour, as Pillow names it, that transparent pixels show.

    Returns:
        `tuple[int, int]`: images, and how many of them were changed.

    Raises:
        InputError: a folder cannot be used, or an image cannot be converted.
    """
    if not source.is_dir():
        raise InputError(f"{source} is not a folder: give a folder of images.")
    if target.exists():
        raise InputError(f"{target} exists already: give a folder that does not.")
    files = image_files(source)
    if not files:
        raise InputError(f"{source} holds no image that can be read: give a folder of images.")
    partial = target.with_name(f".{target.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    num_changed = 0
    try:
        for file in files:
            num_changed += _convert(file, partial / file.relative_to(source), background)
        partial.rename(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}): choose another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(files), num_changed


def to_8_bit_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """
    An image of any mode as opaque 8-bit RGB.

    Args:
        image (`PIL.Image.Image`): as Pillow opens it.
        background (`str`): colour that transparent pixels show.

    Raises:
        ValueError: its pixels are fractions, or numbers larger than 16 bits: how bright they are is not known.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _scaled_to_8_bits(image).convert("RGB")
    if "transparency" in image.info or {"A", "a"} & set(image.getbands()):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode}, expected 8 or 16 bits")
    return Image.fromarray(np.rint(grey / 257).astype(np.uint8))


def _convert(source: Path, target: Path, background: str) -> bool:
    """Writes one image; returns whether it was changed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Image.open(source) as image:
            image.load()
            if _is_fit(image):
                shutil.copyfile(source, target)
                return False
            # The whole old name stays, as another file may have it with the new ending.
            target = target if target.suffix.lower() == ".png" else target.with_name(f"{target.name}.png")
            to_8_bit_rgb(image, background).save(target, "PNG")
            return True
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"{source} cannot be read ({one_line(error)}): repair or remove it.") from error
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{source} cannot be converted ({one_line(error)}): repair or remove it.") from error


def _is_fit(image: Image.Image) -> bool:
    try:
        to_rgb(image)
    except ValueError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m training.convert_images`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.convert_images",
        description="Converts a folder of images to opaque 8-bit RGB, the right way up, into a new folder.",
    )
    parser.add_argument("source", type=Path, metavar="FOLDER", help="folder of images")
    parser.add_argument("target", type=Path, metavar="NEW_FOLDER", help="folder to make")
    parser.add_argument("--background", default="white", help="colour that transparent pixels show (default: white)")
    options = parser.parse_args(arguments)
    try:
        ImageColor.getrgb(options.background)
        num_images, num_changed = convert_folder(
            options.source.expanduser(), options.target.expanduser(), options.background
        )
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except ValueError:
        sys.stderr.write(f"error: --background {options.background} is not a colour: give e.g. white or #ffffff.\n")
        return 2
    sys.stdout.write(f"{options.target}: {num_images} images, {num_changed} of them converted\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
