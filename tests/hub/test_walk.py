"""Walking through the revisions of a real, tiny model: from its folder, from the Hub, and by remote code."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hub.cards.model_card import add_card_and_figures
from hub.walk import main
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from tests.hub.fake_run import make_ancestors, make_results, up_to_step, write_recipe


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

NAMES = ["cat", "dog", "owl\x1b[31m", "fox", "ant", "bee"]
WALK = """
    from hub import publish
    from hub.walk import main
    publish.main([{run!r}, "--hub_model_id", "org/run"])
    for options in {calls!r}:
        print("exit", main(["org/run", *options]))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of two classes of an untrained model, saved as training saves them; step 1 has no images later."""
    torch.manual_seed(0)
    output_dir = tmp_path_factory.mktemp("walk") / "run"
    results = replace(make_results(3, names=NAMES, ancestors=make_ancestors(1)), ancestors=())
    config = DyToxConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        class_ranges=[[0, 2]],
        id2label=dict(enumerate(NAMES[:2])),
        label2id={name: label for label, name in enumerate(NAMES[:2])},
    )
    model = DyToxForImageClassification(config)
    for step in (1, 2, 3):
        if step > 1:
            model.add_task(NAMES[2 * step - 2 : 2 * step])
        folder = output_dir / f"step{step}"
        model.save_pretrained(folder)
        ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
        up_to_step(results, step).write(folder / "results.json")
        write_recipe(folder, results)
        add_card_and_figures(folder)
    return output_dir


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
    model = DyToxForImageClassification.from_pretrained(run / "step3").eval()
    pixels = ViTImageProcessor.from_pretrained(run / "step3")(Image.open(image), return_tensors="pt")
    score, label = model(**pixels).logits.sigmoid().max(-1)
    shown = NAMES[int(label)].replace("\x1b", "\\x1b")
    assert rows[2].endswith(f"{shown} ({score.item():.0%})")
    assert f"{model.num_parameters():,}" in rows[2] and "% (4 of 6 classes)" in rows[2]
    assert [row.split()[:2] for row in rows] == [["step1", "2:"], ["step2", "4:"], ["step3", "6:"]]
    assert "cat, dog, owl\\x1b[31m, fox" in rows[1], "a class name cannot steer the terminal"

    calls = [["--image", str(image), "--remote_code"], ["--image", str(image)], ["--revision", "step2"]]
    done = local_hub.run_python(WALK.format(run=str(run), calls=[*calls, ["--revision", "step9"]]))
    published_and_remote, plain, one, wrong, _ = done.stdout.split("exit ")
    assert published_and_remote.endswith(expected) and plain == f"0\n{expected}", done.stderr
    assert one.startswith("0\nrevision") and "\nstep2 " in one and "step1" not in one
    assert wrong == "0\n"
    assert done.stderr.splitlines()[-1] == "error: there is no revision 'step9', expected one of: step1, step2, step3"

    local_hub.inject({"method": "HEAD", "path": "results.json", "kind": "drop_before", "count": 99})
    failed = local_hub.finish(local_hub.start_client("-m", "hub.walk", "org/run", "--revision", "step1"))
    assert failed.stderr.startswith("error: cannot load step1 of org/run: ") and failed.stderr.count("\n") == 1
    assert "connection" in failed.stderr, "a file that cannot be reached is not taken for a missing one"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{run}", "--revision", "main"], "there is no revision 'main', expected one of: step1, step2, step3"),
        (["{run}", "--image", "{run}/step1/config.json"], "config.json cannot be read: not an image"),
        (["{run}", "--image", "{run}/none.png"], "none.png cannot be read: No such file"),
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
