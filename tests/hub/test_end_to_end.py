"""From the command line to a revision: train, publish, load by revision in clean processes."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.command_line import words
from training.methods import METHODS


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub


pytestmark = pytest.mark.slow
LAUNCH = ("-m", "accelerate.commands.launch", "--num_processes=1", "--num_machines=1", "--mixed_precision=no")
LAUNCH += ("--dynamo_backend=no", str(Path(__file__).parents[2] / "training" / "incremental.py"))

# Run with the package out of reach where it says so; prints the logits of one fixed image as hexadecimal bytes.
LOAD = """
    import json, sys
    if {remote_code}:
        sys.modules["modeling_dytox"] = None
    else:
        import modeling_dytox
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    pixel_values = torch.linspace(-2, 2, 3 * 8 * 8).reshape(1, 3, 8, 8)
    found = []
    for source, where in {sources!r}:
        code = {{"trust_remote_code": {remote_code}}}
        model = AutoModelForImageClassification.from_pretrained(source, **code, **where).eval()
        AutoImageProcessor.from_pretrained(source, **where)
        with torch.no_grad():
            logits = model(pixel_values).logits
        found.append([type(model).__module__.split(".")[0], logits.numpy().tobytes().hex()])
    print(json.dumps(found))
"""
# Runs the script several times in one process, without waiting for a Hub that is out of reach; each time the folder
# `lost` is gone. Writes each status to standard error.
TRAIN = """
    import shutil, sys
    from functools import partial
    from training import incremental
    incremental.BackgroundPublisher = partial(incremental.BackgroundPublisher, retry_delays=())
    for arguments in {runs!r}:
        shutil.rmtree({lost!r}, ignore_errors=True)
        sys.argv = ["training/incremental.py", *arguments]
        status = 0
        try:
            incremental.main()
        except SystemExit as end:
            status = end.code
        sys.stderr.write(f"status {{status}}\\n")
"""


def test_each_step_is_a_revision_that_loads_with_and_without_the_package(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = words(tiny_options | {"output_dir": run, "push_to_hub": True, "hub_model_id": "org/tiny"})
    launched = local_hub.finish(local_hub.start_client(*LAUNCH, *options))
    assert launched.returncode == 0, launched.stderr[-3000:]
    folders = [run / f"step{step}" for step in (1, 2, 3)]
    here = [(str(folder), {}) for folder in folders]
    there = [("org/tiny", {"revision": folder.name}) for folder in folders]
    modules, logits = zip(*load(local_hub, [*here, *there], remote_code=False), strict=True)
    remote_modules, remote_logits = zip(*load(local_hub, there, remote_code=True), strict=True)
    assert set(modules) == {"modeling_dytox"} and set(remote_modules) == {"transformers_modules"}
    assert logits[:3] == logits[3:] == remote_logits
    # Two classes a step, four bytes each, in hexadecimal.
    assert [len(content) for content in remote_logits] == [2 * 8, 4 * 8, 6 * 8]
    for folder in folders:
        card = (folder / "README.md").read_text()
        assert f'"org/tiny", revision="{folder.name}"' in card and str(tmp_path) not in card

    # The same command again finds everything done, here and on the Hub.
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    again = local_hub.run_warm("-m", "training.incremental", *options)
    assert again.returncode == 0 and "holds 3 of 3 steps" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}


def load(hub: "LocalHub", sources: list[tuple[str, dict[str, str]]], remote_code: bool) -> list[tuple[str, str]]:
    done = hub.run_warm("-c", LOAD.format(sources=sources, remote_code=remote_code))
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[tuple[str, str]] = json.loads(done.stdout)
    return found


def test_models_of_every_method_load_from_their_revisions_with_and_without_the_package(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    options = tiny_options | {"num_classes": 4, "push_to_hub": True}
    runs = [
        words(options | {"method": method, "output_dir": tmp_path / method, "hub_model_id": f"org/{method}"})
        for method in METHODS
    ]
    # In two processes, each within the time that one may take.
    for part in (runs[::2], runs[1::2]):
        trained = local_hub.run_warm("-c", TRAIN.format(runs=part, lost=str(tmp_path / "lost")))
        assert trained.stderr.count("status 0") == len(part), trained.stderr[-3000:]
    here = [(str(tmp_path / method / "step2"), {}) for method in METHODS]
    there = [(f"org/{method}", {"revision": "step2"}) for method in METHODS]
    modules, logits = zip(*load(local_hub, [*here, *there], remote_code=False), strict=True)
    remote_modules, remote_logits = zip(*load(local_hub, there, remote_code=True), strict=True)
    assert set(modules) == {"modeling_dytox"} and set(remote_modules) == {"transformers_modules"}
    assert logits[: len(METHODS)] == logits[len(METHODS) :] == remote_logits
    assert len(set(remote_logits)) == len(METHODS)


def test_a_hub_out_of_reach_stops_a_new_run_but_none_that_has_begun(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = tiny_options | {"num_classes": 4, "output_dir": run}
    publish = options | {"push_to_hub": True, "hub_model_id": "org/late"}
    local_hub.stop()
    runs = [words(publish | {"output_dir": tmp_path / "new"}), words(options), words(publish)]
    done = local_hub.run_warm("-c", TRAIN.format(runs=runs, lost=str(run / "step2")))
    assert done.returncode == 0, done.stderr[-3000:]
    new, begun, resumed, _ = re.split(r"(?<=status \d)\n", done.stderr)
    assert "no connection to the Hub" in new and new.endswith("status 2")
    assert not (tmp_path / "new").exists(), "a new run can be put right first"
    assert "Hub" not in begun and begun.endswith("status 0")
    assert "Cannot reach the Hub" in resumed and resumed.endswith("status 0")
    assert (run / "step2" / "config.json").is_file()

    (advice,) = [line for line in resumed.splitlines() if line.startswith("Not published: step 1, 2.")]
    local_hub.start()
    python, *command = shlex.split(advice.partition(" later: ")[2])
    assert python == "python"
    later = local_hub.finish(local_hub.start_client(*command))
    assert later.returncode == 0, later.stderr
    refs = json.loads(local_hub.call("GET", "/api/models/org/late/refs")[2])
    assert [tag["name"] for tag in refs["tags"]] == ["step1", "step2"]


def test_a_run_that_is_stopped_does_not_wait_for_an_upload(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    local_hub.inject({"method": "PUT", "path": "/objects/", "kind": "slow", "seconds": 60, "count": 9})
    options = tiny_options | {"output_dir": tmp_path / "run", "push_to_hub": True, "hub_model_id": "org/slow"}
    options |= {"num_epochs": 20, "num_workers": 1}
    process = local_hub.start_client("-m", "training.incremental", *words(options))
    try:
        deadline = time.monotonic() + 120
        while not local_hub.num_hits:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in process.communicate()[1]


def test_the_demo_command_explains_itself(root: Path) -> None:
    shown = subprocess.run([sys.executable, "-m", "hub.demo", "--help"], cwd=root, capture_output=True, text=True)
    assert shown.returncode == 0 and "--folder" in shown.stdout
