"""What publishing reads of a model's `config.json`: its classes, and the files that hold its code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from hub.run.errors import StepFolderError
from hub.run.layout import CONFIG_FILE
from hub.run.schema import Count, decode, read_json, short_name
from hub.run.text import short_repr


# As transformers finds them, which loads no other files.
_RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)


@dataclass(frozen=True)
class EncoderConfig:
    """
    Some fields of the config of an encoder.

    Args:
        model_type (`str`): its architecture, as transformers calls it.
    """

    model_type: str


@dataclass(frozen=True)
class ModelConfig:
    """
    Some fields of a `config.json`, named as transformers names them.

    Args:
        id2label (`dict[str, str]`): class names by label id.
        auto_map (`dict[str, str]`): for each Auto class the `module.Class` of a file beside the config.
        class_ranges (`tuple[tuple[int, ...], ...]`, *optional*): for each step its half-open range of label ids. A
            model of one step may lack it.
        problem_type (`str`, *optional*): how scores come from logits.
        license (`str`, *optional*): of the weights, as the Hub names it.
        encoder_config (`EncoderConfig`, *optional*): of an encoder that is not the model's own.
        freeze_encoder (`bool`): whether it never trains, as it is pretrained.
        base_model, base_model_license (`str`, *optional*): repository and licence of a pretrained encoder.
    """

    id2label: dict[str, str]
    auto_map: dict[str, str]
    class_ranges: tuple[tuple[Count, ...], ...] | None = None
    problem_type: str | None = None
    license: str | None = None
    encoder_config: EncoderConfig | None = None
    freeze_encoder: bool = False
    base_model: str | None = None
    base_model_license: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "ModelConfig":
        """
        Reads the config of a step folder.

        Raises:
            StepFolderError: it cannot be read, or a field is missing or of another type.
        """
        path = folder / CONFIG_FILE
        return decode(cls, read_json(path), short_name(path))

    def check_classes(self, names: Sequence[Sequence[str]], source: str) -> None:
        """
        Checks that the model knows these classes.

        Args:
            names (`Sequence[Sequence[str]]`): the classes of each step, in the order of label ids.
            source (`str`): names the config in errors.

        Raises:
            StepFolderError: a class range or a class name differs.
        """
        stops = list(accumulate(map(len, names)))
        expected = list(zip([0, *stops], stops, strict=False))
        ranges = self.class_ranges or ((0, len(self.id2label)),)
        _expect_equal(source, "the number of class_ranges", len(ranges), len(expected))
        for step, pair in enumerate(ranges):
            _expect_equal(source, f"class_ranges[{step}]", list(pair), list(expected[step]))
        _expect_equal(source, "the number of classes in id2label", len(self.id2label), stops[-1])
        for label, name in enumerate(name for step in names for name in step):
            _expect_equal(source, f"id2label[{label}]", self.id2label.get(str(label)), name)

    def code_files(self, folder: Path) -> list[str]:
        """
        The files that `trust_remote_code` needs: those that `auto_map` names, and what these import from beside them.

        Args:
            folder (`Path`): holds the config and the code.

        Returns:
            `list[str]`: names of files in the folder, sorted; some may be missing.

        Raises:
            StepFolderError: `auto_map` names no file of the folder.
        """
        modules = [reference.rpartition(".")[0] for reference in self.auto_map.values()]
        if not modules or not all(map(str.isidentifier, modules)):
            raise StepFolderError(
                f"{short_name(folder / CONFIG_FILE)}: auto_map is {short_repr(self.auto_map)}, expected classes of "
                "files in this folder"
            )
        found: set[str] = set()
        while modules:
            module = modules.pop()
            if module not in found:
                found.add(module)
                modules += _imported(folder / f"{module}.py")
        return sorted(f"{module}.py" for module in found)


def _imported(path: Path) -> list[str]:
    """The modules that a file imports from beside it; none where it is missing or a link."""
    if path.is_symlink() or not path.is_file():
        return []
    return _RELATIVE_IMPORT.findall(path.read_text(encoding="utf-8", errors="replace"))


def _expect_equal(source: str, name: str, value: object, expected: object) -> None:
    if value != expected:
        raise StepFolderError(
            f"{source}: {name} is {short_repr(value)}, but results.json gives {short_repr(expected)}"
        )
