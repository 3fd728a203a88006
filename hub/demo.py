"""
The whole project in one command: learns the digits in five steps, publishes each step to a Hub that is served from a
folder, and loads the revisions one after the other as any user would.

    python -m hub.demo
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits


REPOSITORY = "demo/dytox-digits"
RECIPE = "training/recipes/digits.yaml"
# One image for each step, shown to every revision.
SHOWN_DIGITS = (1, 3, 5, 7, 9)


@contextmanager
def local_hub(folder: Path) -> Iterator[str]:
    """Serves a Hub from `folder` until the block ends; yields its endpoint."""
    command = [sys.executable, "-m", "hub.local_server", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        endpoint = server.stdout.readline().strip() if server.stdout else ""
        if not endpoint:
            sys.exit(f"error: the Hub in {folder} did not start: stop what serves it, or choose another --folder.")
        yield endpoint
    finally:
        server.terminate()
        server.wait()


def save_digits(folder: Path) -> list[Path]:
    """Writes for each of the shown digits its most typical image, the closest to the mean; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    paths = []
    for digit in SHOWN_DIGITS:
        images = digits.images[digits.target == digit]
        typical = images[((images - images.mean(axis=0)) ** 2).sum(axis=(1, 2)).argmin()]
        paths.append(folder / f"a_{digit}.png")
        Image.fromarray((typical * (255 / 16)).round().astype("uint8")).save(paths[-1])
    return paths


def run(folder: Path) -> None:
    """Trains, publishes and loads the revisions; a second call resumes, or finds everything done."""
    with local_hub(folder / "hub") as endpoint:
        # An empty cache and the Hub in the folder: nothing of the user's own Hub is touched.
        own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment = own | {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
        }
        started = time.perf_counter()
        train = ["-m", "accelerate.commands.launch", "--num_processes=1", "--num_machines=1"]
        train += ["--mixed_precision=no", "--dynamo_backend=no", "training/incremental.py", "--config", RECIPE]
        train += ["--output_dir", str(folder / "run"), "--push_to_hub", "--hub_model_id", REPOSITORY]
        call(train, environment)
        images = [str(path) for path in save_digits(folder / "images")]
        say(f"\nWhat each revision of {REPOSITORY} knows, loaded with the modeling_dytox package:\n")
        call(["-m", "hub.walk", REPOSITORY, "--image", *images], environment)
        say("\nThe same with the code published beside the weights (trust_remote_code=True):\n")
        call(["-m", "hub.walk", REPOSITORY, "--image", *images, "--remote_code"], environment)
        say("\nExpect an average incremental accuracy of 95 to 97 % and a last accuracy of 90 to 96 %:")
        say("processors round differently.")
        say(f"\nDone in {time.perf_counter() - started:.0f} s. Step folders, cards and figures: {folder / 'run'}")


def call(arguments: Sequence[str], environment: dict[str, str]) -> None:
    """Runs Python with these arguments; if it fails, the demo ends with its exit status."""
    status = subprocess.run([sys.executable, *arguments], env=environment, check=False).returncode
    if status:
        sys.exit(status)


def say(text: str) -> None:
    """Prints at once, in order with what the commands print."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Entry point of `python -m hub.demo`."""
    parser = argparse.ArgumentParser(prog="python -m hub.demo", description="Train, publish and load five steps.")
    parser.add_argument(
        "--folder", type=Path, default=Path("demo"), help="where everything is written (default: demo)"
    )
    run(parser.parse_args().folder)


if __name__ == "__main__":
    main()
