"""Walking through the revisions of a real, tiny model: from its folder, from the Hub, and by remote code."""

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessor

from hub.run.text import printable
from hub.walk import main
from modeling_dytox import DyToxForImageClassification
from tests.hub.fake_run import write_json


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

WALK = """
    import sys
    from hub import publish
    from hub.walk import main
    publish.main([{run!r}, "--hub_model_id", "org/run"])
    sys.modules["modeling_dytox"] = None
    for options in {calls!r}:
        print("exit", main(["org/run", *options]))
        sys.modules.pop("modeling_dytox", None)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A run of two steps by an earlier version, step 2 with other class names, and without images of step 1."""
    folder = tmp_path_factory.mktemp("walk")
    with tarfile.open(root / "tests" / "fixtures" / "run_of_0_1_0.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    step = folder / "run" / "step2"
    config, results = (json.loads((step / name).read_text()) for name in ("config.json", "results.json"))
    names = ["cat\x1b[31m", "owl\x1b[31m", "fox\x1b[31m", "bee\x1b[31m"]
    config["id2label"] = dict(enumerate(names))
    results["steps"][0]["classes"], results["steps"][1]["classes"] = names[:2], names[2:]
    results["steps"][1]["accuracy_per_step"][0] = None
    write_json(step / "config.json", config)
    write_json(step / "results.json", results)
    return folder / "run"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture larger than the model's input."""
    path = tmp_path_factory.mktemp("images") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    return path


def test_a_folder_and_the_hub_give_the_same_with_and_without_the_package(
    local_hub: "LocalHub", run: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "--image", str(image)]) == 0
    expected = capsys.readouterr().out
    header, *rows = expected.splitlines()
    assert header.split() == ["revision", "classes", "parameters", "accuracy", "photo.png"]
    model = DyToxForImageClassification.from_pretrained(run / "step2").eval()
    pixels = ViTImageProcessor.from_pretrained(run / "step2")(Image.open(image), return_tensors="pt")
    score, label = model(**pixels).logits.sigmoid().max(-1)
    assert rows[1].endswith(f"{printable(model.config.id2label[int(label)])} ({score.item():.0%})")
    assert f"{model.num_parameters():,}" in rows[1] and "25.0% (2 of 4 classes)" in rows[1]
    assert [row.split()[:2] for row in rows] == [["step1", "2:"], ["step2", "4:"]]
    assert "cat\\x1b[31m, owl\\x1b[31m" in rows[1] and "\x1b" not in expected, "a name cannot steer the terminal"

    assert main([str(run), "--list"]) == 0
    recorded = capsys.readouterr().out.splitlines()

    calls = [["--image", str(image), "--remote_code"], ["--image", str(image)], ["--revision", "step2"], ["--list"]]
    done = local_hub.run_warm("-c", WALK.format(run=str(run), calls=[*calls, ["--revision", "step9"]]))
    published_and_remote, plain, one, listed, wrong, _ = done.stdout.split("exit ")
    assert published_and_remote.endswith(expected) and plain == f"0\n{expected}", done.stderr
    assert one.startswith("0\nrevision") and "\nstep2 " in one and "step1" not in one
    # The same but for the commits.
    rows = [line.split() for line in listed.splitlines()[1:]]
    assert [row[2:] for row in rows] == [line.split()[2:] for line in recorded]
    assert [row[0] for row in rows] == ["revision", "step1", "step2"] and len(rows[1][1]) == 8 and "+bee" in listed
    assert wrong == "0\n"
    assert done.stderr.splitlines()[-1] == "error: there is no revision 'step9', expected one of: step1, step2"

    local_hub.inject({"method": "HEAD", "path": "results.json", "kind": "drop_before", "count": 99})
    failed = local_hub.run_warm("-m", "hub.walk", "org/run", "--revision", "step1")
    assert failed.stderr.startswith("error: cannot load step1 of org/run: ") and failed.stderr.count("\n") == 1
    assert "connection" in failed.stderr, "a file that cannot be reached is not taken for a missing one"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{run}", "--revision", "main"], "there is no revision 'main', expected one of: step1, step2"),
        (["{run}", "--image", "{run}/step1/config.json"], "config.json cannot be read: not an image"),
        (["{run}", "--image", "{run}/none.png"], "none.png cannot be read: No such file"),
        (["{run}", "--list", "--revision", "step1"], "--list loads no revision"),
        (["{run}/step1"], "has no step yet"),
        (["no such thing"], "is neither a folder nor a repository id"),
    ],
)
def test_a_wrong_request_is_one_line(
    run: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(run=run) for argument in arguments]) == 1
    output = capsys.readouterr()
    assert output.out == "" and expected in output.err
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
