"""From the command line to a revision: train, publish, load by revision in clean processes."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.command_line import words


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub


LAUNCH = ["-m", "accelerate.commands.launch", "--num_processes=1", "--num_machines=1", "--mixed_precision=no"]
LAUNCH += ["--dynamo_backend=no", str(Path(__file__).parents[2] / "training" / "incremental.py")]
ALICE = {"hf_alice": {"name": "alice", "orgs": ["org"], "role": "write"}}
BOB = {"hf_bob": {"name": "bob", "orgs": ["org"], "role": "read"}}

# Run with the package out of reach where it says so; prints the logits of one fixed image as hexadecimal bytes.
LOAD = """
import sys
if {remote_code}:
    sys.modules["modeling_dytox"] = None
else:
    import modeling_dytox
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
where = {where!r}
model = AutoModelForImageClassification.from_pretrained({source!r}, trust_remote_code={remote_code}, **where).eval()
AutoImageProcessor.from_pretrained({source!r}, **where)
pixel_values = torch.linspace(-2, 2, 3 * 8 * 8).reshape(1, 3, 8, 8)
with torch.no_grad():
    logits = model(pixel_values).logits
print(type(model).__module__.split(".")[0], logits.numpy().tobytes().hex())
"""


def command_line(options: dict[str, object], **more: object) -> list[str]:
    return words(options | more)


def test_each_step_is_a_revision_that_loads_with_and_without_the_package(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    arguments = command_line(tiny_options, output_dir=tmp_path / "run", push_to_hub=True, hub_model_id="org/tiny")
    launched = local_hub.run_python(
        f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, *{LAUNCH + arguments!r}]))"
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    for step in (1, 2, 3):
        folder = tmp_path / "run" / f"step{step}"
        local = run_load(local_hub, str(folder), {}, remote_code=False)
        revision = {"revision": f"step{step}"}
        package = run_load(local_hub, "org/tiny", revision, remote_code=False)
        remote = run_load(local_hub, "org/tiny", revision, remote_code=True)
        assert local[0] == package[0] == "modeling_dytox" and remote[0] == "transformers_modules"
        assert local[1] == package[1] == remote[1]
        assert len(local[1]) == 2 * step * 8  # Two classes a step, four bytes each, in hexadecimal.
        card = (folder / "README.md").read_text()
        assert f'"org/tiny", revision="step{step}"' in card and str(tmp_path) not in card

    # The same command again finds everything done, here and on the Hub.
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*.safetensors"))
    again = local_hub.run_python(
        f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, *{LAUNCH + arguments!r}]))"
    )
    assert again.returncode == 0 and "holds 3 of 3 steps" in again.stdout
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*.safetensors"))


def run_load(local_hub: "LocalHub", source: str, where: dict[str, str], remote_code: bool) -> list[str]:
    done = local_hub.run_python(LOAD.format(source=source, where=where, remote_code=remote_code))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_a_hub_that_breaks_down_does_not_stop_the_training(
    start_local_hub: Callable[..., "LocalHub"], tiny_options: dict[str, object], tmp_path: Path
) -> None:
    hub = start_local_hub()
    options = tiny_options | {"num_classes": 4, "output_dir": tmp_path / "run", "hub_model_id": "org/late"}
    script = f"""
        import os, signal, sys
        from functools import partial
        from huggingface_hub import HfApi
        from training import incremental as script
        script.BackgroundPublisher = partial(script.BackgroundPublisher, retry_delays=())
        commit = HfApi.create_commit
        def break_down(*args, **kwargs):
            os.kill({hub.process.pid}, signal.SIGKILL)
            return commit(*args, **kwargs)
        HfApi.create_commit = break_down
        sys.argv = ["incremental.py", *{command_line(options, push_to_hub=True)!r}]
        script.main()
    """
    trained = hub.run_python(script)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "is not published" in trained.stderr and "python -m hub.publish" in trained.stderr
    assert len(json.loads((tmp_path / "run" / "results.json").read_text())["steps"]) == 2
    hub.process.wait()
    hub.start()
    finish = [str(tmp_path / "run"), "--hub_model_id", "org/late"]
    later = hub.run_python(f"import sys; from hub.publish import main; sys.exit(main({finish!r}))")
    assert later.returncode == 0, later.stderr
    refs = hub.run_python(
        "from huggingface_hub import HfApi; print([tag.name for tag in HfApi().list_repo_refs('org/late').tags])"
    )
    assert "step1" in refs.stdout and "step2" in refs.stdout


def test_a_run_that_goes_on_while_the_hub_is_down_learns_all_the_same(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    options = tiny_options | {"num_classes": 4, "output_dir": tmp_path / "run"}
    publish = {"push_to_hub": True, "hub_model_id": "org/late"}
    script = """
        import sys
        from functools import partial
        from huggingface_hub import HfApi
        from training import incremental as script
        script.BackgroundPublisher = partial(script.BackgroundPublisher, retry_delays=())
        def unreachable(*arguments, **options):
            raise ConnectionError("no route")
        HfApi.whoami = HfApi.list_repo_refs = unreachable
        sys.argv = ["incremental.py", *{arguments!r}]
        script.main()
    """
    new = local_hub.run_python(script.format(arguments=command_line(options | publish)))
    assert new.returncode == 2 and "no connection to the Hub" in new.stderr, "a new run can be put right first"
    assert not (tmp_path / "run").exists()
    begun = local_hub.run_python(script.format(arguments=command_line(options)))
    assert begun.returncode == 0, begun.stderr[-3000:]
    shutil.rmtree(tmp_path / "run" / "step2")
    again = local_hub.run_python(script.format(arguments=command_line(options | publish)))
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Cannot reach the Hub" in again.stderr and "Not published: step 1, 2" in again.stderr
    assert (tmp_path / "run" / "step2" / "config.json").is_file()


def test_a_run_that_is_stopped_does_not_wait_for_what_is_on_its_way(
    local_hub: "LocalHub", tiny_options: dict[str, object], tmp_path: Path
) -> None:
    local_hub.inject({"method": "PUT", "path": "/objects/", "kind": "slow", "seconds": 60, "count": 9})
    options = tiny_options | {"output_dir": tmp_path / "run", "push_to_hub": True, "hub_model_id": "org/slow"}
    options |= {"num_epochs": 500, "num_workers": 1}
    process = local_hub.start_client("-m", "training.incremental", *command_line(options))
    try:
        deadline = time.monotonic() + 120
        while not local_hub.num_hits:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in process.communicate()[1]


@pytest.mark.parametrize(
    "tokens, token, repository, expected",
    [
        (ALICE | BOB, "hf_bob", "org/model", "read"),
        (ALICE, "hf_alice", "elsewhere/model", "elsewhere"),
        (ALICE, "hf_nobody", "org/model", "token"),
        (ALICE, "hf_alice", "not a repository", "not a repository"),
    ],
)
def test_a_hub_that_refuses_is_known_before_training(
    start_local_hub: Callable[..., "LocalHub"],
    tiny_options: dict[str, object],
    tmp_path: Path,
    tokens: dict[str, dict[str, object]],
    token: str,
    repository: str,
    expected: str,
) -> None:
    hub = start_local_hub(tokens)
    arguments = command_line(tiny_options, output_dir=tmp_path / "run", push_to_hub=True, hub_model_id=repository)
    script = (
        f"import sys; sys.argv = ['incremental.py', *{arguments!r}]; from training.incremental import main; main()"
    )
    refused = hub.run_python(script, HF_TOKEN=token)
    errors = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert refused.returncode == 2 and len(errors) == 1, refused.stderr
    assert expected in errors[0] and token not in refused.stderr
    assert not list((tmp_path).glob("run/step*"))


def test_the_demo_command_explains_itself(root: Path) -> None:
    shown = subprocess.run([sys.executable, "-m", "hub.demo", "--help"], cwd=root, capture_output=True, text=True)
    assert shown.returncode == 0 and "--folder" in shown.stdout
