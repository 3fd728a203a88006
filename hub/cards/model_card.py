"""The card of a step: `README.md` with results, metadata and the code that loads exactly this revision."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from hub.cards.metadata import model_metadata
from hub.run.atomic import write_aside
from hub.run.confusion import ClassAccuracy
from hub.run.errors import StepFolderError
from hub.run.layout import CARD_FILE, RECIPE_FILE, step_name
from hub.run.model_config import ModelConfig
from hub.run.results import Ancestor, MethodCard, RunResults, StepResults
from hub.run.schema import short_name
from hub.run.seed_results import OtherRun, Spread
from hub.run.step_folder import StepFolder
from hub.run.text import code_fence, code_span, duration, is_repo_id, printable, table_span, without_local_path


PLACEHOLDER_ID = "your-name/your-model"

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_FOLD_ABOVE_CLASSES = 40
# With more classes, the table of their accuracies has only so many of the lowest and of the highest.
_MAX_LISTED_ACCURACIES = 20
_NUM_EXTREME_ACCURACIES = 5
_ABSENT = "–"


def add_card_and_figures(folder: str | Path, hub_model_id: str | None = None) -> None:
    """
    Draws the figures and writes the card of a folder that training has filled.

    Args:
        folder (`str` or `Path`): holds config, weights, image processor, code, `results.json` and
            `training_config.yaml`.
        hub_model_id (`str`, *optional*): repository that the step will be published to; the card then loads from it.

    Raises:
        StepFolderError: a file is missing, or the files contradict each other.
    """
    # Publishing needs this module but draws nothing: it need not wait for matplotlib.
    from hub.cards.figures import draw_figures

    step_folder = StepFolder.read(folder)
    draw_figures(step_folder.results, step_folder.path, step_folder.other_runs, step_folder.drawn_confusion)
    write_aside(step_folder.path / CARD_FILE, render_card(step_folder, hub_model_id))


def render_card(folder: StepFolder, hub_model_id: str | None = None) -> str:
    """
    The text of the card. Equal folders give equal cards.

    Args:
        folder (`StepFolder`): the step.
        hub_model_id (`str`, *optional*): repository that the card loads from, by default a placeholder.

    Returns:
        `str`: Markdown with a metadata block.

    Raises:
        StepFolderError: the recipe cannot be read.
    """
    results, repo_id, others = folder.results, hub_model_id or PLACEHOLDER_ID, folder.other_runs
    options = read_recipe(folder.path)
    method, recipe = _method_card(results), _quoted(options)
    limit = options.get("max_eval_samples_per_class")
    card = ModelCard.from_template(
        card_data=model_metadata(results, method, repo_id, folder.config.license, limit, folder.config.base_model),
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        title=_title(results, method),
        tag=folder.tag,
        repo_id=repo_id,
        step=folder.step,
        steps_known="step 1" if folder.step == 1 else f"steps 1 to {folder.step}",
        num_steps=results.num_steps,
        first_own_step=results.first_own_step,
        revisions=_revisions(results),
        ancestors=[_ancestor_sentence(results, ancestor) for ancestor in results.ancestors],
        num_seen_classes=results.last.num_seen_classes,
        method=method,
        encoder=_encoder_sentence(folder.config),
        uses_memory=bool(results.last.memory_size),
        citation_fence=code_fence(method.citation),
        dataset=_dataset_span(results.dataset),
        test_images=_test_images(results, limit),
        merged=options.get("known_classes") == "merge",
        datasets=_enumerate([_dataset_span(dataset) for dataset in results.datasets]),
        other_runs=_other_runs_sentence(results, others),
        num_runs=len(others) + 1,
        summary=_summary(results, others),
        license=folder.config.license and code_span(folder.config.license),
        rows=[_row(step, others) for step in results.steps],
        has_gaps=any(step.accuracy is None for step in results.steps),
        has_unrecorded_forgetting=_has_unrecorded_forgetting(results),
        has_calibration=bool(results.last.calibration),
        has_confusion_figure=folder.drawn_confusion is not None,
        class_rows=_class_rows(folder),
        num_extremes=_num_extremes(folder),
        num_measured_classes=len(folder.confusion.per_class()) if folder.confusion else 0,
        score="sigmoid" if folder.config.problem_type == "multi_label_classification" else "softmax",
        classes=[(step.step, [code_span(name) for name in step.classes]) for step in results.steps],
        folded=results.last.num_seen_classes > _FOLD_ABOVE_CLASSES,
        seed=results.seed,
        is_exact=results.exact_across_processes is not False,
        train_seconds=duration(results.last.train_seconds) if results.last.train_seconds else "",
        total_seconds=duration(sum(step.train_seconds or 0 for step in results.steps[results.first_own_step - 1 :])),
        recipe=recipe,
        recipe_fence=code_fence(recipe),
    )
    return str(card).rstrip("\n") + "\n"


def _encoder_sentence(config: ModelConfig) -> str | None:
    """What the encoder is, where it is not the model's own."""
    if config.encoder_config is None:
        return None
    kind = code_span(config.encoder_config.model_type)
    if config.base_model is None and not config.freeze_encoder:
        return f"{kind}, learned with the model."
    name = "" if config.base_model is None else f" {code_span(config.base_model)}"
    licence = f" (licence: {code_span(config.base_model_license)})" if config.base_model_license else ""
    state = "frozen" if config.freeze_encoder else "trained further"
    return (
        f"the pretrained {kind}{name}{licence}, {state}. What it was pretrained on may show these classes: the "
        "numbers are not comparable with those of models that start from random weights."
    )


