"""
Learns the same steps by every method, one after the other: takes the options of a run.

Each run is in a folder of `output_dir` with the name of its method; its folder `encoder` has the encoder of methods
that need a pretrained one.
"""

import sys

from accelerate import Accelerator

from training.incremental import run
from training.methods import METHODS
from training.parsing import parse_arguments


def main() -> None:
    accelerator = Accelerator()
    folder = parse_arguments(sys.argv[1:]).output.output_dir
    encoder = ["--encoder_name_or_path", f"{folder}/encoder", "--feature_cache_dir", f"{folder}/features"]
    for method, kind in METHODS.items():
        own = [
            "--method",
            method,
            "--output_dir",
            f"{folder}/{method}",
            *(encoder if kind.needs_frozen_encoder else []),
        ]
        run(parse_arguments([*sys.argv[1:], *own]), accelerator)
    # Threads of the process group that still run when Python ends can abort the process.
    accelerator.end_training()


if __name__ == "__main__":
    main()
