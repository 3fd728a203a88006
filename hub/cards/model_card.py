"""The card of a step: `README.md` with results, metadata and the code that loads exactly this revision."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hub.run.atomic import write_aside
from hub.run.errors import StepFolderError
from hub.run.layout import CARD_FILE, RECIPE_FILE
from hub.run.results import Ancestor, MethodCard, RunResults, StepResults
from hub.run.seed_results import OtherRun, Spread
from hub.run.step_folder import CALIBRATION_FIGURE, StepFolder
from hub.run.text import code_fence, code_span, is_repo_id, printable, without_local_path


PLACEHOLDER_ID = "your-name/your-model"

_TAGS = ("continual-learning", "class-incremental-learning", "image-classification")
_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_FOLD_ABOVE_CLASSES = 40
_ABSENT = "–"


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
    from hub.cards.figures import draw_figures

    step_folder = StepFolder.read(folder)
    draw_figures(step_folder.results, step_folder.path, step_folder.other_runs)
    write_aside(step_folder.path / CARD_FILE, render_card(step_folder, hub_model_id))


def render_card(folder: StepFolder, hub_model_id: str | None = None) -> str:
    """The text of the card. Equal folders give equal cards."""
    results, repo_id, others = folder.results, hub_model_id or PLACEHOLDER_ID, folder.other_runs
    recipe, method = _recipe(folder.path / RECIPE_FILE), _method_card(results)
    card = ModelCard.from_template(
        card_data=_metadata(results, method, repo_id),
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        title=_title(results, method),
        tag=folder.tag,
        repo_id=repo_id,
        step=folder.step,
        steps_known="step 1" if folder.step == 1 else f"steps 1 to {folder.step}",
        num_steps=results.num_steps,
        first_own_step=results.first_own_step,
        ancestors=[_ancestor_sentence(results, each) for each in results.ancestors],
        num_seen_classes=results.last.num_seen_classes,
        method=method,
        accuracy_text=results.last.accuracy_text(),
        unmeasured_steps=[step.step for step in results.steps if step.accuracy is None],
        dataset=_dataset_span(results.dataset),
        datasets=_enumerate([_dataset_span(dataset) for dataset in results.datasets]),
        other_runs=_other_runs_sentence(results, others),
        num_runs=len(others) + 1,
        summary=_summary(results, others),
        rows=[_row(step, others) for step in results.steps],
        has_calibration=(folder.path / CALIBRATION_FIGURE).is_file(),
        classes=[(step.step, [code_span(name) for name in step.classes]) for step in results.steps],
        folded=results.last.num_seen_classes > _FOLD_ABOVE_CLASSES,
        seed=results.seed,
        train_seconds=_duration(results.last.train_seconds),
        total_seconds=_duration(sum(step.train_seconds or 0 for step in results.steps[results.first_own_step - 1 :])),
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
    text = (folder.path / CARD_FILE).read_text(encoding="utf-8")
    # The model that this one continues keeps its name, though it may be that of the repository until now.
    kept = {f"base_model: {each.model}" for each in folder.results.ancestors}
    kept |= {_ancestor_sentence(folder.results, each) for each in folder.results.ancestors}
    for known in {PLACEHOLDER_ID, _written_for(folder)} - {None, hub_model_id}:
        if is_repo_id(known):
            name = re.compile(rf"(?<![\w./-]){re.escape(known)}(?!\.?[\w/-])")
            lines = text.split("\n")
            text = "\n".join(line if line in kept else name.sub(hub_model_id, line) for line in lines)
    return text


def hub_model_id_of(folder: StepFolder) -> str | None:
    """
    The repository that the folder's card names; None where it names none yet.

    Raises:
        StepFolderError: the card's metadata cannot be parsed.
    """
    name = _written_for(folder)
    return name if isinstance(name, str) and is_repo_id(name) and name != PLACEHOLDER_ID else None


def _written_for(folder: StepFolder) -> Any:
    text = (folder.path / CARD_FILE).read_text(encoding="utf-8")
    try:
        return ModelCard(text, ignore_metadata_errors=True).data.get("model_name")
    except (ValueError, yaml.YAMLError) as error:
        reason = printable(str(error))[:80]
        raise StepFolderError(
            f"{folder.path.name}/{CARD_FILE}: its metadata block is not valid YAML ({reason})"
        ) from error


def _metadata(results: RunResults, method: MethodCard, repo_id: str) -> ModelCardData:
    last_ancestor = results.ancestors[-1].model if results.ancestors else ""
    # Within one repository, what came before is another revision.
    base_model = last_ancestor if is_repo_id(last_ancestor) and last_ancestor != repo_id else None
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license="apache-2.0",
        tags=list(dict.fromkeys([*method.tags, *_TAGS])),
        base_model=base_model,
        base_model_relation="finetune" if base_model else None,
        datasets=[dataset for dataset in results.datasets if _is_hub_dataset(dataset)] or None,
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


def _method_card(results: RunResults) -> MethodCard:
    """The method's own words; a neutral sentence where an earlier version did not record them."""
    name = code_span(results.method)
    return results.method_card or MethodCard(title=name, sentence=f"Trained with the method {name}.")


