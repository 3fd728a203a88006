"""
What a folder of images holds: every file with its split and class, or the reason why it is left out.

The folder directly below the root is the split, and the folder that holds the image is its class, whatever either is
called further down: `train/train/1.jpg` is a training image of the class `train`. Where no such folder is called like
a split, all images are of the training split.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unicodedata import normalize

from PIL import Image

from hub.run.errors import InputError
from hub.run.text import printable, shorten


#: Names of the top folder -> the split, in any case.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
#: Files that systems leave behind, which nobody means.
_RUBBISH = {"thumbs.db", "desktop.ini"}
#: Files of a table or an archive: the folder is not one of plain images.
_TABLES = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".tar", ".zip")
#: Formats that Pillow recognises without reading them, or that are documents.
_NOT_IMAGES = {"PDF", "HDF5", "BUFR", "GRIB", "MPEG", "WMF", "EPS"}


@dataclass(frozen=True)
class Entry:
    """
    A file of the folder.

    Args:
        path (`Path`): where it is.
        split (`str`, *optional*): `train`, `test` or `validation`; None where it is in none.
        class_name (`str`, *optional*): None where it is left out.
        reason (`str`, *optional*): why it is left out; None for an image that is used.
    """

    path: Path
    split: str | None
    class_name: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Inventory:
    """
    The files of a folder of images.

    Args:
        root (`Path`): the folder.
        entries (`Sequence[Entry]`): its files in the order of their names, without what systems leave behind.
        has_splits (`bool`): whether a folder directly below the root is called like a split.
    """

    root: Path
    entries: Sequence[Entry]
    has_splits: bool

    @classmethod
    def read(cls, root: Path) -> "Inventory":
        """Looks at the names of all files below a folder."""
        paths = list(_files(root))
        has_splits = any(
            _split_of(root, path) and _num_folders(root, path) > 1 for path in paths if _is_readable(path)
        )
        return cls(root, [_entry(root, path, has_splits) for path in paths], has_splits)

    @property
    def is_of_plain_images(self) -> bool:
        """
        Whether these are plain images, one class a folder. Not where the labels are in a table beside the images
        (`metadata.csv`), and not where there are tables or archives alone.
        """
        tables = [entry.path for entry in self.entries if entry.path.suffix.lower() in _TABLES]
        if any(path.stem.lower() == "metadata" for path in tables):
            return False
        if self.splits and self.has_splits:
            return True
        return not tables and self.has_images

    @property
    def has_images(self) -> bool:
        """Whether Pillow can open a file of the folder, used or not."""
        return any(_is_readable(entry.path) for entry in self.entries)

    def images(self, split: str) -> list[Entry]:
        """The images of a split, in the order of their names."""
        return [entry for entry in self.entries if entry.split == split and entry.reason is None]

    @property
    def splits(self) -> list[str]:
        """The splits that have an image."""
        found = {entry.split for entry in self.entries if entry.reason is None}
        return [split for split in dict.fromkeys(SPLITS.values()) if split in found]

    def notes(self) -> list[str]:
        """What is left out, a line for each reason, the folders that give no image, and classes of several folders."""
        examples: dict[str, list[str]] = {}
        for entry in self.entries:
            if entry.reason is not None:
                examples.setdefault(entry.reason, []).append(str(entry.path.relative_to(self.root)))
        lines = [
            f"Left out: {len(names)} file(s) {reason}: {shorten(names, 80)}" for reason, names in examples.items()
        ]
        if empty := self._folders_without_image():
            lines.append(f"Left out: {len(empty)} folder(s) without an image that can be read: {shorten(empty, 80)}")
        return [*lines, *self._classes_of_several_folders()]

    def _classes_of_several_folders(self) -> list[str]:
        folders: dict[tuple[str | None, str | None], set[str]] = {}
        for entry in self.entries:
            if entry.reason is None:
                place = str(entry.path.parent.relative_to(self.root))
                folders.setdefault((entry.split, entry.class_name), set()).add(place)
        return [
            f"Class {printable(str(name))} is made of {len(places)} folders: {shorten(sorted(places), 80)}"
            for (_, name), places in folders.items()
            if len(places) > 1
        ]

    def _folders_without_image(self) -> list[str]:
        """Folders below a split that hold files, but no image that is used, neither themselves nor further down."""
        used: set[Path] = set()
        for entry in self.entries:
            if entry.reason is None:
                used.update(entry.path.parents)
        folders = {entry.path.parent for entry in self.entries if entry.split is not None}
        depths = {folder: len(folder.relative_to(self.root).parts) for folder in folders - used}
        return [str(folder.relative_to(self.root)) for folder in sorted(depths) if depths[folder] > self.has_splits]

    def check_is_no_parent(self) -> None:
        """
        Checks that the folder is not one above a folder with splits, whose test images would be learned from.

        Raises:
            InputError: it is.
        """
        for entry in self.entries if not self.has_splits else ():
            folders = entry.path.relative_to(self.root).parts[:-1]
            for place, name in enumerate(folders[1:-1], start=1):
                if name.lower() in SPLITS:
                    inside = self.root.joinpath(*folders[:place])
                    raise InputError(
                        f"--dataset_name {self.root} holds a folder with splits, {inside}: name that one, or move its "
                        f"folder {name}."
                    )

    def check_in_one_split(self) -> None:
        """
        Checks that no image is both learned and tested on: links may lead from two splits to one file.

        Raises:
            InputError: one file is in two splits.
        """
        places = {folder: os.path.realpath(folder) for folder in {entry.path.parent for entry in self.entries}}
        seen: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.reason is not None:
                continue
            place = os.path.join(places[entry.path.parent], entry.path.name)
            other = seen.setdefault(os.path.realpath(place) if entry.path.is_symlink() else place, entry)
            if other.split != entry.split:
                paths = [str(each.path.relative_to(self.root)) for each in (other, entry)]
                raise InputError(
                    f"--dataset_name {self.root}: {paths[0]} and {paths[1]} are the same file, in two splits: remove "
                    "one of the two."
                )


def image_files(root: Path) -> list[Path]:
    """All files below a folder that Pillow can open, in the order of their names."""
    return [path for path in _files(root) if _is_readable(path)]


def _files(root: Path) -> list[Path]:
    """All files below a folder in the order of their names, links followed; hidden ones and rubbish left out."""
    return sorted(_walk(root, frozenset()), key=Path.as_posix)


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    place = os.path.realpath(folder)
    if place in above:
        # A link to a folder above it.
        return
    with os.scandir(folder) as found:
        for item in found:
            path = Path(item.path)
            if _is_hidden(path) or item.name.lower() in _RUBBISH:
                continue
            if item.is_dir():
                yield from _walk(path, above | {place})
            else:
                yield path


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.startswith("__")


def _entry(root: Path, path: Path, has_splits: bool) -> Entry:
    split = _split_of(root, path) if has_splits else "train"
    if not _is_readable(path):
        kind = path.suffix or "no suffix"
        return Entry(path, split, reason=f"of a kind that cannot be read ({kind})")
    if split is None:
        return Entry(path, None, reason="outside the folders of the splits")
    if _num_folders(root, path) < 1 + has_splits:
        place = "the folder of a split" if has_splits else "the data folder"
        return Entry(path, split, reason=f"in {place}, but of no class")
    return Entry(path, split, normalize("NFC", path.parent.name))


def _split_of(root: Path, path: Path) -> str | None:
    folders = path.relative_to(root).parts[:-1]
    return SPLITS.get(folders[0].lower()) if folders else None


def _num_folders(root: Path, path: Path) -> int:
    return len(path.relative_to(root).parts) - 1


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in _readable_suffixes()


@cache
def _readable_suffixes() -> frozenset[str]:
    """Suffixes of the image files that Pillow opens."""
    Image.init()
    suffixes = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in suffixes.items() if kind in Image.OPEN and kind not in _NOT_IMAGES)
