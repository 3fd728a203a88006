"""The card: what real parsers read in it, whatever the classes are called."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hub.cards.model_card import PLACEHOLDER_ID, card_for, complete_step_folder, render_card
from hub.run.errors import StepFolderError
from hub.run.results import RunResults
from hub.run.seed_results import OTHER_RUNS_FILE, OtherRun, to_json_object
from hub.run.step_folder import StepFolder
from tests.hub.fake_run import continued, fake_results, up_to_step, with_calibration, write_json, write_trained_files


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


@pytest.mark.parametrize("foreign", [*HOSTILE, *INVISIBLE, "a\nb: c\n---\n# x", "org/name\n", "~/models/mine"])
def test_hostile_names_of_ancestors_inject_nothing(tmp_path: Path, foreign: str) -> None:
    cards = []
    for name, text in (("plain", "mine"), ("hostile", foreign)):
        results = continued(fake_results(3), 1, 2, model=text, dataset=text, revision=text)
        # The helper numbers the second one; here both are as hostile.
        for ancestor in results["ancestors"]:
            ancestor.update(model=text, revision=text, dataset=text)
        cards.append(ModelCard.load(write(tmp_path / name, results) / "README.md"))
    harmless, card = cards
    assert card.data.to_dict() == harmless.data.to_dict() and card.data.base_model is None
    # An empty revision is as good as none.
    kinds = [[(t.type, t.tag) for t in tokens_of(c) if t.type not in ("code_inline", "text")] for c in cards]
    assert kinds[0] == kinds[1], "the same structure, token by token"
    shown = [token.content for token in tokens_of(card) if token.type == "code_inline"]
    expected = INVISIBLE.get(foreign) or foreign.replace("\n", "\\n").replace("~/models/", "")
    assert shown.count(expected) >= 4


def test_a_continued_model_names_its_ancestors(tmp_path: Path) -> None:
    results = continued(fake_results(5, 3, dataset="org/birds"), 2, 3)
    card = ModelCard.load(write(tmp_path, results, hub_model_id="org/run") / "README.md")
    assert card.data.base_model == "org/dytox-cifar100-2" and card.data.base_model_relation == "finetune"
    assert card.data.datasets == ["uoft-cs/cifar100", "uoft-cs/cifar100-2", "org/birds"]
    assert {result.dataset_type for result in card.data.eval_results} == {"org/birds"}
    links = [token.attrs["href"] for token in tokens_of(card) if token.type == "link_open"]
    assert "https://huggingface.co/org/dytox-cifar100" in links and len(links) == 3
    assert "at revision `step2` (commit `0a0a" in card.text and "learned steps 1 to 2 on" in card.text
    assert "learned step 3 on `uoft-cs/cifar100-2`, and knew 9 classes" in card.text
    assert "(`step4`, `step5`, …)" in card.text and 'revision="step1"' not in card.text
    rows = [line.strip("| ").split(" | ") for line in card.text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [row[5] for row in rows][2] == "–" and rows[4][5] == f"{100 * results['forgetting']:.2f} %"
    assert "Different test images" in card.text and "hatched cells" in card.text
    assert card.text.startswith("\n# DyTox on `uoft-cs/cifar100`, then `uoft-cs/cifar100-2`, then `org/birds`, step 5")
    plain = ModelCard.load(write(tmp_path / "plain", fake_results(5)) / "README.md")
    assert not any(
        words in plain.text for words in ("continues", "Different test images", "hatched", "earlier models")
    )
    assert plain.data.base_model is None and "base_model_relation" not in plain.data.to_dict()


def test_what_a_step_could_not_measure_is_left_out_of_the_metadata(tmp_path: Path) -> None:
    folder = write(tmp_path, continued(fake_results(3, dataset="org/birds"), 2))
    card = ModelCard.load(folder / "README.md")
    types = {result.metric_type for result in card.data.eval_results}
    assert "accuracy" in types and not {"forgetting", "backward_transfer"} & types
    assert "| Forgetting | – |" in card.text


def test_a_local_ancestor_is_no_base_model(tmp_path: Path) -> None:
    results = continued(fake_results(3), 2, model="step2", dataset="my_pictures")
    results["ancestors"][0].update(revision=None, commit=None)
    card = ModelCard.load(write(tmp_path, results) / "README.md")
    assert card.data.base_model is None and card.data.datasets is None
    assert "- `step2`: learned steps 1 to 2 on `my_pictures`, and knew 4 classes." in card.text


def test_an_ancestor_keeps_its_name_when_the_repository_gets_another(tmp_path: Path) -> None:
    folder = write(tmp_path, continued(fake_results(3), 2, model="org/base"), hub_model_id="org/run")
    moved = ModelCard(card_for(StepFolder.read(folder), "org/other"))
    assert moved.data.base_model == "org/base" and moved.data.model_name == "org/other"
    assert moved.content == render_card(StepFolder.read(folder), "org/other")


def test_a_model_that_continues_in_its_own_repository_is_not_its_own_base_model(tmp_path: Path) -> None:
    folder = write(tmp_path, continued(fake_results(3), 2, model="org/run"), hub_model_id="org/run")
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model is None and card.data.to_dict().get("base_model_relation") is None
    (sentence,) = [line for line in card.text.splitlines() if line.startswith("- ") and "org/run" in line]
    moved = card_for(StepFolder.read(folder), "org/other")
    assert sentence in moved.splitlines(), "the ancestor is still where it was"


def test_with_other_seeds_the_card_tells_mean_and_deviation(tmp_path: Path) -> None:
    runs = [fake_results(3, seed=seed) for seed in (0, 1, 5)]
    folder = write_trained_files(tmp_path / "step2", runs[0], 2)
    alone = ModelCard(render_card(StepFolder.read(folder), "org/run"))
    own = [up_to_step(run, 2) for run in runs]
    others = [OtherRun.of(RunResults.from_dict(run), True) for run in own[1:]]
    write_json(folder / OTHER_RUNS_FILE, to_json_object(others))
    card = ModelCard(render_card(StepFolder.read(folder), "org/run"))
    assert card.data.to_dict() == alone.data.to_dict(), "the metadata is of this revision"

    cells = [line.strip("| ").split(" | ") for line in card.text.splitlines() if line.startswith("| ")]
    table = {row[0]: row[1:] for row in cells}
    for name, key in (("Average incremental accuracy", "average_incremental_accuracy"), ("Forgetting", "forgetting")):
        values = 100 * np.array([run[key] for run in own])
        expected = [f"{values[0]:.2f} %", f"{values.mean():.2f} ± {values.std(ddof=1):.2f} %"]
        assert table[name] == expected and len(expected) == 2
    for step in (1, 2):
        values = 100 * np.array([run["steps"][step - 1]["accuracy"] for run in own])
        assert table[str(step)][2] == f"{values.mean():.2f} ± {values.std(ddof=1):.2f} %"
        assert table[str(step)][3] == f"{100 * runs[0]['steps'][step - 1]['top5_accuracy']:.2f} %"
    assert "over 3 runs of this recipe, with seeds 0, 1, 5;" in card.text and "order of the classes" not in card.text
    assert "±" not in alone.text and "seeds.json" not in alone.text


def test_the_reliability_diagram_is_shown_where_there_is_one(tmp_path: Path) -> None:
    for name, results in (("old", fake_results(2)), ("new", with_calibration(fake_results(2)))):
        folder = write_trained_files(tmp_path / name / "step2", results, 2)
        complete_step_folder(folder)
        shown = [token.attrs["src"] for token in tokens_of(ModelCard.load(folder / "README.md")) if token.tag == "img"]
        assert sorted(shown) == sorted(f"figures/{path.name}" for path in (folder / "figures").iterdir())
        assert len(shown) == (3 if name == "new" else 2)


def test_the_card_tells_how_to_teach_this_revision_more(tmp_path: Path) -> None:
    card = ModelCard.load(write(tmp_path, fake_results(3), 2, "org/run") / "README.md")
    (command,) = (token.content for token in tokens_of(card) if token.type == "fence" and token.info == "bash")
    words = shlex.split(command)
    assert words[:3] == ["accelerate", "launch", "training/incremental.py"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert (options["--model_name_or_path"], options["--model_revision"]) == ("org/run", "step2")


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
