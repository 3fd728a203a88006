"""The step folder `OUTPUT_DIR/step{t}/`: what it must hold, and which of its files may be published."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.run.errors import StepFolderError
from hub.run.results import RunResults, read_json
from hub.run.seed_results import OTHER_RUNS_FILE, OtherRun, read_other_runs


CARD = "README.md"
FIGURES = ("figures/accuracy_per_step.png", "figures/accuracy_matrix.png")
#: Drawn where the run recorded the bins of its calibration error: a folder is complete without it.
CALIBRATION_FIGURE = "figures/calibration.png"

#: Written by training before the card is made. The weights may also be sharded, see `PUBLISHED_FILES`.
TRAINED_FILES = (
    "config.json",
    "preprocessor_config.json",
    "configuration_dytox.py",
    "modeling_dytox.py",
    "results.json",
    "training_config.yaml",
)

#: Patterns of all that may go up (`*` stays within a folder). A file that matches none, or is hidden, never does.
PUBLISHED_FILES = (
    *TRAINED_FILES,
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    OTHER_RUNS_FILE,
    CARD,
    "figures/*.png",
)


@dataclass(frozen=True)
class StepFolder:
    """
    A step folder whose files have been read and found consistent. `step` is numbered from 1.

    `other_runs` are those of the same recipe with other seeds, if some were added.
    """

    path: Path
    results: RunResults
    other_runs: tuple[OtherRun, ...] = ()

    @property
    def step(self) -> int:
        """The step whose model the folder holds."""
        return self.results.last.step

    @property
    def tag(self) -> str:
        """The name of the revision on the Hub: `step{t}`."""
        return f"step{self.step}"

    @classmethod
    def read(cls, path: str | Path) -> "StepFolder":
        """
        Reads a folder that training has filled; the card and the figures may still be missing.

        Raises:
            StepFolderError: a file is missing or a link, or `config.json` and `results.json` disagree on the classes.
        """
        path = Path(path)
        if missing := _missing_files(path):
            raise StepFolderError(f"{path.name} lacks {', '.join(missing)}: it is not a finished step folder")
        _listed_files(path)
        results = RunResults.from_file(path / "results.json")
        _check_config(read_json(path / "config.json"), results, f"{path.name}/config.json")
        return cls(path, results, read_other_runs(path, results.last.step))

    def published_files(self) -> dict[str, Path]:
        """
        Path in the repository -> local file, for the files that exist and match `PUBLISHED_FILES`.

        Raises:
            StepFolderError: one of them is a link.
        """
        return _listed_files(self.path)


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
    numbered = [(int(match[1]), path) for path in output_dir.iterdir() if (match := _STEP_NAME.fullmatch(path.name))]
    is_listed = is_complete if complete else lambda path: not _missing_files(path)
    folders = [StepFolder.read(path) for _, path in sorted(numbered) if is_listed(path)]
    for folder in folders:
        if folder.path.name != folder.tag:
            raise StepFolderError(f"{folder.path.name} holds the results of {folder.tag}, expected {folder.path.name}")
    return folders


def is_complete(path: Path) -> bool:
    """Whether every file of a step folder is there, card and figures included."""
    return not _missing_files(path) and all((path / name).is_file() for name in (CARD, *FIGURES))


_STEP_NAME = re.compile(r"step([1-9][0-9]*)")


def _listed_files(folder: Path) -> dict[str, Path]:
    found = {file for pattern in PUBLISHED_FILES for file in folder.glob(pattern) if file.is_file()}
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
    return missing if _has_weights(path) else [*missing, "model.safetensors"]


def _has_weights(path: Path) -> bool:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return (path / "model.safetensors").is_file()
    shards = read_json(index).get("weight_map", {}).values()
    return bool(shards) and all((path / shard).is_file() for shard in shards)


def _check_config(config: dict[str, Any], results: RunResults, source: str) -> None:
    """
    Every step has a class range, and a task token unless `token_expansion` is off; only a joint model may know several
    steps by one of each.
    """
    id2label = config.get("id2label") or {}
    # A model of one step need not say so.
    ranges = [tuple(pair) for pair in config.get("class_ranges") or [(0, len(id2label))]]
    expected = _class_ranges(results)
    if results.method == "joint" and len(ranges) == 1:
        expected = [(0, results.last.num_seen_classes)]
    if ranges != expected:
        raise StepFolderError(f"{source}: class_ranges is {_brief(ranges)}, but results.json gives {_brief(expected)}")
    num_tokens, rule = len(ranges), "one a class range"
    if not config.get("token_expansion", True):
        num_tokens, rule = 1, "one for all steps, as token_expansion is false"
    if (found := config.get("num_task_tokens")) != num_tokens:
        raise StepFolderError(f"{source}: num_task_tokens is {found}, expected {rule}: {num_tokens}")
    _check_names(id2label, results.class_names, source)


def _class_ranges(results: RunResults) -> list[tuple[int, ...]]:
    return [(step.num_seen_classes - len(step.classes), step.num_seen_classes) for step in results.steps]


def _check_names(id2label: dict[str, str], names: list[str], source: str) -> None:
    if len(id2label) != len(names):
        raise StepFolderError(f"{source}: id2label has {len(id2label)} classes, but results.json has {len(names)}")
    for label, name in enumerate(names):
        if id2label.get(str(label)) != name:
            found = id2label.get(str(label))
            raise StepFolderError(f"{source}: id2label[{label}] is {found!r}, but results.json has {name!r}")


def _brief(ranges: list[tuple[int, ...]]) -> str:
    shown = [list(pair) for pair in ranges]
    return str(shown) if len(shown) <= 4 else f"{str(shown[:2])[:-1]}, …, {shown[-1]}] ({len(shown)} ranges)"
