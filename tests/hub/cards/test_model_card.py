"""The card: what real parsers read in it, for any names of classes and any results."""

import ast
import csv
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hub.cards.model_card import PLACEHOLDER_ID, add_card_and_figures, card_for, hub_model_id_of, render_card
from hub.run.errors import StepFolderError
from hub.run.results import MethodCard, RunResults
from hub.run.seed_results import OtherRun, write_other_runs
from hub.run.step_folder import StepFolder
from tests.hub.fake_run import (
    METHOD_CARD,
    make_ancestors,
    make_confusion,
    make_results,
    up_to_step,
    with_calibration,
    write_trained_files,
)


HOSTILE = [
    "a | b, null, - item: 'q' \"q\" & &amp; \\ \\n",
    "</details><script>alert(1)</script>",
    "<!--",
    "[x](https://evil.example) ![x](https://evil.example/p.png) https://evil.example me@evil.example",
    "``` ` ``",
    " ` ",
    "{{ 7 * 7 }} {% raw %} {# x #} *bold* _it_ ~~no~~ # head",
    "日本語 ñ 👩\u200d🔬",
    "x" * 300,
]
INVISIBLE = {
    "---\n---\n": "---\\n---\\n",
    "\u202egnp\r\u2028": "\\u202egnp\\r\\u2028",
    "\x00\x1b[31m": "\\x00\\x1b[31m",
    "\ud800": "\\ud800",
    "": '""',
}


def write(folder: Path, results: RunResults, step: int | None = None, hub_model_id: str | None = None) -> StepFolder:
    """A step folder with its card, by default of the last step."""
    step = step or results.num_steps
    read = StepFolder.read(write_trained_files(folder / f"step{step}", results, step))
    (read.path / "README.md").write_text(render_card(read, hub_model_id))
    return read


def card_of(*arguments: Any) -> ModelCard:
    """The card that `write` writes."""
    return ModelCard.load(write(*arguments).path / "README.md")


def tokens_of(card: ModelCard) -> list[Token]:
    """Everything a Markdown parser finds in the body, inline parts included."""
    blocks = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card.text)
    return [token for block in blocks for token in (block, *(block.children or []))]


def structure_of(card: ModelCard) -> list[tuple[str, str]]:
    """The kinds of these tokens; text may be in one piece or several."""
    return [(token.type, token.tag) for token in tokens_of(card) if token.type not in ("code_inline", "text")]


def content_of(card: ModelCard, kind: str, info: str = "") -> list[str]:
    return [token.content for token in tokens_of(card) if (token.type, token.info) == (kind, info)]


def rows_of(card: ModelCard) -> dict[str, list[str]]:
    """The rows of both tables by their first cell: the name of a number, or a step."""
    cells = [line.strip("| ").split(" | ") for line in card.text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in cells}


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


@pytest.mark.parametrize(("steps", "step"), [(1, 1), (12, 12), (3, 2)])
def test_metadata_summary_and_table_give_the_numbers_of_the_file(tmp_path: Path, steps: int, step: int) -> None:
    folder = write(tmp_path, make_results(steps, 3, dataset="uoft-cs/cifar100"), step, "org/run")
    file = json.loads((folder.path / "results.json").read_text())
    card = ModelCard.load(folder.path / "README.md")
    last = file["steps"][-1]
    expected = {
        "accuracy": last["accuracy"],
        "average_incremental_accuracy": file["average_incremental_accuracy"],
        "forgetting": file["forgetting"],
        "backward_transfer": file["backward_transfer"],
        "expected_calibration_error": last["expected_calibration_error"],
    }
    data, rows = card.data, rows_of(card)
    measured = {result.metric_type: result.metric_value for result in data.eval_results}
    if last["num_seen_classes"] > 5:
        assert measured.pop("top_5_accuracy") == last["top5_accuracy"]
    assert measured == {name: value for name, value in expected.items() if value is not None}
    assert (file["forgetting"] is None) == (step == 1), "nothing can be forgotten after step 1"
    assert rows["Top-5 accuracy"] == [percent(last["top5_accuracy"])]
    names = ("Accuracy on all classes seen", "Average incremental accuracy", "Forgetting")
    for name, value in zip((*names, "Backward transfer"), expected.values(), strict=False):
        assert rows[name] == [percent(value)]
    for one in file["steps"]:
        numbers = [one[name] for name in ("accuracy", "top5_accuracy", "forgetting", "expected_calibration_error")]
        assert rows[str(one["step"])][2:6] == list(map(percent, numbers))
    assert {result.dataset_type for result in data.eval_results} == {"uoft-cs/cifar100"}
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")
    assert data.license is None, "no licence was asked for"
    assert {*METHOD_CARD.tags, "continual-learning", "class-incremental-learning"} <= set(data.tags)
    assert data.model_name == "org/run" and data.datasets == ["uoft-cs/cifar100"]


