"""What the explorer computes and says, without a page; and the files of a Space."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from hub.publish import main as publish
from hub.run.confusion import Confusion
from hub.run.errors import UserError
from hub.run.results import RunResults
from hub.space import html
from hub.space.answers import not_learned_yet, scores
from hub.space.attention import task_attention, token_views
from hub.space.changes import Change, changes
from hub.space.push import push_space, space_files
from hub.space.revisions import KEPT, Revisions
from tests.hub.space.conftest import NAMES


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

Explored = Callable[[int], Path]


@pytest.fixture
def photo() -> Image.Image:
    """A picture larger than the model's input."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))


def test_a_step_scores_what_it_knows_and_names_the_step_that_learned_it(
    explored: Explored, photo: Image.Image
) -> None:
    revisions = Revisions(str(explored(5)))
    loaded = revisions.load(3)
    pixels = np.asarray(photo.resize((12, 12), Image.Resampling.BILINEAR), np.float32) / 255
    logits = loaded.model(torch.tensor((pixels - 0.5) / 0.5).permute(2, 0, 1)[None]).logits[0]
    expected = {name: 1 / (1 + np.exp(-logit)) for name, logit in zip(NAMES, logits.detach().numpy(), strict=False)}
    found = scores(loaded, photo)
    assert [score.name for score in found] == sorted(expected, key=expected.__getitem__, reverse=True)
    for score in found:
        assert score.score == pytest.approx(expected[score.name], abs=1e-5)
        assert score.step == 1 + NAMES.index(score.name) // 2
    unknown = not_learned_yet(revisions.entries, 3)
    assert unknown == NAMES[6:]
    shown = html.scores_table(3, found, unknown)
    assert "Not learned yet at step 3:</strong> emu, cod, yak, gnu" in shown
    assert "&lt;b&gt;bee&lt;/b&gt;" in shown and "<b>bee" not in shown, "names of classes are no HTML"


def test_a_view_is_bright_where_its_task_token_looks(explored: Explored) -> None:
    loaded = Revisions(str(explored(5))).load(3)
    white = Image.new("RGB", (12, 12), "white")
    shares = task_attention(loaded, white)
    assert shares is not None and shares.shape == (3, 1 + 9)
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    views = token_views(loaded, white)
    assert [(view.step, view.classes) for view in views] == [
        (1, ("owl", "fox")),
        (2, ("<b>bee</b>", "cat")),
        (3, ("eel", "ant")),
    ]
    for view, share in zip(views, shares.detach().numpy(), strict=True):
        assert view.own == pytest.approx(share[0]) and min(view.overlay.size) >= 256
        length = view.overlay.size[0] // 3
        grey = np.asarray(view.overlay.convert("L"), float)
        centres = grey[length // 2 :: length, length // 2 :: length].ravel()
        # White shows the light alone; it rises with the share, from a floor.
        assert np.corrcoef(centres, share[1:])[0, 1] > 0.99
        assert np.argmax(centres) == np.argmax(share[1:]) and grey.min() > 0


def test_changes_are_those_of_the_confusion_matrices_else_of_the_steps(explored: Explored) -> None:
    run = explored(5)
    results = [RunResults.read(run / f"step{step}" / "results.json") for step in (2, 4)]
    counts = [(run / f"step{step}" / "confusion.csv").read_text().splitlines()[1:] for step in (2, 4)]
    accuracies: list[dict[str, float]] = []
    for lines in counts:
        cells = [line.rsplit(",", 2) for line in lines]
        names = {true for true, _, _ in cells}
        of = {name: sum(int(count) for true, _, count in cells if true == name) for name in names}
        accuracies.append({name: sum(int(n) for t, p, n in cells if t == p == name) / of[name] for name in names})
    confusions = [
        Confusion.read(run / f"step{step}", it.class_names, it.last) for step, it in zip((2, 4), results, strict=True)
    ]
    found = changes(results[0], results[1], (confusions[0], confusions[1]))
    assert {change.classes[0] for change in found} == set(NAMES[:8])
    for change in found:
        (name,) = change.classes
        assert change.before == pytest.approx(accuracies[0].get(name)) and change.after == pytest.approx(
            accuracies[1][name]
        )
        assert change.is_new == (name in NAMES[4:]) and (change.word == "new") == change.is_new
    lost = [change.difference for change in found if change.difference is not None]
    assert lost == sorted(lost) and len(lost) == 4, "the largest loss comes first"

    by_step = sorted(changes(*results), key=lambda change: change.step)
    assert [change.classes for change in by_step] == [tuple(NAMES[start : start + 2]) for start in range(0, 8, 2)]
    matrix = results[1].last.accuracy_per_step
    assert [change.after for change in by_step] == list(matrix) and by_step[2].before is None
    assert "not recorded" in html.changes_table(2, 4, by_step)
    words = [
        Change(("x",), 1, before, after, is_new=False).word
        for before, after in ((0.5, 0.0), (0.5, 0.4), (0.5, 0.6), (0.5, 0.5), (None, 0.5))
    ]
    assert words == ["forgotten", "worse", "better", "unchanged", "not measured"]


def test_the_last_few_models_stay_in_memory(explored: Explored) -> None:
    revisions = Revisions(str(explored(5)))
    first = revisions.load(1)
    for step in range(2, KEPT + 1):
        revisions.load(step)
    assert revisions.load(1) is first
    for step in range(2, KEPT + 2):
        revisions.load(step)
    assert revisions.load(1) is not first


def test_the_hub_shows_what_the_folder_shows_and_failures_are_sentences(
    hub: "LocalHub", explored: Explored, photo: Image.Image, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(explored(5), tmp_path / "run"))
    assert publish([str(run), "--hub_model_id", "org/five"]) == 0
    here, there = Revisions(str(run)), Revisions("org/five")
    assert [(entry.tag, entry.accuracy) for entry in there.entries] == [
        (entry.tag, entry.accuracy) for entry in here.entries
    ]
    assert scores(there.load(4), photo) == scores(here.load(4), photo)
    results = there.results(4)
    assert there.confusion(4, results) == here.confusion(4, here.results(4)) is not None
    for source, message in (("org/none", "neither a folder nor a repository"), (str(tmp_path), "has no step yet")):
        with pytest.raises(UserError, match=message):
            Revisions(source)
    with pytest.raises(UserError, match="has no step 9, expected one of 1, 2, 3, 4, 5"):
        there.load(9)
    hub.stop()
    try:
        with pytest.raises(UserError, match="no connection to the Hub") as caught:
            there.load(2)
        assert "\n" not in str(caught.value)
    finally:
        hub.start(port=hub.port)


def test_another_model_is_no_model_of_steps(explored: Explored, tmp_path: Path) -> None:
    run = Path(shutil.copytree(explored(1), tmp_path / "run"))
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 12,
    }
    revisions = Revisions(str(run))
    ViTForImageClassification(ViTConfig(patch_size=4, **sizes)).save_pretrained(run / "step1")
    with pytest.raises(UserError, match="is a 'vit' without class_ranges"):
        revisions.load(1)


