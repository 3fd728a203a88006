"""The metadata block of a model card: what the Hub reads of it, the measured numbers included."""

import re

from huggingface_hub import EvalResult, ModelCardData

from hub.run.results import MethodCard, RunResults
from hub.run.text import is_repo_id, printable, without_local_path


# Numbers over several steps.
_OVER_STEPS = ("average_incremental_accuracy", "forgetting", "backward_transfer")
_TAGS = ("continual-learning", "class-incremental-learning", "image-classification")


def model_metadata(
    results: RunResults,
    method: MethodCard,
    repo_id: str,
    license: str | None = None,
    images_per_class: int | None = None,
    encoder: str | None = None,
) -> ModelCardData:
    """
    The metadata of a step.

    Args:
        results (`RunResults`): of the run up to the step.
        method (`MethodCard`): gives the tags of the method.
        repo_id (`str`): repository that the step is published to.
        license (`str`, *optional*): of the weights, as the Hub names it; without one the card names none.
        images_per_class (`int`, *optional*): only so many test images of each class were measured.
        encoder (`str`, *optional*): repository of a pretrained encoder.
    """
    last_ancestor = results.ancestors[-1].model if results.ancestors else ""
    # Within one repository, what came before is another revision.
    base_model = last_ancestor if is_repo_id(last_ancestor) and last_ancestor != repo_id else encoder
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license=license,
        tags=list(dict.fromkeys([*map(printable, method.tags), *_TAGS])),
        base_model=base_model,
        base_model_relation="finetune" if base_model else None,
        datasets=[dataset for dataset in results.datasets if is_repo_id(dataset)] or None,
        metrics=["accuracy"],
        model_name=repo_id,
        eval_results=_eval_results(results, images_per_class) or None,
    )


def _eval_results(results: RunResults, images_per_class: int | None) -> list[EvalResult]:
    """
    The numbers that were measured; what was not is left out, and so is what says nothing of this data set: top-5
    accuracy among five classes, and means over the test images of several data sets.
    """
    last = results.last
    is_one_dataset = len(results.datasets) == 1
    top5 = last.top5_accuracy if last.num_seen_classes > 5 else None
    numbers = [
        ("accuracy", f"Accuracy on all classes seen after step {last.step}", last.accuracy),
        ("top_5_accuracy", f"Top-5 accuracy on all classes seen after step {last.step}", top5),
        ("average_incremental_accuracy", "Average incremental accuracy", results.average_incremental_accuracy),
        ("forgetting", "Forgetting", results.forgetting),
        ("backward_transfer", "Backward transfer", results.backward_transfer),
        ("expected_calibration_error", "Expected calibration error", last.expected_calibration_error),
    ]
    name = printable(without_local_path(results.dataset)) or "unnamed"
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Class-incremental image classification",
            dataset_type=_dataset_type(name),
            dataset_name=name,
            dataset_split=None if results.test_split is None else printable(results.test_split),
            dataset_args={"max_eval_samples_per_class": images_per_class} if images_per_class else None,
            metric_type=metric_type,
            metric_name=metric_name,
            metric_value=value,
        )
        for metric_type, metric_name, value in numbers
        if value is not None and (is_one_dataset or metric_type not in _OVER_STEPS)
    ]


def _dataset_type(name: str) -> str:
    """The Hub expects an id here: `namespace/name` or one word of letters, digits and `-_.`."""
    return name if is_repo_id(name) else re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "custom"