def test_a_licence_is_named_where_one_was_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path, make_results(2))
    path = folder.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"license": "cc-by-nc-4.0"}))
    text = render_card(StepFolder.read(folder.path))
    assert ModelCard(text).data.license == "cc-by-nc-4.0" and "The licence, `cc-by-nc-4.0`, covers" in text
    assert "No licence is named" in (folder.path / "README.md").read_text()


def test_nothing_says_all_classes_where_not_all_were_measured(tmp_path: Path) -> None:
    folder = write(tmp_path, make_results(5, 3, ancestors=make_ancestors(2)), None, "org/run")
    card = ModelCard.load(folder.path / "README.md")
    rows, last = rows_of(card), folder.results.last
    accuracy = percent(last.accuracy_of_measured)
    assert rows["Accuracy on the 9 of 15 classes with test images"] == [accuracy]
    assert rows["5"][2:6] == [f"{accuracy} (9 of 15 classes)", "–", "–", "–"] and rows["2"][4] != "–"
    over_steps = ("Average incremental accuracy", "Forgetting", "Backward transfer")
    assert [rows[f"{name} (test images of different data sets)"] for name in over_steps] == [["–"]] * 3
    assert not card.data.eval_results and card.data.model_name == "org/run"
    definitions = card.text.index("## How the numbers are defined")
    assert "all classes seen" not in card.text[:definitions].replace("predicted among all classes seen by then", "")
    assert hub_model_id_of(folder) == "org/run" and '"org/other"' in card_for(folder, "org/other")


def test_hostile_class_names_survive_and_inject_nothing(tmp_path: Path) -> None:
    others = [f"n{number:08d}, {number}" for number in range(990)]
    names = [*HOSTILE, *INVISIBLE, *others]
    plain = card_of(tmp_path / "plain", make_results(1, len(names)))
    card = card_of(tmp_path / "hostile", make_results(1, len(names), names=names))
    section = card.text.partition("## What this revision knows")[2].partition("## How to use it")[0]
    assert content_of(ModelCard(section), "code_inline") == [*HOSTILE, *INVISIBLE.values(), *others]
    assert f"<details><summary>The {len(names)} classes, by step</summary>" in section, "many classes are folded"
    assert card.data.to_dict() == plain.data.to_dict() and structure_of(card) == structure_of(plain)


@pytest.mark.parametrize(
    "foreign", [*HOSTILE, *INVISIBLE, "a\nb: c\n---\n# x", "org/name\n", "~/models/mine", "C:\\someone\\mine"]
)
def test_hostile_names_of_data_sets_ancestors_and_methods_inject_nothing(tmp_path: Path, foreign: str) -> None:
    cards = []
    for name, text in (("plain", "mine"), ("hostile", foreign)):
        ancestors = [replace(one, model=text, dataset=text, revision=text or "x") for one in make_ancestors(1, 2)]
        method = MethodCard(title=text, sentence=text, citation=f"@a{{\n{text}\n```\n# x\n}}", tags=(text,))
        results = make_results(3, dataset=text, ancestors=[replace(one, method=text) for one in ancestors])
        # The metadata gets its numbers from a run that measured all classes.
        cards.append(card_of(tmp_path / name, replace(results, method_card=method)))
        numbers = card_of(tmp_path / f"{name} numbers", make_results(1, dataset=text)).data.eval_results
        assert re.fullmatch(r"[\w.-]+", numbers[0].dataset_type)
    plain, card = cards
    assert card.data.datasets is None and card.data.base_model is None
    shown = INVISIBLE.get(foreign) or re.sub(r"^(~/models/|C:.someone.)", "", foreign.replace("\n", "\\n"))
    assert content_of(card, "code_inline").count(shown) >= 4, "the data set and the ancestors are named"
    # Emphasis and links of a method are its own, but they stay in its line.
    inline = ("em", "strong", "s", "a", "img", "code", "")
    blocks = [[kind for kind in structure_of(one) if kind[1] not in inline] for one in cards]
    assert blocks[0] == blocks[1] and not content_of(card, "html_inline")
    assert len(content_of(card, "html_block")) == len(content_of(plain, "html_block"))
    assert [text.splitlines()[-3:] for text in content_of(card, "fence", "bibtex")] == [["```", "# x", "}"]]


