"""What the revisions of a step hold: the files of its folder, and the exemplars of its rehearsal memory."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hub.cards.memory_card import render_memory_card
from hub.cards.model_card import card_for, render_card
from hub.publishing.destination import Destination, RepoType
from hub.publishing.local_file import LocalFile
from hub.publishing.secrets import holds_token
from hub.run.atomic import write_aside
from hub.run.errors import PublishError, StepFolderError
from hub.run.layout import CARD_FILE, MEMORY_FILE, memory_file, step_name
from hub.run.step_folder import FIGURES, StepFolder
from hub.run.steps_file import StepEntry


@dataclass(frozen=True)
class StepContent:
    """
    What the revision of a step holds.

    Args:
        step (`int`): number of the step, from 1.
        files (`dict[str, LocalFile]`): path in the repository -> file; nothing else stays on `main`.
        title (`str`): title of the commit.
        first_own_step (`int`, *optional*, defaults to 1): first step of the run, greater than 1 if it continues a
            published model.
        earlier_steps (`Sequence`, *optional*): the steps before `first_own_step` as recorded in `results.json`, if the
            run continues a published model.
        folder (`Path`, *optional*): the step folder, where it has to hold the same files.
        entry (`StepEntry`, *optional*): what `steps.json` says of the step; None for a memory, which has no such file.
    """

    step: int
    files: dict[str, LocalFile]
    title: str
    first_own_step: int = 1
    earlier_steps: Sequence[Any] | None = None
    folder: Path | None = None
    entry: StepEntry | None = None

    @property
    def tag(self) -> str:
        """The name of the revision: `step{t}`."""
        return step_name(self.step)

    def with_card(self, text: str) -> "StepContent":
        """The same with another card."""
        return replace(self, files=self.files | {CARD_FILE: LocalFile(text.encode())})

    def update_folder(self) -> None:
        """Writes the files that the folder lacks, or holds with other content, so that it equals the revision."""
        for name, file in self.files.items():
            if self.folder is None or isinstance(file.source, Path):
                continue
            path = self.folder / name
            if not path.is_file() or path.read_bytes() != file.source:
                path.parent.mkdir(exist_ok=True)
                write_aside(path, file.source)


def run_contents(folders: Sequence[StepFolder], destination: Destination) -> dict[RepoType, list[StepContent]]:
    """
    What the repositories of a run have to hold, step by step; the models come first.

    Raises:
        `StepFolderError`: a folder is inconsistent, or the memory of its step is missing.
        `PublishError`: a file contains a token of the Hub.
    """
    contents: dict[RepoType, list[StepContent]] = {"model": [model_content(folder, destination) for folder in folders]}
    if destination.push_memory:
        contents["dataset"] = [memory_content(folder, destination) for folder in folders]
    return contents


def model_content(folder: StepFolder, destination: Destination) -> StepContent:
    """
    What the revision of a step's model holds: the files of its folder, a card that names the destination, and the
    figures. Writes nothing: [`StepContent.update_folder`] brings the folder up to date.

    Raises:
        `StepFolderError`: the folder is inconsistent.
        `PublishError`: a file contains a token of the Hub.
    """
    files = {path: LocalFile(file) for path, file in folder.published_files().items()}
    files |= {path: LocalFile(content) for path, content in _card_and_figures(folder, destination).items()}
    for path, file in files.items():
        is_text = Path(path).suffix in (".csv", ".json", ".md", ".py", ".yaml")
        if is_text and holds_token(file.read(), destination.secret):
            raise PublishError(f"{folder.path.name}/{path} holds a Hub token, remove it before publishing")
    results = folder.results
    return StepContent(
        folder.step,
        files,
        title=f"Step {folder.step}: {results.last.num_seen_classes} classes, accuracy {results.last.accuracy_text()}",
        first_own_step=results.first_own_step,
        earlier_steps=[asdict(step) for step in results.steps[: results.first_own_step - 1]] or None,
        folder=folder.path,
        entry=StepEntry.of(results, folder.confusion, destination.memory_repo_id if destination.push_memory else None),
    )


def memory_content(folder: StepFolder, destination: Destination) -> StepContent:
    """
    What the revision of a step's rehearsal memory holds: `OUTPUT_DIR/memory/step{t}.parquet` and a card.

    Raises:
        `StepFolderError`: the run has no memory of this step.
    """
    file = memory_file(folder.path.parent, folder.step)
    if not file.is_file() or file.is_symlink():
        raise StepFolderError(
            f"memory/{file.name} is missing or a link: the run keeps no rehearsal memory or lost it; publish without "
            "--push_memory"
        )
    card = render_memory_card(folder, destination.hub_model_id, destination.memory_repo_id)
    return StepContent(
        folder.step,
        {MEMORY_FILE: LocalFile(file), CARD_FILE: LocalFile(card.encode())},
        title=f"Step {folder.step}: exemplars of {folder.results.last.num_seen_classes} classes",
        first_own_step=folder.results.first_own_step,
    )


def missing_files(folder: StepFolder) -> list[str]:
    """Which of the card and the figures a step folder lacks."""
    return [name for name in (CARD_FILE, *FIGURES) if not (folder.path / name).is_file()]


def _card_and_figures(folder: StepFolder, destination: Destination) -> dict[str, bytes]:
    """The card as it names the destination, and the figures that the folder lacks."""
    missing = missing_files(folder)
    if not missing:
        return {CARD_FILE: card_for(folder, destination.hub_model_id).encode()}
    # Drawing needs matplotlib, which takes seconds to import.
    from hub.cards.figures import draw_figures

    # In a copy, as a plan must not change the folder.
    with TemporaryDirectory() as name:
        copy = replace(folder, path=Path(name))
        draw_figures(folder.results, copy.path, folder.other_runs, folder.drawn_confusion)
        for path, file in folder.published_files().items():
            if file.suffix != ".safetensors":
                shutil.copyfile(file, copy.path / path)
        if CARD_FILE in missing:
            card = render_card(copy, destination.hub_model_id)
        else:
            card = card_for(folder, destination.hub_model_id)
        drawn = {path.relative_to(copy.path).as_posix(): path.read_bytes() for path in copy.path.glob("figures/*")}
    return {path: content for path, content in drawn.items() if not (folder.path / path).is_file()} | {
        CARD_FILE: card.encode()
    }
