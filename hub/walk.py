"""
Loads the revisions of a run in order, from the Hub or a folder, and prints what each of them knows.

    python -m hub.walk org/name --image photo.png
    python -m hub.walk org/name --list    # what was recorded of them, without loading one
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from transformers.image_utils import load_image
from transformers.utils import logging

from hub.publishing.client_errors import one_line_errors, quiet_client
from hub.publishing.listing import published_steps
from hub.publishing.remote import RemoteRun
from hub.run.errors import StepFolderError, UserError
from hub.run.layout import RESULTS_FILE, step_name
from hub.run.results import RunResults
from hub.run.schema import read_json
from hub.run.step_folder import list_step_folders
from hub.run.steps_file import StepEntry
from hub.run.text import is_repo_id, shorten


_CLASSES_WIDTH = 40
_LABEL_WIDTH = 24


@dataclass(frozen=True)
class Revision:
    """
    One step of a run, with what `from_pretrained` needs to load it.

    Args:
        name (`str`): `step{t}`.
        source (`str`): a step folder, or a repository.
        revision (`str`, *optional*): of the repository.
    """

    name: str
    source: str
    revision: str | None = None

    def results(self) -> RunResults:
        """
        The results up to this step, as stored beside its weights.

        Raises:
            StepFolderError: there are none, or they break the schema.
        """
        if self.revision is None:
            return RunResults.read(Path(self.source) / RESULTS_FILE)
        try:
            path = hf_hub_download(self.source, RESULTS_FILE, revision=self.revision)
        except RemoteEntryNotFoundError:
            raise StepFolderError(f"{self.name} of {self.source} has no {RESULTS_FILE}") from None
        return RunResults.from_dict(read_json(Path(path)), f"{self.name} of {self.source}: {RESULTS_FILE}")


@dataclass(frozen=True)
class RevisionSummary:
    """
    What a revision knows.

    Args:
        name (`str`): `step{t}`.
        class_names (`list[str]`): by label id.
        num_parameters (`int`): of the model.
        accuracy (`str`): on the test images, for a reader.
        predictions (`list[tuple[str, float]]`): for each image the predicted class and its score in 0..1.
    """

    name: str
    class_names: list[str]
    num_parameters: int
    accuracy: str
    predictions: list[tuple[str, float]]


def list_revisions(source: str) -> list[Revision]:
    """
    The steps of a run in order.

    Args:
        source (`str`): `OUTPUT_DIR` of a run, or `namespace/name` of its repository. A folder wins.

    Raises:
        UserError: there is no such run, or it has no step yet.
    """
    if Path(source).is_dir():
        revisions = [Revision(folder.tag, str(folder.path)) for folder in list_step_folders(source)]
    else:
        tags = sorted(_repository(source).tags)
        revisions = [Revision(step_name(step), source, step_name(step)) for step in tags]
    if not revisions:
        raise UserError(f"{source} has no step yet, expected at least step1")
    return revisions


def list_steps(source: str) -> list[StepEntry]:
    """
    What was recorded of each step of a run, in order, without loading a model; the commits are those of a repository.

    Args:
        source (`str`): see [`list_revisions`].

    Raises:
        UserError: there is no such run, or it has no step yet.
    """
    if Path(source).is_dir():
        entries = [StepEntry.of(folder.results, folder.confusion) for folder in list_step_folders(source)]
    else:
        remote = _repository(source)
        with one_line_errors(f"list the steps of {source}", source):
            entries = published_steps(remote)
    if not entries:
        raise UserError(f"{source} has no step yet, expected at least step1")
    return entries


def _repository(source: str) -> RemoteRun:
    if not is_repo_id(source):
        raise UserError(f"{source!r} is neither a folder nor a repository id namespace/name")
    with one_line_errors(f"list the revisions of {source}", source):
        run = RemoteRun.read(HfApi(), source)
    if not run.exists:
        raise UserError(f"{source} is neither a folder nor a repository that your token can read")
    return run


def select(revisions: list[Revision], name: str | None) -> list[Revision]:
    """
    The revision with this name, or all where none is given.

    Raises:
        UserError: there is no such revision.
    """
    chosen = [revision for revision in revisions if name in (None, revision.name)]
    if not chosen:
        names = ", ".join(revision.name for revision in revisions)
        raise UserError(f"there is no revision {name!r}, expected one of: {names}")
    return chosen


def load_model(revision: Revision, *, remote_code: bool = False) -> tuple[Any, Any, RunResults]:
    """
    Loads a revision as any user would, through the Auto classes.

    Args:
        revision (`Revision`): the revision.
        remote_code (`bool`, *optional*, defaults to `False`): run the code stored beside the weights in place of the
            `modeling_dytox` package.

    Returns:
        `tuple[PreTrainedModel, BaseImageProcessor, RunResults]`: the model in eval mode, its image processor, and the
        results up to its step.

    Raises:
        UserError: the revision cannot be loaded.
    """
    if not remote_code:
        importlib.import_module("modeling_dytox")
    where: dict[str, Any] = {"revision": revision.revision} if revision.revision else {}
    with one_line_errors(f"load {revision.name} of {revision.source}", revision.source):
        results = revision.results()
        model = AutoModelForImageClassification.from_pretrained(
            revision.source, trust_remote_code=remote_code, **where
        ).eval()
        processor = AutoImageProcessor.from_pretrained(revision.source, **where)
    return model, processor, results


def load(revision: Revision, images: Sequence[Image.Image] = (), *, remote_code: bool = False) -> RevisionSummary:
    """
    Loads a revision and classifies the images.

    Args:
        revision, remote_code: see [`load_model`].
        images (`Sequence[Image]`, *optional*): RGB images of any size.

    Raises:
        UserError: the revision cannot be loaded.
    """
    model, processor, results = load_model(revision, remote_code=remote_code)
    classifier = pipeline("image-classification", model=model, image_processor=processor)
    return RevisionSummary(
        name=revision.name,
        class_names=[model.config.id2label[label] for label in range(model.config.num_labels)],
        num_parameters=model.num_parameters(),
        accuracy=results.last.accuracy_text("{:.1%}".format),
        predictions=[_predict(classifier, image) for image in images],
    )


def _predict(classifier: Any, image: Image.Image) -> tuple[str, float]:
    (best,) = classifier(image, top_k=1)
    return best["label"], best["score"]


def show_revisions(
    source: str, name: str | None = None, image_files: Sequence[str] = (), *, remote_code: bool = False
) -> str:
    """
    Loads the revisions of a run in order.

    Args:
        source (`str`): see [`list_revisions`].
        name (`str`, *optional*): only the revision with this name.
        image_files (`Sequence[str]`, *optional*): images to classify.
        remote_code (`bool`, *optional*, defaults to `False`): see [`load`].

    Returns:
        `str`: a table with a row for each revision.

    Raises:
        UserError: a revision or an image cannot be loaded.
    """
    revisions = select(list_revisions(source), name)
    images = list(_open_images(image_files))
    rows = [load(revision, images, remote_code=remote_code) for revision in revisions]
    return table(rows, [Path(file).name for file in image_files])


def table(rows: list[RevisionSummary], image_names: Sequence[str] = ()) -> str:
    """The revisions as an aligned table of plain text, a column for each image."""
    header = [
        "revision",
        "classes",
        "parameters",
        "accuracy",
        *(shorten([name], _LABEL_WIDTH) for name in image_names),
    ]
    return _aligned([header, *(_cells(row) for row in rows)])


def list_table(entries: Sequence[StepEntry]) -> str:
    """What was recorded of each step as an aligned table of plain text."""
    header = ["revision", "commit", "classes", "Last", "Avg", "forgetting", "exemplars"]
    return _aligned([header, *(_recorded_cells(entry) for entry in entries)])


def _recorded_cells(entry: StepEntry) -> list[str]:
    count = f"{entry.num_seen_classes}: "
    fractions = (entry.accuracy, entry.average_incremental_accuracy, entry.forgetting)
    return [
        entry.tag,
        (entry.commit or "–")[:8],
        count + shorten([f"+{name}" for name in entry.classes], _CLASSES_WIDTH - len(count)),
        *("–" if value is None else f"{value:.1%}" for value in fractions),
        "–" if entry.memory_size is None else f"{entry.memory_size:,}",
    ]


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cells(row: RevisionSummary) -> list[str]:
    count = f"{len(row.class_names)}: "
    return [
        row.name,
        count + shorten(row.class_names, _CLASSES_WIDTH - len(count)),
        f"{row.num_parameters:,}",
        row.accuracy,
        *(f"{shorten([name], _LABEL_WIDTH)} ({score:.0%})" for name, score in row.predictions),
    ]


def _open_images(paths: Sequence[str]) -> Iterator[Image.Image]:
    for path in paths:
        try:
            with Image.open(path) as image:
                # As a pipeline reads it.
                yield load_image(image)
        except OSError as error:
            reason = error.strerror or "not an image that Pillow reads"
            raise UserError(f"--image {path} cannot be read: {reason}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hub.walk", description="Load the revisions of a run in order and print what each one knows."
    )
    parser.add_argument("source", help="--output_dir of a run, or namespace/name of its repository")
    parser.add_argument("--revision", help="only this one, such as step3; default: all")
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="images that every revision classifies")
    parser.add_argument(
        "--list", action="store_true", help="print what was recorded of all steps, and load none; alone"
    )
    parser.add_argument(
        "--remote_code",
        action="store_true",
        help="run the code stored beside the weights (read it first) in place of the modeling_dytox package",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m hub.walk`; returns the exit status."""
    options = _parser().parse_args(arguments)
    quiet_client()
    logging.disable_progress_bar()
    try:
        if options.list:
            if options.revision or options.image or options.remote_code:
                raise UserError("--list loads no revision: leave out --revision, --image and --remote_code")
            shown = list_table(list_steps(options.source))
        else:
            shown = show_revisions(options.source, options.revision, options.image, remote_code=options.remote_code)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{shown}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
