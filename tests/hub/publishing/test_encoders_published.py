"""Every family of encoders: two steps published by the real client, loaded by clean ones, bit by bit."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from huggingface_hub import HfApi
from transformers import ViTImageProcessor

from hub.cards.model_card import render_card
from hub.run.step_folder import StepFolder
from modeling_dytox import IncrementalModel
from tests.hub.fake_run import make_results, up_to_step, write_run
from tests.hub.publication import PublicationHere
from tests.modeling_dytox.families import FAMILIES, first_step, images_for, make_model


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

PUBLISHED = ("vit", "dinov2_with_registers", "siglip_vision_model", "clip_vision_model", "convnext", "resnet", "swin")
PUBLISHED += ("timm_wrapper",)
SHARD = "model-00001-of-00002.safetensors"
LOAD = """
    import copy, json, sys, torch
    from transformers import AutoModelForImageClassification, logging
    logging.set_verbosity_error()
    remote_code = {remote_code}
    if not remote_code:
        import modeling_dytox
    different = []
    for source, revision, file in {sources!r}:
        expected = torch.load(file, weights_only=True)
        where = {{}} if revision is None else {{"revision": revision}}
        model = AutoModelForImageClassification.from_pretrained(source, trust_remote_code=remote_code, **where)
        with torch.no_grad():
            logits = copy.deepcopy(model).eval()(expected["images"]).logits
        if not torch.equal(logits, expected["logits"]):
            different.append([source, revision])
    print(json.dumps([different, "modeling_dytox" in sys.modules]))
"""


def write_expected(model: IncrementalModel, family: str, file: Path) -> str:
    images = images_for(family)
    with torch.no_grad():
        torch.save({"images": images, "logits": model(images).logits}, file)
    return str(file)


def write_step(folder: Path, template: Path, model: IncrementalModel) -> None:
    """A step folder with this model, as a run leaves it; the figures are those of the template."""
    shutil.copytree(template, folder)
    for name in ("model.safetensors", "configuration_dytox.py", "modeling_dytox.py"):
        (folder / name).unlink()
    model.save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    (folder / "README.md").write_text(render_card(StepFolder.read(folder)))


@pytest.mark.slow
def test_every_family_loads_bit_equal_from_its_revisions_and_folders(hub: "LocalHub", tmp_path: Path) -> None:
    results = make_results(2, names=list("vwxy"))
    write_run(tmp_path / "template", results)
    sources: list[tuple[str, str | None, str]] = []
    for family in PUBLISHED:
        run = tmp_path / family
        for step, model in enumerate((first_step(family)[0], make_model(family)[0]), 1):
            write_step(run / f"step{step}", tmp_path / "template" / f"step{step}", model)
            file = write_expected(model, family, tmp_path / f"{family}{step}.pt")
            sources.append((f"org/{family}", f"step{step}", file))
        up_to_step(results, 2).write(run / "results.json")
        publication = PublicationHere(hub, run, f"org/{family}")
        assert [line.split()[-1] for line in publication.published()] == ["published"] * 2
        files = [HfApi().get_paths_info(f"org/{family}", SHARD, revision=f"step{step}") for step in (1, 2)]
        (digest,) = {file.lfs.sha256 for (file,) in files}
        assert digest, "one file for both steps"
    # The others in the other architecture whose encoder may be any.
    for family in FAMILIES.keys() - PUBLISHED:
        model, folder = make_model(family, "growing_head")[0], tmp_path / family
        model.save_pretrained(folder)
        sources.append((str(folder), None, write_expected(model, family, folder / "expected.pt")))

    ways = {"package": LOAD.format(remote_code=False, sources=sources)}
    ways["remote code"] = LOAD.format(remote_code=True, sources=sources)
    # Other threads, other rounding.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    clients = {way: hub.start_python(code, **threads) for way, code in ways.items()}
    for way, client in clients.items():
        done = hub.finish(client)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout.splitlines()[-1]) == [[], way == "package"]
