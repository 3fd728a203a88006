"""The card of a step: `README.md` with results, metadata and the code that loads exactly this revision."""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hub.errors import StepFolderError
from hub.results import RunResults, StepResults
from hub.step_folder import CARD, StepFolder
from hub.text import code_fence, code_span, is_repo_id, printable, without_local_path


PLACEHOLDER_ID = "your-name/your-model"

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_FOLD_ABOVE_CLASSES = 40
_ABSENT = "–"
_METHOD_NAMES = {"dytox": "DyTox", **{name: f"{name.title()} baseline" for name in ("finetune", "replay", "joint")}}
_METHOD_SENTENCES = {
    "dytox": "Trained with [DyTox](https://arxiv.org/abs/2111.11326): one task token and one classifier a step, "
    "rehearsal from a bounded memory, and distillation from the previous step.",
    "finetune": "This is the *finetune* baseline: each step trains on its new classes alone, without memory or "
    "distillation. It marks the floor that a method for incremental learning has to beat.",
    "replay": "This is the *replay* baseline: each step trains on its new classes and a bounded memory of old images, "
    "without distillation.",
    "joint": "This is the *joint* baseline: each step trains from scratch on the data of all classes seen. It marks "
    "the ceiling, as it keeps all the data that an incremental learner gives up.",
}


def complete_step_folder(folder: str | Path, hub_model_id: str | None = None) -> None:
    """
    Draws the figures and writes the card of a folder that training has filled.

    Args:
        folder: Holds config, weights, image processor, remote code, `results.json` and `training_config.yaml`.
        hub_model_id: Where the step will be published, if known; the card then loads from there.

    Raises:
        StepFolderError: A file is missing, or the files contradict each other.
    """
    # Publishing needs this module but draws nothing: it need not wait for matplotlib.
    from hub.figures import draw_figures

    step_folder = StepFolder.read(folder)
    draw_figures(step_folder.results, step_folder.path)
    write_aside(step_folder.path / CARD, render_card(step_folder, hub_model_id))


def render_card(folder: StepFolder, hub_model_id: str | None = None) -> str:
    """The text of the card. Equal folders give equal cards."""
    results, repo_id = folder.results, hub_model_id or PLACEHOLDER_ID
    recipe = _recipe(folder.path / "training_config.yaml")
    card = ModelCard.from_template(
        card_data=_metadata(results, repo_id),
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        title=_title(results),
        tag=folder.tag,
        repo_id=repo_id,
        step=folder.step,
        steps_known="step 1" if folder.step == 1 else f"steps 1 to {folder.step}",
        num_steps=results.num_steps,
        num_seen_classes=results.last.num_seen_classes,
        method_sentence=_METHOD_SENTENCES.get(results.method, f"Trained with the method {code_span(results.method)}."),
        dataset=code_span(without_local_path(results.dataset)),
        summary=_summary(results),
        rows=[_row(results, step) for step in results.steps],
        classes=[(step.step, [code_span(name) for name in step.classes]) for step in results.steps],
        folded=results.last.num_seen_classes > _FOLD_ABOVE_CLASSES,
        seed=results.seed,
        train_seconds=_duration(results.last.train_seconds),
        total_seconds=_duration(sum(step.train_seconds or 0 for step in results.steps)),
        recipe=recipe,
        recipe_fence=code_fence(recipe),
    )
    return str(card).rstrip("\n") + "\n"


def card_for(folder: StepFolder, hub_model_id: str) -> str:
    """
    The folder's card, its snippets and metadata naming `hub_model_id`; what the user wrote into it stays.

    Raises:
        StepFolderError: the card's metadata cannot be parsed.
    """
    text = (folder.path / CARD).read_text(encoding="utf-8")
    try:
        written_for = ModelCard(text, ignore_metadata_errors=True).data.get("model_name")
    except (ValueError, yaml.YAMLError) as error:
        reason = printable(str(error))[:80]
        raise StepFolderError(f"{folder.path.name}/{CARD}: its metadata block is not valid YAML ({reason})") from error
    for known in {PLACEHOLDER_ID, written_for} - {None, hub_model_id}:
        if is_repo_id(known):
            text = re.sub(rf"(?<![\w./-]){re.escape(known)}(?!\.?[\w/-])", hub_model_id, text)
    return text


def write_aside(path: Path, text: str) -> None:
    """Writes `text` beside `path` and renames: a reader finds the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8", newline="")
    aside.replace(path)


def _metadata(results: RunResults, repo_id: str) -> ModelCardData:
    dataset = results.dataset
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license="apache-2.0",
        tags=["dytox", "continual-learning", "class-incremental-learning", "image-classification", "arxiv:2111.11326"],
        datasets=[dataset] if _is_hub_dataset(dataset) else None,
        metrics=["accuracy"],
        model_name=repo_id,
        eval_results=_eval_results(results),
    )


def _eval_results(results: RunResults) -> list[EvalResult]:
    last = results.last
    measured = [
        ("accuracy", f"Accuracy on all classes seen after step {last.step}", last.accuracy),
        ("top_5_accuracy", f"Top-5 accuracy on all classes seen after step {last.step}", last.top5_accuracy),
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
            dataset_split="test",
            metric_type=metric_type,
            metric_name=metric_name,
            metric_value=value,
        )
        for metric_type, metric_name, value in measured
        if value is not None
    ]


def _is_hub_dataset(name: str) -> bool:
    return is_repo_id(name) and not Path(name).exists()


def _dataset_type(name: str) -> str:
    """The Hub wants an id here: `namespace/name` or one word of letters, digits and `-_.`."""
    return name if _is_hub_dataset(name) else re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "custom"


def _title(results: RunResults) -> str:
    method = _METHOD_NAMES.get(results.method, code_span(results.method))
    return f"{method} on {code_span(without_local_path(results.dataset))}, step {results.last.step}"


def _summary(results: RunResults) -> list[tuple[str, str]]:
    return [
        ("Accuracy on all classes seen", _percent(results.last_accuracy)),
        ("Average incremental accuracy", _percent(results.average_incremental_accuracy)),
        ("Forgetting", _percent(results.forgetting)),
        ("Backward transfer", _percent(results.backward_transfer)),
    ]


def _row(results: RunResults, step: StepResults) -> list[str]:
    return [
        str(step.step),
        str(len(step.classes)),
        str(step.num_seen_classes),
        _percent(step.accuracy),
        _percent(step.top5_accuracy),
        _percent(results.forgetting_after(step.step)),
        _percent(step.expected_calibration_error),
        f"{step.num_parameters:,}",
        _ABSENT if step.memory_size is None else f"{step.memory_size:,}",
    ]


def _percent(fraction: float | None) -> str:
    return _ABSENT if fraction is None else f"{100 * fraction:.2f} %"


def _duration(seconds: float | None) -> str:
    if not seconds:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _recipe(path: Path) -> str:
    """The training configuration without anything that belongs to one machine alone."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StepFolderError(f"{path.parent.name}/{path.name}: is not valid YAML") from error
    return yaml.safe_dump(_portable(config), sort_keys=False, allow_unicode=True).strip()


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items() if "token" not in str(key).lower()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return without_local_path(value) if isinstance(value, str) else value
