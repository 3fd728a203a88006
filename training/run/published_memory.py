"""The rehearsal memory of a published step, for a run that continues it."""

import hashlib
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging

from hub.run.errors import InputError, first_line
from hub.run.layout import MEMORY_FILE, MEMORY_SUFFIX, memory_file, step_name
from training.data.memory import RehearsalMemory, check_memory
from training.run.continuation import Continuation
from training.run.model_source import is_repository


logger = logging.get_logger(__name__)


class MissingMemoryError(InputError):
    """There is no rehearsal memory where it is looked for."""


def load_published_memory(continuation: Continuation, memory: RehearsalMemory) -> str:
    """
    Fills a memory with the exemplars of the step that is continued, as many of each class as it has room for.

    Args:
        continuation (`Continuation`): the step.
        memory (`RehearsalMemory`): is filled; stays empty where the options allow that.

    Returns:
        `str`: a digest of the file, or "none".

    Raises:
        InputError: there is no such memory, it is damaged, or it is of another model.
    """
    class_names = continuation.model.config.class_names
    path = _file_if_any(continuation)
    if path is None:
        logger.warning(
            f"The run continues {continuation.source} without exemplars of its {len(class_names)} classes: expect it "
            "to forget much of those that the data set holds no images of."
        )
        return "none"
    check_memory(path, class_names)
    memory.load(path)
    memory.cut(len(class_names))
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _file_if_any(continuation: Continuation) -> Path | None:
    """None where the options ask for no memory, or bring images to choose exemplars from instead."""
    options = continuation.options
    if options.memory_name_or_path == "none":
        return None
    try:
        return _file(continuation)
    except MissingMemoryError:
        if options.memory_name_or_path is None and options.known_classes == "merge":
            return None
        raise


def _file(continuation: Continuation) -> Path:
    """The Parquet file, downloaded if it is on the Hub."""
    name = continuation.options.memory_name_or_path or _name_beside_the_model(continuation)
    if not is_repository(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise _missing(continuation, f"{name} is not a file")
        return path
    revision = step_name(continuation.num_steps)
    try:
        return Path(hf_hub_download(name, MEMORY_FILE, repo_type="dataset", revision=revision))
    except (LocalEntryNotFoundError, GatedRepoError) as error:
        # Special cases of what follows, which do not say whether there is a memory.
        raise _not_downloaded(name, error) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise _missing(continuation, f"there is no data set {name} with {revision}") from error
    except (OSError, ValueError, HTTPError) as error:
        raise _not_downloaded(name, error) from error


def _name_beside_the_model(continuation: Continuation) -> str:
    source = continuation.source
    if source.folder is None:
        return source.name + MEMORY_SUFFIX
    return str(memory_file(source.folder.absolute().parent, continuation.num_steps))


def _not_downloaded(name: str, error: Exception) -> InputError:
    return InputError(
        f"The rehearsal memory {name} cannot be downloaded ({first_line(error)}): check the connection and your "
        "token, and run the same command again."
    )


def _missing(continuation: Continuation, reason: str) -> MissingMemoryError:
    return MissingMemoryError(
        f"No rehearsal memory found for {continuation.source} ({reason}). Without exemplars the model would forget "
        f"its {continuation.model.config.num_labels} classes: pass --memory_name_or_path FILE, such as "
        f"memory/{step_name(continuation.num_steps)}.parquet of the run that learned it, or --known_classes "
        "merge to draw exemplars from your data set, or --memory_name_or_path none to continue without."
    )
