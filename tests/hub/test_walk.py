"""Walking through the revisions of a real, tiny model: from its folder, from the Hub, and by remote code."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hub.cards.model_card import complete_step_folder
from hub.walk import main
from modeling_dytox import DyToxConfig, DyToxForImageClassification
from tests.hub.fake_run import fake_results, up_to_step, write_json, write_recipe


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

NAMES = ["cat", "dog", "owl\x1b[31m", "fox", "ant", "bee"]
WALK = """
    import json, sys
    from hub.publishing.destination import Destination
    from hub.publishing.revision import publish_step
    from hub.walk import main
    for step in (1, 2, 3):
        publish_step({run!r} + f"/step{{step}}", Destination("org/run"))
    for options in {calls!r}:
        status = main(["org/run", *options])
        print(f"exit {{status}}")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of two classes of an untrained model, saved as training saves them."""
    torch.manual_seed(0)
    output_dir = tmp_path_factory.mktemp("walk") / "run"
    results = fake_results(3, names=NAMES)
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
        write_json(folder / "results.json", up_to_step(results, step))
        write_recipe(folder, results)
        complete_step_folder(folder, None)
    return output_dir


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture larger than the model's input."""
    path = tmp_path_factory.mktemp("images") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    return path


def test_a_folder_is_walked_in_order(run: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--image", str(image)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["revision", "classes", "parameters", "accuracy", "photo.png"]
    model = DyToxForImageClassification.from_pretrained(run / "step3").eval()
    pixels = ViTImageProcessor.from_pretrained(run / "step3")(Image.open(image), return_tensors="pt")
    score, label = model(**pixels).logits.sigmoid().max(-1)
    shown = NAMES[int(label)].replace("\x1b", "\\x1b")
    assert rows[2].endswith(f"{shown} ({score.item():.0%})")
    assert f"{model.num_parameters():,}" in rows[2]
    assert [row.split()[:2] for row in rows] == [["step1", "2:"], ["step2", "4:"], ["step3", "6:"]]
    assert "cat, dog, owl\\x1b[31m, fox" in rows[1], "a class name cannot steer the terminal"


def test_the_hub_tells_the_same_with_and_without_the_package(
    local_hub: "LocalHub", run: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(run), "--image", str(image)])
    expected = capsys.readouterr().out
    calls = [
        ["--image", str(image), "--remote_code"],
        ["--image", str(image)],
        ["--revision", "step2"],
        ["--revision", "step9"],
    ]
    done = local_hub.run_python(WALK.format(run=str(run), calls=calls))
    remote, plain, one, wrong, _ = done.stdout.split("exit ")
    assert (remote, plain) == (expected, f"0\n{expected}"), done.stderr
    assert one.startswith("0\nrevision") and "\nstep2 " in one and "step1" not in one
    assert wrong == "0\n"
    assert done.stderr.splitlines()[-1] == "error: there is no revision 'step9', expected one of: step1, step2, step3"


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