def _encoder_line(config: ModelConfig) -> str:
    return f"**Encoder:** {_encoder_sentence(config)}"


def card_for(folder: StepFolder, hub_model_id: str) -> str:
    """
    The folder's card, its snippets and metadata naming `hub_model_id`; what the user wrote into it stays.

    Args:
        folder (`StepFolder`): a step with a card.
        hub_model_id (`str`): repository that the card loads from.

    Raises:
        StepFolderError: the card's metadata cannot be parsed.
    """
    names = {PLACEHOLDER_ID, hub_model_id_of(folder)} - {hub_model_id}
    text = (folder.path / CARD_FILE).read_text(encoding="utf-8")
    # The model that this one continues keeps its name, though it may be that of the repository until now.
    kept = {f"base_model: {ancestor.model}" for ancestor in folder.results.ancestors}
    kept |= {f"base_model: {folder.config.base_model}", _encoder_line(folder.config)}
    kept |= {_ancestor_sentence(folder.results, ancestor) for ancestor in folder.results.ancestors}
    for name in filter(None, names):
        pattern = re.compile(rf"(?<![\w./-]){re.escape(name)}(?!\.?[\w/-])")
        lines = text.split("\n")
        text = "\n".join(line if line in kept else pattern.sub(hub_model_id, line) for line in lines)
    return text


def hub_model_id_of(folder: StepFolder) -> str | None:
    """
    The repository that the folder's card names; None where it names none yet.

    Raises:
        StepFolderError: the card's metadata cannot be parsed.
    """
    path = folder.path / CARD_FILE
    try:
        name = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.get("model_name")
    except (ValueError, yaml.YAMLError) as error:
        reason = printable(str(error))[:80]
        raise StepFolderError(f"{short_name(path)}: its metadata block is not valid YAML ({reason})") from error
    return name if isinstance(name, str) and is_repo_id(name) and name != PLACEHOLDER_ID else None


def read_recipe(folder: Path) -> dict[str, Any]:
    """
    The options in the `training_config.yaml` of a step folder.

    Raises:
        StepFolderError: the file cannot be read, or does not hold options.
    """
    path = folder / RECIPE_FILE
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        recipe = None
    if not isinstance(recipe, dict):
        raise StepFolderError(f"{short_name(path)}: is not valid YAML, expected the options of a run")
    return recipe