def test_the_words_of_the_method_are_its_own(tmp_path: Path) -> None:
    card = card_of(tmp_path / "new", make_results(2))
    assert "# Some method on `digits`, step 2" in card.text
    assert f"**Method:** {METHOD_CARD.sentence}" in card.text
    assert content_of(card, "fence", "bibtex") == [f"{METHOD_CARD.citation}\n"]
    assert "Teach it more classes" in card.text
    neutral = card_of(tmp_path / "old", replace(make_results(2, method="a_method"), method_card=None))
    assert "# `a_method` on `digits`, step 2" in neutral.text and "Trained with the method `a_method`." in neutral.text
    assert not content_of(neutral, "fence", "bibtex") and len(neutral.data.tags) == 3
    fixed = replace(make_results(2), method_card=replace(METHOD_CARD, can_continue=False))
    assert "Teach it more classes" not in card_of(tmp_path / "fixed", fixed).text


def test_a_continued_model_names_its_ancestors(tmp_path: Path) -> None:
    first, second = make_ancestors(2, 3)
    ancestors = [replace(first, method="other"), replace(second, method=None)]
    card = card_of(tmp_path / "a", make_results(5, 3, dataset="org/birds", ancestors=ancestors), None, "org/run")
    assert card.data.base_model == "org/first-2" and card.data.base_model_relation == "finetune"
    assert card.data.datasets == ["uoft-cs/cifar100", "uoft-cs/cifar100-2", "org/birds"]
    links = [token.attrs["href"] for token in tokens_of(card) if token.type == "link_open"]
    assert "https://huggingface.co/org/first" in links
    one, two = (line for line in card.text.splitlines() if line.startswith("- [`org/first"))
    assert one.endswith(
        f" at revision `step2` (commit `{'0a' * 20}`): learned steps 1 to 2 on `uoft-cs/cifar100` by the method "
        "`other`, and knew 6 classes."
    )
    assert two.endswith(": learned step 3 on `uoft-cs/cifar100-2`, and knew 9 classes.")
    assert "(`step4`, `step5`)" in card.text and 'revision="step1"' not in card.text
    assert "on `uoft-cs/cifar100`, then `uoft-cs/cifar100-2`, then `org/birds`, step 5" in card.text
    assert "Different test images" in card.text and "Hatched cells" in card.text
    plain = card_of(tmp_path / "b", make_results(5))
    assert not any(word in plain.text for word in ("continues", "Different test images", "Hatched", "earlier models"))
    assert plain.data.base_model is None and "base_model_relation" not in plain.data.to_dict()


@pytest.mark.parametrize("model", ["step2", "org/base", "org/run"])
def test_an_ancestor_keeps_its_name_and_is_a_base_model_if_it_is_elsewhere(tmp_path: Path, model: str) -> None:
    results = make_results(3, ancestors=make_ancestors(2, model=model, dataset="my_pictures"))
    folder = write(tmp_path, results, None, "org/run")
    card = ModelCard.load(folder.path / "README.md")
    assert (card.data.base_model, card.data.datasets) == ("org/base" if model == "org/base" else None, None)
    (sentence,) = (line for line in card.text.splitlines() if line.startswith("- ") and "(commit" in line)
    moved = card_for(folder, "org/other")
    assert sentence in moved.splitlines() and ModelCard(moved).data.model_name == "org/other"
    assert ModelCard(render_card(folder, "org/other")).data.base_model == (None if model == "step2" else model)


def test_with_other_seeds_the_card_gives_mean_and_deviation(tmp_path: Path) -> None:
    runs = [make_results(3, seed=seed) for seed in (0, 1, 5)]
    alone, path = card_of(tmp_path, runs[0], 2, "org/run"), tmp_path / "step2"
    own = [up_to_step(run, 2) for run in runs]
    write_other_runs(path, [OtherRun.of(run, True) for run in own[1:]])
    card = ModelCard(render_card(StepFolder.read(path), "org/run"))
    assert card.data.to_dict() == alone.data.to_dict(), "the metadata is of this revision"
    rows = rows_of(card)

    def spread(values: Sequence[float | None]) -> str:
        return f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f} %"

    for name, key in (("Average incremental accuracy", "average_incremental_accuracy"), ("Forgetting", "forgetting")):
        values = [getattr(run, key) for run in own]
        assert rows[name] == [percent(values[0]), spread(values)]
    for step in (0, 1):
        assert rows[str(step + 1)][2] == spread([run.steps[step].accuracy for run in own])
        assert rows[str(step + 1)][3] == percent(runs[0].steps[step].top5_accuracy)
    assert "over 3 runs of this recipe, with seeds 0, 1, 5;" in card.text and "order of the classes" not in card.text
    assert "±" not in alone.text and "seeds.json" not in alone.text


