"""The card of a rehearsal memory that is published as a data set."""

from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from hub.run.step_folder import StepFolder
from hub.run.text import code_span, without_local_path


_TEMPLATE = Path(__file__).with_name("memory_card_template.md")


def render_memory_card(folder: StepFolder, model_id: str, repo_id: str) -> str:
    """
    The text of the card. Equal folders give equal cards.

    Args:
        folder (`StepFolder`): the step whose memory it is.
        model_id (`str`): repository of the model, `namespace/name`.
        repo_id (`str`): data set of the memory, `namespace/name`.

    Returns:
        `str`: Markdown with a metadata block.
    """
    data = DatasetCardData(
        task_categories=["image-classification"],
        tags=["continual-learning", "class-incremental-learning", "rehearsal-memory"],
        pretty_name=f"Rehearsal memory of {model_id}",
    )
    results = folder.results
    card = DatasetCard.from_template(
        card_data=data,
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        repo_id=repo_id,
        model_id=model_id,
        tag=folder.tag,
        step=folder.step,
        num_images=results.last.memory_size,
        num_classes=results.last.num_seen_classes,
        dataset=code_span(without_local_path(results.dataset)),
    )
    return str(card).rstrip("\n") + "\n"
