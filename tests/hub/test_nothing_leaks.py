"""Canaries: what belongs to a machine or its user must reach neither the Hub nor the output of a command."""

import io
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dulwich.repo import Repo
from PIL import Image

from tests.command_line import words
from tests.hub.fake_run import STEP_FILES, make_results, write_run
from tests.hub.publication import LFS, XET, Publication


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

ROOT = Path(__file__).resolve().parents[2]

# In all that nobody but the user may see, and in the names of folders, which a command may name but the Hub may not.
SECRET = "canarysecret"
PLACE = "canaryplace"
TOKEN = f"hf_{SECRET * 3}"
OTHER_TOKEN = f"hf_{'0' * 10}{SECRET * 2}"
SECRETS = dict.fromkeys(
    ("USER", "LOGNAME", "HOSTNAME", "EMAIL", "AWS_SECRET_ACCESS_KEY", "GIT_AUTHOR_NAME"), f"{SECRET}@example.org"
)
STRAYS = """
    .env .cache/huggingface/token .ipynb_checkpoints/config.json __pycache__/modeling_dytox.pyc config.json~
    figures/.hidden.png figures/notes.txt model.pkl modeling_stray.py optimizer.pt pytorch_model.bin states/rng.json
""".split()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder whose name is a canary, with a home in it."""
    place = tmp_path / PLACE
    (place / "home").mkdir(parents=True)
    return place


@pytest.fixture
def run(place: Path) -> Path:
    """The output folder of a run, with a secret beside the files of every step."""
    run = write_run(place / "run", make_results(2))
    for step in run.glob("step*"):
        for stray in STRAYS:
            (step / stray).parent.mkdir(parents=True, exist_ok=True)
            (step / stray).write_text(SECRET)
    return run


def canary_environment(place: Path) -> dict[str, str]:
    """An environment in which every value is a canary that can be one."""
    return {**SECRETS, "HF_TOKEN": TOKEN, "HOME": str(place / "home"), "HF_HOME": str(place / "home" / "hf")}


def stored(hub: "LocalHub") -> Iterator[tuple[str, bytes]]:
    """All that a Hub has on disk: the objects of its git repositories and images unpacked, and every other file."""
    for git in hub.folder.glob("*/*/*/git"):
        repo = Repo(str(git))
        for oid in repo.object_store:
            yield f"{git.parent.name} {oid.decode()}", repo.object_store[oid].as_raw_string()
        repo.close()
    for path in hub.folder.rglob("*"):
        if path.is_file() and "objects" not in path.parts:
            yield str(path.relative_to(hub.folder)), path.read_bytes()


def assert_no_canary(hub: "LocalHub", *outputs: str) -> None:
    """No canary is on the Hub, in its log, in what is unpacked from images, or in `outputs`."""
    texts = [("output", output.encode()) for output in (*outputs, hub.log.read_text())]
    for name, content in stored(hub):
        image = repr(Image.open(io.BytesIO(content)).info).encode() if content.startswith(b"\x89PNG") else b""
        texts.append((name, content + image))
    for name, text in texts:
        assert SECRET.encode() not in text.lower() and PLACE.encode() not in text.lower(), name


def assert_only_listed_files(publication: Publication) -> None:
    """Every revision has the files of a step folder, and its weights hold nothing but tensors."""
    for revision in (*publication.state()["tags"], "main"):
        content = publication.content(revision)
        of_some = {"figures/calibration.png", "confusion.csv", "figures/confusion_matrix.png"}
        assert content.keys() - of_some - {"class_ranges.py", "encoders.py", "heads.py"} == STEP_FILES
        (length,) = struct.unpack_from("<Q", content["model.safetensors"])
        header = json.loads(content["model.safetensors"][8 : 8 + length])
        assert header.pop("__metadata__", {}) == {"format": "pt"}
        assert all(value.keys() == {"dtype", "shape", "data_offsets"} for value in header.values())


@pytest.mark.parametrize("transfer", [LFS, XET], ids=["lfs", "xet"])
def test_publishing_tells_nothing_about_the_machine(
    local_hub: "LocalHub", run: Path, place: Path, transfer: dict[str, str]
) -> None:
    publication = Publication(local_hub, run, "org/run", canary_environment(place) | transfer)
    outputs = []
    refused = [("POST", "/commit/", {"kind": "status", "status": status}) for status in (401, 403, 503)]
    dropped = [("POST", path, {"kind": "drop_before"}) for path in ("/repos/create$", "/tag/")]
    faults = [("GET", "/refs$", {"kind": "status"}), dropped[0], *refused, dropped[1]]
    for method, path, fault in faults if transfer == LFS else faults[-1:]:
        local_hub.inject({"method": method, "path": path, **fault})
        done = local_hub.finish(publication.start())
        assert local_hub.num_hits == 1 and "Traceback" not in done.stderr
        assert done.returncode == 0 or len(done.stderr.splitlines()) == 1
        outputs += [done.stdout, done.stderr]
    done = local_hub.finish(publication.start())
    assert done.returncode == 0, done.stderr
    assert_no_canary(local_hub, *outputs, done.stdout, done.stderr)
    assert_only_listed_files(publication)


def test_a_token_in_a_file_is_found_before_anything_goes_up(local_hub: "LocalHub", run: Path, place: Path) -> None:
    publication = Publication(local_hub, run, "org/run", canary_environment(place))
    outputs = []
    # The token of this machine, and one of someone else.
    for token, name, addition in (
        (TOKEN, "README.md", "\n`HF_TOKEN={}`\n"),
        (TOKEN, "training_config.yaml", "hub_token: {}\n"),
        (OTHER_TOKEN, "modeling_dytox.py", 'TOKEN = "{}"\n'),
    ):
        path = run / "step1" / name
        before = path.read_text()
        path.write_text(before + addition.format(token))
        done = local_hub.finish(publication.start())
        assert done.returncode == 1 and f"step1/{name} holds a Hub token" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        outputs += [done.stdout, done.stderr]
        path.write_text(before)
    assert local_hub.call("GET", "/api/models/org/run")[0] == 404
    assert_no_canary(local_hub, *outputs)


@pytest.mark.slow
def test_a_real_run_tells_nothing_about_the_machine(
    local_hub: "LocalHub", tiny_options: dict[str, object], place: Path
) -> None:
    write_images(place / "photos")
    options = tiny_options | {"dataset_name": place / "photos", "output_dir": place / "run", "push_to_hub": True}
    publication = Publication(local_hub, place / "run", "org/real", canary_environment(place))
    outputs = [train(publication, options)]
    # Steps that were learned after a restart come from what is read from disk, and its place.
    shutil.rmtree(place / "run" / "step3")
    again = Publication(local_hub, place / "run", "org/again", publication.env)
    outputs.append(train(again, options))
    assert "holds 2 of 3 steps" in outputs[1]

    for made in (publication, again):
        assert sorted(made.state()["tags"]) == ["step1", "step2", "step3"]
        assert_only_listed_files(made)
    # The commands may say where on the user's own machine they write.
    assert_no_canary(local_hub, *(output.replace(PLACE, "") for output in outputs))


def train(publication: Publication, options: dict[str, object]) -> str:
    """Trains and publishes; returns what was printed."""
    arguments = words(options | {"hub_model_id": publication.repo})
    script = str(ROOT / "training" / "incremental.py")
    done = publication.hub.finish(publication.hub.start_client(script, *arguments, **publication.env))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def write_images(folder: Path) -> None:
    """A data set of six classes with a training and a test split, as a folder of images."""
    for split, number in (("train", 6), ("test", 3)):
        for label in range(6):
            path = folder / split / f"class {label}"
            path.mkdir(parents=True)
            for index in range(number):
                Image.new("RGB", (8, 8), (40 * label, 30 * index, 99)).save(path / f"{index}.png")