def test_the_snippets_load_this_revision_and_teach_it_more(tmp_path: Path) -> None:
    for hub_model_id in (None, "org/run"):
        card = card_of(tmp_path / str(hub_model_id), make_results(3), 2, hub_model_id)
        snippets = content_of(card, "fence", "python")
        calls = [node for snippet in snippets for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Call)]
        revisions = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "revision"]
        assert len(snippets) == 3 and len(revisions) == 4
        assert {ast.literal_eval(value) for value in revisions} == {"step2"}
        assert card.text.count(f'"{hub_model_id or PLACEHOLDER_ID}"') == 4
    (command,) = content_of(card, "fence", "bash")
    words = shlex.split(command)
    assert words[:4] == ["accelerate", "launch", "-q", "training/incremental.py"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert (options["--model_name_or_path"], options["--model_revision"]) == ("org/run", "step2")


def test_the_recipe_is_quoted_without_what_belongs_to_one_machine(tmp_path: Path) -> None:
    path = write_trained_files(tmp_path / "step1", make_results(1), 1)
    kept = {"token_expansion": True, "note": "a\n```\n</details>", "learning_rate": 5e-4}
    secret = {"dataset_name": "/home/someone/pictures", "hub_token": "hf_secret"}
    secret |= {"files": ["~/a/b.txt", "C:\\Users\\someone\\c"]}
    (path / "training_config.yaml").write_text(yaml.safe_dump(kept | secret))
    card = ModelCard(render_card(StepFolder.read(path)))
    (quoted,) = content_of(card, "fence", "yaml")
    assert yaml.safe_load(quoted) == kept | {"dataset_name": "pictures", "files": ["b.txt", "c"]}
    assert "someone" not in card.content and "hf_secret" not in card.content


def test_adding_card_and_figures_again_changes_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for name, results in (("old", make_results(2)), ("new", with_calibration(make_results(2)))):
        path = write_trained_files(tmp_path / name / "step2", results, 2)
        if name == "new":
            make_confusion(results).write(path, results.class_names)
        add_card_and_figures(path, "org/run")
        assert (path / "README.md").read_text() == render_card(StepFolder.read(path), "org/run")
        shown = {token.attrs["src"] for token in tokens_of(ModelCard.load(path / "README.md")) if token.tag == "img"}
        assert shown == {f"figures/{file.name}" for file in (path / "figures").iterdir()}
        assert len(shown) == (4 if name == "new" else 2), "older runs recorded neither bins nor confusion"
        before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
        add_card_and_figures(path, "org/run")
        assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def class_table_of(card: ModelCard) -> list[list[str]]:
    """The cells of the table of accuracies per class, as a Markdown parser finds them."""
    section = card.text.partition("## Accuracy per class")[2].partition("\n## ")[0]
    cells = [token for token in tokens_of(ModelCard(section)) if token.type == "inline"]
    texts = ["".join(part.content for part in cell.children or []) for cell in cells]
    start = texts.index("Test images") + 1
    stop = start + 4 * section.count("\n| ") - 4
    return [texts[place : place + 4] for place in range(start, stop, 4)]


@pytest.mark.parametrize(
    ("results", "num_rows"),
    [
        (make_results(3, 2), 6),
        (make_results(5, 4), 20),
        (make_results(3, 7), 11),
        (make_results(5, 12, ancestors=make_ancestors(4)), 12),
    ],
)
def test_accuracies_per_class_are_those_of_the_file(tmp_path: Path, results: RunResults, num_rows: int) -> None:
    path = write_trained_files(tmp_path / "step", results, results.num_steps)
    make_confusion(results).write(path, results.class_names)
    images: dict[str, int] = {}
    correct: dict[str, int] = {}
    with (path / "confusion.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            images[row["true"]] = images.get(row["true"], 0) + int(row["images"])
            correct[row["true"]] = correct.get(row["true"], 0) + int(row["images"]) * (row["true"] == row["predicted"])
    step_of = {name: str(step.step) for step in results.steps for name in step.classes}
    expected = [[name, step_of[name], percent(correct[name] / images[name]), f"{images[name]:,}"] for name in images]
    if len(images) > 20:
        ranked = sorted(expected, key=lambda row: correct[row[0]] / images[row[0]])
        expected = [*ranked[:5], ["…"] * 4, *ranked[-5:]]
    card = ModelCard(render_card(StepFolder.read(path)))
    assert class_table_of(card) == expected and len(expected) == num_rows
    assert ("The 5 lowest and the 5 highest:" in card.text) == (num_rows == 11)
    assert (f"{len(images)} of them have test images" in card.text) == (len(images) < len(results.class_names))
    assert "](figures/confusion_matrix.png)" in card.text


def test_hostile_class_names_stay_in_their_cells(tmp_path: Path) -> None:
    cards, names = [], [*HOSTILE[:-1], *INVISIBLE, "a\\|b", "|", "\\|[x](https://evil.example)"]
    for own in (names, [f"class {number}" for number in range(len(names))]):
        results = make_results(1, len(own), names=own)
        path = write_trained_files(tmp_path / own[0][:5], results, 1)
        make_confusion(results).write(path, own)
        cards.append(ModelCard(render_card(StepFolder.read(path))))
    assert structure_of(cards[0]) == structure_of(cards[1])
    assert len(class_table_of(cards[0])) == len(names) <= 20
    shown = [row[0] for row in class_table_of(cards[0])]
    escapes = {"a\\|b": "a\\\\x7cb", "\\|[x](https://evil.example)": "\\\\x7c[x](https://evil.example)"}
    assert shown == [INVISIBLE.get(name) or escapes.get(name) or name for name in names]


def test_a_folder_without_a_confusion_keeps_its_card(tmp_path: Path) -> None:
    folder = write(tmp_path, make_results(3), None, "org/run")
    before = (folder.path / "README.md").read_text()
    assert not any(word in before for word in ("confusion", "per class"))
    make_confusion(folder.results).write(folder.path, folder.results.class_names)
    with_section = render_card(StepFolder.read(folder.path), "org/run")
    start, stop = (with_section.index(heading) for heading in ("## Accuracy per class", "## How the numbers are"))
    assert with_section[:start] + with_section[stop:] == before


def test_a_new_repository_id_changes_the_id_and_keeps_the_authors_words(tmp_path: Path) -> None:
    folder = write(tmp_path, make_results(2))
    card = folder.path / "README.md"
    assert hub_model_id_of(folder) is None and card_for(folder, "org/run") == render_card(folder, "org/run")

    card.write_text(render_card(folder, "org/run") + "\nBetter than org/run-small and a.org/run!\n")
    moved = card_for(folder, "org/other")
    assert moved.endswith("\nBetter than org/run-small and a.org/run!\n")
    assert moved.startswith(render_card(folder, "org/other"))

    card.write_text(render_card(folder).replace(f"name: {PLACEHOLDER_ID}", "name: digits", 1))
    renamed = render_card(folder, "org/run").replace("name: org/run", "name: digits", 1)
    assert card_for(folder, "org/run") == renamed, "a name that is no id is the author's own"


@pytest.mark.parametrize("content", [b"---\na: [\n---\n# x\n", b"---\n\xff\n---\n"])
def test_a_card_or_recipe_broken_by_hand_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path, make_results(1))
    (folder.path / "README.md").write_bytes(content)
    with pytest.raises(StepFolderError, match=r"^step1/README\.md: its metadata block is not valid YAML"):
        card_for(folder, "org/run")
    for recipe in (content, b"- a list"):
        (folder.path / "training_config.yaml").write_bytes(recipe)
        with pytest.raises(StepFolderError, match=r"^step1/training_config\.yaml: is not valid YAML"):
            render_card(folder)


def test_the_card_names_the_split_and_the_limit_that_were_measured(tmp_path: Path) -> None:
    results = replace(make_results(3, 2), test_split="validation")
    folder = StepFolder.read(write_trained_files(tmp_path / "step3", results, 3))
    recipe = folder.path / "training_config.yaml"
    recipe.write_text(recipe.read_text() + "max_eval_samples_per_class: 5\n")
    card = ModelCard(render_card(folder, "org/run"))
    assert "On the first 5 images of each class of the `validation` split of" in card.text
    for result in card.data.eval_results:
        assert result.dataset_split == "validation" and result.dataset_args == {"max_eval_samples_per_class": 5}
    # Results of earlier versions do not say which split it was.
    old = ModelCard(render_card(write(tmp_path / "old", make_results(3, 2)), "org/run"))
    assert {result.dataset_split for result in old.data.eval_results} == {None}
