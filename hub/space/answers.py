"""What a revision says of an image: a score for each class, and the step that learned it."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from transformers import pipeline

from hub.run.steps_file import StepEntry
from hub.space.revisions import LoadedRevision


@dataclass(frozen=True)
class ClassScore:
    """
    Args:
        name (`str`): of the class.
        step (`int`): the step that learned it.
        score (`float`): in 0..1. With sigmoid classifiers the scores of an image do not add up to 1.
    """

    name: str
    step: int
    score: float


def scores(revision: LoadedRevision, image: Image.Image) -> list[ClassScore]:
    """The score of every class that the revision knows, highest first, as the pipeline of transformers gives it."""
    classifier = pipeline("image-classification", model=revision.model, image_processor=revision.processor)
    steps = {name: step.step for step in revision.results.steps for name in step.classes}
    answers = classifier(image.convert("RGB"), top_k=revision.model.config.num_labels)
    return [ClassScore(answer["label"], steps[answer["label"]], answer["score"]) for answer in answers]


def not_learned_yet(entries: Sequence[StepEntry], step: int) -> list[str]:
    """The classes of later steps, in the order of learning."""
    return [name for entry in entries if entry.step > step for name in entry.classes]
