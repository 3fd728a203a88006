"""The step folder `OUTPUT_DIR/step{t}/`: what it must hold, and which of its files may be published."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hub.run.confusion import Confusion
from hub.run.errors import StepFolderError
from hub.run.layout import (
    CARD_FILE,
    CONFIG_FILE,
    CONFUSION_FILE,
    PROCESSOR_FILE,
    RECIPE_FILE,
    RESULTS_FILE,
    SEEDS_FILE,
    STATISTICS_FILE,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
    step_name,
    step_number,
)
from hub.run.model_config import ModelConfig
from hub.run.results import RunResults
from hub.run.schema import decode, read_json, short_name
from hub.run.seed_results import OtherRun, read_other_runs
from hub.run.text import short_repr


FIGURES = ("figures/accuracy_per_step.png", "figures/accuracy_matrix.png")
#: Drawn where the run recorded the bins of its calibration error: a folder is complete without it.
CALIBRATION_FIGURE = "figures/calibration.png"
#: Drawn where the run recorded `confusion.csv`, of classes that are not too many: a folder is complete without it.
CONFUSION_FIGURE = "figures/confusion_matrix.png"
#: With more, a class has less than a dot of a printed page, and the matrix needs gigabytes.
MAX_CONFUSION_CLASSES = 2000

#: Written by training before the card is made, beside the weights and the code that the config names.
TRAINED_FILES = (CONFIG_FILE, PROCESSOR_FILE, RESULTS_FILE, RECIPE_FILE)

_SHARDS = "model-*-of-*.safetensors"
#: Patterns of all that may be published beside the code (`*` stays within a folder). Nothing else is, and nothing
#: hidden.
PUBLISHED_FILES = (
    *TRAINED_FILES,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
    _SHARDS,
    STATISTICS_FILE,
    CONFUSION_FILE,
    SEEDS_FILE,
    CARD_FILE,
    "figures/*.png",
)


@dataclass(frozen=True)
class StepFolder:
    """
    A step folder whose files have been read and found consistent.

    Args:
        path (`Path`): the folder.
        results (`RunResults`): of the run up to this step.
        config (`ModelConfig`): of the model.
        other_runs (`Sequence[OtherRun]`, *optional*): those of the same recipe with other seeds, if some were added.
        confusion (`Confusion`, *optional*): after the step, if it was recorded.
    """

    path: Path
    results: RunResults
    config: ModelConfig
    other_runs: Sequence[OtherRun] = ()
    confusion: Confusion | None = None

    @property
    def step(self) -> int:
        """The step whose model the folder holds, from 1."""
        return self.results.last.step

    @property
    def tag(self) -> str:
        """The name of the revision on the Hub: `step{t}`."""
        return step_name(self.step)

    @property
    def drawn_confusion(self) -> Confusion | None:
        """The confusion that is drawn; None where none was recorded, or the classes are too many to be told apart."""
        return self.confusion if self.results.last.num_seen_classes <= MAX_CONFUSION_CLASSES else None

    @classmethod
    def read(cls, path: str | Path) -> "StepFolder":
        """
        Reads a folder that training has filled; the card and the figures may still be missing.

        Args:
            path (`str` or `Path`): the folder.

        Raises:
            StepFolderError: a file is missing, damaged or a link, or disagrees with `results.json` on the classes.
        """
        path = Path(path)
        _require(path, _missing_files(path))
        _listed_files(path, PUBLISHED_FILES)
        results, config = RunResults.read(path / RESULTS_FILE), ModelConfig.read(path)
        config.check_classes([step.classes for step in results.steps], short_name(path / CONFIG_FILE))
        _require(path, [name for name in config.code_files(path) if not (path / name).is_file()])
        confusion = Confusion.read(path, results.class_names, results.last)
        folder = cls(path, results, config, read_other_runs(path, results.last.step), confusion)
        folder.published_files()
        return folder

    def published_files(self) -> dict[str, Path]:
        """
        The files that may be published: those of `PUBLISHED_FILES` that exist, and the code of the model.

        Returns:
            `dict[str, Path]`: path in the repository -> local file.

        Raises:
            StepFolderError: one of them is a link.
        """
        return _listed_files(self.path, (*PUBLISHED_FILES, *self.config.code_files(self.path)))


def list_step_folders(output_dir: str | Path, *, complete: bool = True) -> list[StepFolder]:
    """
    The step folders of a run in the order of the steps: those with card and figures, or with `complete=False` all that
    training has finished.

    Raises:
        StepFolderError: `output_dir` is no folder, a complete folder is inconsistent or bears another step's name.
    """
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        raise StepFolderError(f"{output_dir} is not a folder, expected the --output_dir of a run")
    numbered = [(step, path) for path in output_dir.iterdir() if (step := step_number(path.name)) is not None]
    is_listed = is_complete if complete else lambda path: not _missing_files(path)
    folders = [StepFolder.read(path) for _, path in sorted(numbered) if is_listed(path)]
    for folder in folders:
        if folder.path.name != folder.tag:
            raise StepFolderError(f"{folder.path.name} holds the results of {folder.tag}, expected {folder.path.name}")
    return folders


def is_complete(path: Path) -> bool:
    """Whether every file of a step folder is there, card and figures included."""
    return not _missing_files(path) and all((path / name).is_file() for name in (CARD_FILE, *FIGURES))


def _require(path: Path, missing: Sequence[str]) -> None:
    if missing:
        raise StepFolderError(f"{path.name} lacks {', '.join(missing)}: it is not a finished step folder")


def _listed_files(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    # `*` finds hidden files as well, such as those in which some systems keep where a file comes from.
    files = {file.relative_to(folder).as_posix(): file for file in sorted(found) if not file.name.startswith(".")}
    # The folder itself may be reached by links. Within it they could lead to anything that this user may read.
    for name, file in files.items():
        if file.resolve() != folder.resolve() / name:
            raise StepFolderError(
                f"{folder.name}/{name} is a link, expected a file: put a copy there if its content may be published"
            )
    return files


def _missing_files(path: Path) -> list[str]:
    missing = [name for name in TRAINED_FILES if not (path / name).is_file()]
    return [*missing, *(name for name in _weight_files(path) if not (path / name).is_file())]


def _weight_files(path: Path) -> Iterable[str]:
    index = path / WEIGHTS_INDEX_FILE
    if not index.is_file():
        return [WEIGHTS_FILE]
    shards = set(decode(_WeightsIndex, read_json(index), short_name(index)).weight_map.values())
    for name in shards:
        if not fnmatchcase(name, _SHARDS) or "/" in name:
            raise StepFolderError(f"{short_name(index)}: weight_map names {short_repr(name)}, expected {_SHARDS}")
    return sorted(shards) or [WEIGHTS_FILE]


@dataclass(frozen=True)
class _WeightsIndex:
    """The index of sharded weights: for each tensor the file that holds it."""

    weight_map: dict[str, str]
