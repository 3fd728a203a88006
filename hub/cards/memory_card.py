"""The rehearsal memory of a step as a data set on the Hub, so that others can continue the model."""

from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from hub.publishing.plan import StepContent
from hub.publishing.remote import LocalFile, RemoteRun
from hub.run.errors import PublishError, StepFolderError
from hub.run.layout import CARD_FILE as CARD
from hub.run.step_folder import StepFolder
from hub.run.text import code_span, without_local_path


# `{hub_model_id}-memory`, with the same tags as the model.
MEMORY_SUFFIX = "-memory"
MEMORY_FILE = "data/train.parquet"

_TEMPLATE = Path(__file__).with_name("memory_card_template.md")


def memory_repo_id(hub_model_id: str) -> str:
    """The data set repository that holds the memories of the steps of a model."""
    return hub_model_id + MEMORY_SUFFIX


def memory_content(folder: StepFolder, hub_model_id: str) -> StepContent:
    """
    What the revision of a step's memory holds: its Parquet file and a card.

    Args:
        folder: The step folder; the memory is `OUTPUT_DIR/memory/step{t}.parquet`.
        hub_model_id: The repository of the model.

    Raises:
        StepFolderError: The run has no memory of this step.
    """
    file = folder.path.parent / "memory" / f"{folder.tag}.parquet"
    if not file.is_file() or file.is_symlink():
        raise StepFolderError(f"memory/{file.name} is no file: the run keeps no rehearsal memory, or lost it")
    card = LocalFile(file, _card(folder, hub_model_id).encode())
    return StepContent(
        folder.step,
        {MEMORY_FILE: LocalFile(file), CARD: card},
        title=f"Step {folder.step}: exemplars of {folder.results.last.num_seen_classes} classes",
        first_own_step=folder.results.first_own_step,
    )


def check_privacy(remote: RemoteRun, private: bool) -> None:
    """
    Makes sure that images which are to be private do not go to a public data set.

    Raises:
        PublishError: The data set exists, and is public.
    """
    if private and remote.exists and not remote.is_private():
        raise PublishError(
            f"{remote.name} is public, but its images are to be private like the model; make it private first, or "
            "publish without the memory"
        )


def _card(folder: StepFolder, hub_model_id: str) -> str:
    """Equal folders give equal cards."""
    data = DatasetCardData(
        task_categories=["image-classification"],
        tags=["continual-learning", "class-incremental-learning", "rehearsal-memory"],
        pretty_name=f"Rehearsal memory of {hub_model_id}",
    )
    results = folder.results
    card = DatasetCard.from_template(
        card_data=data,
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        repo_id=memory_repo_id(hub_model_id),
        model_id=hub_model_id,
        tag=folder.tag,
        step=folder.step,
        num_images=results.last.memory_size,
        num_classes=results.last.num_seen_classes,
        dataset=code_span(without_local_path(results.dataset)),
    )
    return str(card).rstrip("\n") + "\n"