SPACE = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {folder!r})
    sys.modules["gradio"] = None
    from PIL import Image
    import modeling_dytox
    from hub.space.answers import scores
    from hub.space.revisions import Revisions
    from hub.space import attention, changes, html
    print(scores(Revisions({run!r}).load(5), Image.new("RGB", (12, 12)))[0].name)
    ours = [sys.modules[name] for name in sys.modules if name.split(".")[0] in ("hub", "modeling_dytox", "training")]
    assert all(Path(module.__file__).is_relative_to({folder!r}) for module in ours), ours
"""


def test_a_space_stands_alone_and_is_made_once(hub: "LocalHub", explored: Explored, tmp_path: Path) -> None:
    folder = tmp_path / "space"
    gradio = pytest.importorskip("gradio", reason="the page needs gradio: pip install -e '.[space]'")
    for path, content in space_files("org/five").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    urls = {push_space("org/five", "org/five-explorer") for _ in range(2)}
    assert urls == {f"{hub.endpoint}/spaces/org/five-explorer"}
    api = HfApi()
    assert set(api.list_repo_files("org/five-explorer", repo_type="space")) == {
        ".gitattributes",
        *space_files("org/five"),
    }
    titles = [commit.title for commit in api.list_repo_commits("org/five-explorer", repo_type="space")]
    assert titles == ["Explorer of org/five", "initial commit"], "the second time there was nothing to do"
    api.create_repo("org/other", repo_type="space", space_sdk="gradio")
    api.upload_file(path_or_fileobj=b"print()", path_in_repo="app.py", repo_id="org/other", repo_type="space")
    with pytest.raises(UserError, match="org/other holds another app"):
        push_space("org/five", "org/other")
    done = hub.run_warm("-c", SPACE.format(folder=str(folder), run=str(explored(5))))
    assert done.returncode == 0 and done.stdout.strip() in NAMES, done.stderr
    assert f"sdk_version: {gradio.__version__}" in (folder / "README.md").read_text()


def test_without_gradio_one_line_says_what_to_install(hub: "LocalHub", explored: Explored) -> None:
    code = """
        import sys
        sys.modules["gradio"] = None
        from hub.space.__main__ import main
        print(main(["--local", {run!r}]))
    """
    done = hub.run_warm("-c", code.format(run=str(explored(1))))
    assert done.stdout.strip() == "1" and done.stderr.count("\n") == 1, done.stderr
    assert 'pip install -e ".[space]"' in done.stderr
