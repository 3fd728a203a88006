"""A run, its step folders and its revisions as version 0.1.0 wrote them, killed within step 3."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.run.results import RunResults
from tests.command_line import words
from tests.hub.conftest import LocalHub
from tests.hub.publication import Publication, content_of


ARCHIVE = Path(__file__).parents[1] / "fixtures" / "run_of_0_1_0.tar.gz"
TRAIN = """
    import sys
    from training import incremental
    for arguments in {runs!r}:
        sys.argv = ["training/incremental.py", *arguments]
        incremental.main()
"""


@pytest.fixture
def earlier_run(tmp_path: Path) -> Path:
    """Its output folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


@pytest.fixture
def earlier_hub(earlier_run: Path, tmp_path: Path) -> Iterator[LocalHub]:
    """The Hub that it was published to."""
    (tmp_path / "homes").mkdir()
    hub = LocalHub(tmp_path / "hub", tmp_path / "homes")
    yield hub
    hub.stop()


@pytest.mark.slow
def test_it_is_resumed_published_loaded_and_continued(
    earlier_run: Path, earlier_hub: LocalHub, tiny_options: dict[str, object], tmp_path: Path
) -> None:
    published = Publication(earlier_hub, earlier_run, "org/old")
    folders, before = {step: content_of(earlier_run / step) for step in ("step1", "step2")}, published.state()
    same_command = tiny_options | {"seed": 3, "output_dir": earlier_run}
    same_command |= {"push_to_hub": True, "push_memory": True, "hub_model_id": "org/old"}
    more = tiny_options | {"known_classes": "merge", "output_dir": tmp_path / "more"}
    more |= {"model_name_or_path": "org/old", "model_revision": "step2"}
    done = earlier_hub.run_warm("-c", TRAIN.format(runs=[words(same_command), words(more)]))
    assert done.returncode == 0, done.stderr[-3000:]

    assert "holds 2 of 3 steps" in done.stdout and "of another version" in done.stderr
    assert {step: content_of(earlier_run / step) for step in folders} == folders
    after = published.state()
    assert after["tags"] == before["tags"] | {"step3": after["branches"]["main"]}
    assert published.content("step3") == content_of(earlier_run / "step3")

    results = RunResults.read(earlier_run / "results.json")
    assert [step.forgetting is None for step in results.steps] == [True, False, False]
    continued = json.loads((tmp_path / "more" / "step3" / "results.json").read_text())
    assert continued["ancestors"][0]["method"] == continued["method"] == "dytox"

    walked = [earlier_hub.run_warm("-m", "hub.walk", "org/old", *code) for code in ([], ["--remote_code"])]
    assert walked[0].stdout == walked[1].stdout and walked[0].stdout.count("\n") == 4, walked[1].stderr[-3000:]
