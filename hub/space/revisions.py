"""The revisions of a run, loaded when they are asked for; the last few stay in memory."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import PreTrainedModel

from hub.publishing.client_errors import one_line_errors
from hub.run.confusion import Confusion
from hub.run.errors import UserError
from hub.run.layout import CONFUSION_FILE, step_number
from hub.run.results import RunResults
from hub.run.steps_file import StepEntry
from hub.walk import Revision, list_revisions, list_steps, load_model


#: A revision of the paper's size takes some 50 MB; with a large pretrained encoder, a gigabyte.
KEPT = 3


@dataclass(frozen=True)
class LoadedRevision:
    """
    A step that can be asked.

    Args:
        step (`int`): its number, from 1.
        model (`PreTrainedModel`): in eval mode.
        processor (`BaseImageProcessor`): of its images.
        results (`RunResults`): up to the step.
    """

    step: int
    model: PreTrainedModel
    processor: Any
    results: RunResults


class Revisions:
    """
    The revisions of a run.

    Args:
        source (`str`): `namespace/name` of a repository, or the `OUTPUT_DIR` of a run.
        remote_code (`bool`, *optional*, defaults to `False`): run the code stored beside the weights.

    Raises:
        UserError: there is no such run, or it has no step yet.
    """

    def __init__(self, source: str, *, remote_code: bool = False) -> None:
        self.source = source
        self._remote_code = remote_code
        self._revisions = {_number(revision): revision for revision in list_revisions(source)}
        self.entries: list[StepEntry] = list_steps(source)
        self._loaded: OrderedDict[int, LoadedRevision] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def steps(self) -> list[int]:
        """Numbers of the steps, in order."""
        return list(self._revisions)

    @property
    def name(self) -> str:
        """The run as a title names it: a repository, or the folder without the way to it."""
        return Path(self.source).name if Path(self.source).is_dir() else self.source

    def load(self, step: int) -> LoadedRevision:
        """
        The model of a step.

        Raises:
            UserError: there is no such step, it cannot be loaded, or it is no model that learns step by step.
        """
        # One at a time: two visitors who ask for the same step shall not load it twice.
        with self._lock:
            if step not in self._loaded:
                self._loaded[step] = self._load(self._revision(step))
            self._loaded.move_to_end(step)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[step]

    def results(self, step: int) -> RunResults:
        """
        The results up to a step, without its model.

        Raises:
            UserError: they cannot be read.
        """
        revision = self._revision(step)
        with one_line_errors(f"read the results of {revision.name} of {self.name}", self.source):
            return revision.results()

    def confusion(self, step: int, results: RunResults) -> Confusion | None:
        """
        The confusion matrix of a step; None where none was recorded.

        Raises:
            UserError: it cannot be read.
        """
        folder = self._confusion_folder(self._revision(step))
        return Confusion.read(folder, results.class_names, results.last) if folder else None

    def _confusion_folder(self, revision: Revision) -> Path | None:
        if revision.revision is None:
            return Path(revision.source)
        with one_line_errors(f"read {CONFUSION_FILE} of {revision.name} of {self.name}", self.source):
            try:
                return Path(hf_hub_download(self.source, CONFUSION_FILE, revision=revision.revision)).parent
            except LocalEntryNotFoundError:
                # The client's name for a connection that failed.
                raise
            except EntryNotFoundError:
                return None

    def _revision(self, step: int) -> Revision:
        if step not in self._revisions:
            raise UserError(f"{self.name} has no step {step}, expected one of {', '.join(map(str, self.steps))}")
        return self._revisions[step]

    def _load(self, revision: Revision) -> LoadedRevision:
        model, processor, results = load_model(revision, remote_code=self._remote_code)
        if not hasattr(model.config, "class_ranges"):
            raise UserError(
                f"{revision.name} of {self.name} is a {model.config.model_type!r} without class_ranges, expected a "
                "model that learns step by step"
            )
        if len(results.class_names) != model.config.num_labels:
            raise UserError(
                f"{revision.name} of {self.name} knows {model.config.num_labels} classes, its results name "
                f"{len(results.class_names)}: publish the step again"
            )
        if getattr(model.config, "num_task_tokens", 0):
            # Other backends do not return the attention.
            model.set_attn_implementation("eager")
        return LoadedRevision(results.last.step, model, processor, results)


def _number(revision: Revision) -> int:
    return step_number(revision.name) or 0
