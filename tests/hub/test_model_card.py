"""The card: what real parsers read in it, whatever the classes are called."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hub.errors import StepFolderError
from hub.model_card import PLACEHOLDER_ID, card_for, complete_step_folder, render_card
from hub.step_folder import StepFolder
from tests.hub.fake_run import fake_results, write_trained_files


HOSTILE = [
    "plain",
    "a | b",
    "</details><script>alert(1)</script>",
    "<!--",
    "[x](https://evil.example)",
    "![x](https://evil.example/p.png)",
    "https://evil.example www.evil.example me@evil.example",
    "`",
    "``` ` ``",
    " ` ",
    "  spaced  ",
    "{{ 7 * 7 }} {% raw %} {# x #}",
    "*bold* _it_ ~~no~~ # head",
    "- item: 'q' \"q\" & &amp; \\ \\n",
    "null",
    "tabby, tabby cat",
    "日本語 ñ 👩\u200d🔬",
    "x" * 300,
]
INVISIBLE = {
    "two\nlines": "two\\nlines",
    "---\n---\n": "---\\n---\\n",
    "\r\n": "\\r\\n",
    "\u202egnp": "\\u202egnp",
    "\x00\x1b[31m": "\\x00\\x1b[31m",
    "\ud800": "\\ud800",
    "\u2028": "\\u2028",
    "": '""',
}


def write(tmp_path: Path, results: dict[str, Any], step: int | None = None, hub_model_id: str | None = None) -> Path:
    """A step folder with its card, by default of the last step."""
    step = step or results["num_steps"]
    folder = write_trained_files(tmp_path / f"step{step}", results, step)
    (folder / "README.md").write_text(render_card(StepFolder.read(folder), hub_model_id))
    return folder


def tokens_of(card: ModelCard) -> list[Token]:
    """Everything a Markdown parser finds in the body, inline parts included."""
    blocks = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card.text)
    return [token for block in blocks for token in (block, *(block.children or []))]


def classes_of(card: ModelCard) -> list[str]:
    """The class names in the list of what the revision knows."""
    tokens = tokens_of(card)
    start = next(i for i, token in enumerate(tokens) if token.content == "What this revision knows")
    section = [token for token in tokens[start:]]
    stop = next(i for i, token in enumerate(section) if token.content == "How to use it")
    return [token.content for token in section[:stop] if token.type == "code_inline"]


@pytest.mark.parametrize(("steps", "step"), [(1, 1), (3, 2), (3, 3)])
def test_metadata_gives_back_the_numbers(tmp_path: Path, steps: int, step: int) -> None:
    results = fake_results(steps, dataset="uoft-cs/cifar100")
    data = ModelCard.load(write(tmp_path, results, step, "org/run") / "README.md").data
    own = StepFolder.read(tmp_path / f"step{step}").results
    expected = {
        "accuracy": own.last.accuracy,
        "top_5_accuracy": own.last.top5_accuracy,
        "average_incremental_accuracy": own.average_incremental_accuracy,
        "forgetting": own.forgetting,
        "backward_transfer": own.backward_transfer,
        "expected_calibration_error": own.last.expected_calibration_error,
    }
    measured = {result.metric_type: result.metric_value for result in data.eval_results}
    assert measured == {name: value for name, value in expected.items() if value is not None}
    assert {result.dataset_type for result in data.eval_results} == {"uoft-cs/cifar100"}
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "image-classification",
        "apache-2.0",
    )
    assert {"dytox", "continual-learning", "class-incremental-learning"} <= set(data.tags)
    assert data.model_name == "org/run" and data.datasets == ["uoft-cs/cifar100"]


def test_hostile_class_names_survive_and_inject_nothing(tmp_path: Path) -> None:
    names = [*HOSTILE, *INVISIBLE]
    shown = [*HOSTILE, *INVISIBLE.values()]
    plain = write(tmp_path / "plain", fake_results(1, len(names)))
    hostile = write(tmp_path / "hostile", fake_results(1, len(names), names=names))
    card = ModelCard.load(hostile / "README.md")
    assert classes_of(card) == shown

    harmless = ModelCard.load(plain / "README.md")
    assert card.data.to_dict() == harmless.data.to_dict()
    kinds = [(token.type, token.tag) for token in tokens_of(card)]
    assert kinds == [(token.type, token.tag) for token in tokens_of(harmless)], "the same structure, token by token"


@pytest.mark.parametrize(
    "dataset",
    ["---\n---\n# x", "a: b\n- c", "'\"`|<b>", "org/name\n", "\ud800", "", "C:\\Users\\someone\\data", "~/data"],
)
def test_any_data_set_name_makes_a_card_that_parses(tmp_path: Path, dataset: str) -> None:
    card = ModelCard.load(write(tmp_path, fake_results(2, dataset=dataset)) / "README.md")
    assert card.data.datasets is None
    assert re.fullmatch(r"[\w.-]+", card.data.eval_results[0].dataset_type)
    assert "someone" not in card.content
    assert [token.content for token in tokens_of(card) if token.type.startswith("html")] == [
        "<details><summary>Recipe (training_config.yaml)</summary>\n",
        "</details>\n",
    ]


def test_the_table_has_a_row_a_step_with_its_numbers(tmp_path: Path) -> None:
    results = fake_results(12, 3)
    text = ModelCard.load(write(tmp_path, results) / "README.md").text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [row[0] for row in rows] == [str(t) for t in range(1, 13)]
    assert [row[3] for row in rows] == [f"{100 * step['accuracy']:.2f} %" for step in results["steps"]]
    assert rows[0][5] == "–" and rows[-1][5] == f"{100 * results['forgetting']:.2f} %"


def test_a_thousand_classes_are_all_there_and_folded(tmp_path: Path) -> None:
    names = [f"n{i:08d}, {i}" for i in range(1000)]
    card = ModelCard.load(write(tmp_path, fake_results(10, 100, names=names)) / "README.md")
    assert classes_of(card) == names
    assert "<details><summary>The 1000 classes, by step</summary>" in card.text


@pytest.mark.parametrize("hub_model_id", [None, "org/run"])
def test_the_snippets_are_python_and_load_this_revision(tmp_path: Path, hub_model_id: str | None) -> None:
    card = ModelCard.load(write(tmp_path, fake_results(3), 2, hub_model_id) / "README.md")
    snippets = [token.content for token in tokens_of(card) if token.type == "fence" and token.info == "python"]
    calls = [node for snippet in snippets for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Call)]
    revisions = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "revision"]
    assert len(snippets) == 3 and len(revisions) == 4
    assert {ast.literal_eval(value) for value in revisions} == {"step2"}
    assert card.text.count(f'"{hub_model_id or PLACEHOLDER_ID}"') == 4


@pytest.mark.parametrize(("method", "words"), [("finetune", "floor"), ("joint", "ceiling"), ("replay", "*replay*")])
def test_the_card_names_the_method(tmp_path: Path, method: str, words: str) -> None:
    text = (write(tmp_path, fake_results(2, method=method)) / "README.md").read_text()
    assert f"# {method.title()} baseline on" in text and words in text


def test_the_recipe_is_quoted_without_what_belongs_to_one_machine(tmp_path: Path) -> None:
    folder = write_trained_files(tmp_path / "step1", fake_results(1), 1)
    recipe = {
        "dataset_name": "/home/someone/pictures",
        "hub_token": "hf_secret",
        "files": ["~/a/b.txt", "C:\\Users\\someone\\c"],
        "note": "```\n</details>",
        "learning_rate": 5e-4,
    }
    (folder / "training_config.yaml").write_text(yaml.safe_dump(recipe))
    complete_step_folder(folder)
    card = ModelCard.load(folder / "README.md")
    quoted = next(token.content for token in tokens_of(card) if token.type == "fence" and token.info == "yaml")
    expected = {"dataset_name": "pictures", "files": ["b.txt", "c"], "note": recipe["note"], "learning_rate": 5e-4}
    assert yaml.safe_load(quoted) == expected
    assert "someone" not in card.content and "hf_secret" not in card.content


def test_completing_twice_changes_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = write_trained_files(tmp_path / "step2", fake_results(2), 2)
    complete_step_folder(folder, "org/run")
    assert (folder / "README.md").read_text() == render_card(StepFolder.read(folder), "org/run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    complete_step_folder(folder, "org/run")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_new_repository_id_changes_the_id_and_keeps_the_authors_words(tmp_path: Path) -> None:
    folder = write(tmp_path, fake_results(2))
    card = folder / "README.md"
    assert card_for(StepFolder.read(folder), "org/run") == render_card(StepFolder.read(folder), "org/run")

    card.write_text(render_card(StepFolder.read(folder), "org/run") + "\nBetter than org/run-small and a.org/run!\n")
    moved = card_for(StepFolder.read(folder), "org/other")
    assert moved.endswith("\nBetter than org/run-small and a.org/run!\n")
    assert moved.startswith(render_card(StepFolder.read(folder), "org/other"))

    card.write_text(render_card(StepFolder.read(folder)).replace(f"name: {PLACEHOLDER_ID}", "name: digits", 1))
    renamed = render_card(StepFolder.read(folder), "org/run").replace("name: org/run", "name: digits", 1)
    assert card_for(StepFolder.read(folder), "org/run") == renamed, "a name that is no id is the author's own"


def test_a_card_broken_by_hand_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, fake_results(1))
    (folder / "README.md").write_text("---\na: [\n---\n# x\n")
    with pytest.raises(StepFolderError, match=r"^step1/README\.md: its metadata block is not valid YAML"):
        card_for(StepFolder.read(folder), "org/run")


def test_an_unreadable_recipe_is_named(tmp_path: Path) -> None:
    folder = write_trained_files(tmp_path / "step1", fake_results(1), 1)
    (folder / "training_config.yaml").write_text("a: [")
    with pytest.raises(StepFolderError, match=r"^step1/training_config\.yaml: is not valid YAML"):
        complete_step_folder(folder)