def _method_card(results: RunResults) -> MethodCard:
    """The method's own words, or a neutral sentence where an earlier version did not record them."""
    card = results.method_card
    if card is None:
        name = code_span(results.method)
        return MethodCard(title=name, sentence=f"Trained with the method {name}.")
    citation = "\n".join(printable(line.expandtabs()) for line in card.citation.strip().splitlines())
    return replace(card, title=_one_line(card.title), sentence=_one_line(card.sentence), citation=citation)


def _one_line(markdown: str) -> str:
    """Markdown that stays within its line: without line breaks and HTML."""
    return printable(" ".join(markdown.split())).replace("<", "&lt;")


def _title(results: RunResults, method: MethodCard) -> str:
    datasets = [_dataset_span(dataset) for dataset in results.datasets]
    datasets = datasets if len(datasets) <= 3 else [datasets[0], "…", datasets[-1]]
    return f"{method.title} on {', then '.join(datasets)}, step {results.last.step}"


def _dataset_span(dataset: str) -> str:
    return code_span(without_local_path(dataset))


def _enumerate(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _revisions(results: RunResults) -> str:
    """The first revisions that the repository will have."""
    names = [f"`{step_name(step)}`" for step in range(results.first_own_step, results.num_steps + 1)]
    return ", ".join(names if len(names) <= 2 else [*names[:2], "…"])


def _ancestor_sentence(results: RunResults, ancestor: Ancestor) -> str:
    """What one of the models that the run continues is called, and what it knew. One line."""
    model = code_span(without_local_path(ancestor.model))
    if is_repo_id(ancestor.model):
        model = f"[{model}](https://huggingface.co/{ancestor.model})"
    at = f" at revision {code_span(ancestor.revision)}" if ancestor.revision else ""
    commit = f" (commit `{ancestor.commit}`)" if ancestor.commit else ""
    stops = [0, *(other.num_steps for other in results.ancestors)]
    first = max(stop for stop in stops if stop < ancestor.num_steps) + 1
    learned = f"step {first}" if first == ancestor.num_steps else f"steps {first} to {ancestor.num_steps}"
    has_other_method = ancestor.method not in (None, results.method)
    method = f" by the method {code_span(str(ancestor.method))}" if has_other_method else ""
    num_classes = results.steps[ancestor.num_steps - 1].num_seen_classes
    known = "1 class" if num_classes == 1 else f"{num_classes} classes"
    return f"- {model}{at}{commit}: learned {learned} on {_dataset_span(ancestor.dataset)}{method}, and knew {known}."


def _other_runs_sentence(results: RunResults, others: Sequence[OtherRun]) -> str:
    """Which runs the means are over; empty where there is only this one."""
    if not others:
        return ""
    seeds = ", ".join(str(seed) for seed in [results.seed, *(other.seed for other in others)])
    orders = (
        "" if all(other.same_class_order for other in others) else " The order of the classes differs between them."
    )
    return f"{len(others) + 1} runs of this recipe, with seeds {seeds}; this revision is of the first.{orders}"


def _test_images(results: RunResults, limit: int | None) -> str:
    """Which images the numbers are over."""
    images = f"{code_span(results.test_split)} split" if results.test_split else "test images"
    return f"first {limit} images of each class of the {images}" if limit else images


def _summary(results: RunResults, others: Sequence[OtherRun]) -> list[list[str]]:
    """A row for each number: its name, this revision's value, and with other runs their mean and deviation."""
    numbers: list[tuple[str, float | None, list[float | None]]] = [
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
    by_other_rules = {
        "Accuracy of the head's largest logit, as it is": results.last.head_accuracy,
        "Accuracy of the nearest class mean": results.last.nearest_mean_accuracy,
    }
    numbers[1:1] = [
        (name, value, [None for _ in others]) for name, value in by_other_rules.items() if value is not None
    ]
    if len(results.datasets) > 1:
        note = " (test images of different data sets)"
        start = next(place for place, (name, *_) in enumerate(numbers) if name.startswith("Average"))
        numbers[start:] = [(name + note, own, other) for name, own, other in numbers[start:]]
    rows = [
        [name, _percent(own), _percent_of(Spread.of([own, *other]))] if others else [name, _percent(own)]
        for name, own, other in numbers
    ]
    # No accuracy without the size of the model that has it: some methods grow by a whole encoder a step.
    return [*rows, ["Parameters", *[f"{results.last.num_parameters:,}"] * (2 if others else 1)]]


def _accuracy_row(results: RunResults, others: Sequence[OtherRun]) -> tuple[str, float | None, list[float | None]]:
    """The accuracy, named after the classes it was measured on."""
    last = results.last
    if last.accuracy is None:
        num_classes = len(last.measured_classes or ())
        name = f"Accuracy on the {num_classes} of {last.num_seen_classes} classes with test images"
        return name, last.accuracy_of_measured, [None for _ in others]
    return "Accuracy on all classes seen", last.accuracy, [run.accuracy[-1] for run in others]


def _row(step: StepResults, others: Sequence[OtherRun]) -> list[str]:
    spread = Spread.of([step.accuracy, *(run.accuracy[step.step - 1] for run in others)])
    return [
        str(step.step),
        str(len(step.classes)),
        str(step.num_seen_classes),
        step.accuracy_text(_percent) if spread is None else _percent_of(spread),
        _percent(step.top5_accuracy),
        _percent(step.forgetting),
        _percent(step.expected_calibration_error),
        f"{step.num_parameters:,}",
        _ABSENT if step.memory_size is None else f"{step.memory_size:,}",
    ]


def _class_rows(folder: StepFolder) -> list[list[str]]:
    """
    A row for the accuracy on each class, in the order of learning; of many classes, those with the lowest and the
    highest accuracy, from the lowest on. None where no confusion was recorded.
    """
    entries = folder.confusion.per_class() if folder.confusion else []
    if not (num_extremes := _num_extremes(folder)):
        return [_class_row(folder.results, entry) for entry in entries]
    entries = sorted(entries, key=lambda entry: entry.accuracy)
    lowest, highest = (
        [_class_row(folder.results, entry) for entry in part]
        for part in (entries[:num_extremes], entries[-num_extremes:])
    )
    return [*lowest, ["…"] * len(lowest[0]), *highest]


def _class_row(results: RunResults, entry: ClassAccuracy) -> list[str]:
    step = next(step for step in results.steps if entry.label < step.num_seen_classes)
    name = table_span(results.class_names[entry.label])
    return [name, str(step.step), _percent(entry.accuracy), f"{entry.images:,}"]


def _num_extremes(folder: StepFolder) -> int:
    """How many of the lowest and of the highest accuracies the table has; 0 where it has all."""
    num_classes = len(folder.confusion.per_class()) if folder.confusion else 0
    return _NUM_EXTREME_ACCURACIES if num_classes > _MAX_LISTED_ACCURACIES else 0


def _has_unrecorded_forgetting(results: RunResults) -> bool:
    """Whether forgetting is missing though all its terms were measured, as in results of earlier versions."""
    return any(
        step.forgetting is None and all(known.accuracy is not None for known in results.steps[: step.step])
        for step in results.steps[1:]
    )


def _percent(fraction: float | None) -> str:
    return _ABSENT if fraction is None else f"{100 * fraction:.2f} %"


def _percent_of(spread: Spread | None) -> str:
    return _ABSENT if spread is None else f"{spread.text()} %"


def _quoted(recipe: dict[str, Any]) -> str:
    """The recipe without what belongs to one machine or user alone."""
    return yaml.safe_dump(_portable(recipe), sort_keys=False, allow_unicode=True).strip()


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items() if not str(key).lower().endswith("token")}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return without_local_path(value) if isinstance(value, str) else value