def _title(results: RunResults, method: MethodCard) -> str:
    datasets = [_dataset_span(dataset) for dataset in results.datasets]
    datasets = datasets if len(datasets) <= 3 else [datasets[0], "…", datasets[-1]]
    return f"{method.title} on {', then '.join(datasets)}, step {results.last.step}"


def _dataset_span(dataset: str) -> str:
    return code_span(without_local_path(dataset))


def _enumerate(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _ancestor_sentence(results: RunResults, ancestor: Ancestor) -> str:
    """What one of the models that the run continues is called, and what it knew. One line."""
    model = code_span(without_local_path(ancestor.model))
    if is_repo_id(ancestor.model):
        model = f"[{model}](https://huggingface.co/{ancestor.model})"
    at = f" at revision {code_span(ancestor.revision)}" if ancestor.revision else ""
    commit = f" (commit `{ancestor.commit}`)" if ancestor.commit else ""
    first = max((each.num_steps for each in results.ancestors if each.num_steps < ancestor.num_steps), default=0) + 1
    learned = f"step {first}" if first == ancestor.num_steps else f"steps {first} to {ancestor.num_steps}"
    num_classes = results.steps[ancestor.num_steps - 1].num_seen_classes
    known = "1 class" if num_classes == 1 else f"{num_classes} classes"
    return f"- {model}{at}{commit}: learned {learned} on {_dataset_span(ancestor.dataset)}, and knew {known}."


def _other_runs_sentence(results: RunResults, others: Sequence[OtherRun]) -> str:
    """Which runs the means are over; empty where there is only this one."""
    if not others:
        return ""
    seeds = ", ".join(str(seed) for seed in [results.seed, *(other.seed for other in others)])
    orders = (
        "" if all(other.same_class_order for other in others) else " The order of the classes differs between them."
    )
    return f"{len(others) + 1} runs of this recipe, with seeds {seeds}; this revision is of the first.{orders}"


def _summary(results: RunResults, others: Sequence[OtherRun]) -> list[list[str]]:
    """A row a measurement: its name, this revision's value, and with other runs that over all of them."""
    values: list[tuple[str, float | None, list[float | None]]] = [
        _accuracy_row(results, others),
        ("Top-5 accuracy", results.last.top5_accuracy, [run.top5_accuracy for run in others]),
        (
            "Average incremental accuracy",
            results.average_incremental_accuracy,
            [run.average_incremental_accuracy for run in others],
        ),
        ("Forgetting", results.forgetting, [run.forgetting for run in others]),
        ("Backward transfer", results.backward_transfer, [run.backward_transfer for run in others]),
    ]
    return [
        [name, _percent(own), _percent_of(Spread.of([own, *other]))] if others else [name, _percent(own)]
        for name, own, other in values
    ]


def _accuracy_row(results: RunResults, others: Sequence[OtherRun]) -> tuple[str, float | None, list[float | None]]:
    """The accuracy, named after the classes it was measured on."""
    last = results.last
    if last.accuracy is None:
        num_classes = len(last.measured_classes or ())
        name = f"Accuracy on the {num_classes} of {last.num_seen_classes} classes with test images"
        return name, last.accuracy_of_measured, [None for _ in others]
    return "Accuracy on all classes seen", last.accuracy, [run.accuracy[-1] for run in others]


def _row(step: StepResults, others: Sequence[OtherRun]) -> list[str]:
    of_all = Spread.of([step.accuracy, *(run.accuracy[step.step - 1] for run in others)])
    return [
        str(step.step),
        str(len(step.classes)),
        str(step.num_seen_classes),
        _percent_of(of_all) if others and of_all else step.accuracy_text().replace("%", " %"),
        _percent(step.top5_accuracy),
        _percent(step.forgetting),
        _percent(step.expected_calibration_error),
        f"{step.num_parameters:,}",
        _ABSENT if step.memory_size is None else f"{step.memory_size:,}",
    ]


def _percent(fraction: float | None) -> str:
    return _ABSENT if fraction is None else f"{100 * fraction:.2f} %"


def _percent_of(spread: Spread | None) -> str:
    return _ABSENT if spread is None else f"{100 * spread.mean:.2f} ± {100 * spread.deviation:.2f} %"


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
