"""
Serves a Hugging Face Hub from a folder, for demos, tests and machines without internet.

    python -m hub.local_server FOLDER
    HF_ENDPOINT=http://127.0.0.1:PORT python my_script.py

The first line it prints is its endpoint. Clients are unmodified: `huggingface_hub`, `transformers`, `datasets`.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from hub.local.accounts import Accounts
from hub.local.server import LocalHubServer
from hub.local.store import Store


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hub.local_server", description="Serves a Hugging Face Hub from a folder of this machine."
    )
    parser.add_argument("folder", type=Path, help="where the repositories are kept; made if it does not exist")
    parser.add_argument(
        "--port", type=int, default=0, help="TCP port; 0 takes any that is free (default: %(default)s)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="IPv4 address to listen on; 0.0.0.0 lets other machines in, unencrypted (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="F.json",
        help='accounts by token, e.g. {"hf_abc": {"name": "alice", "orgs": ["org"], "role": "write"}}; role is "read" '
        'or "write"; without this file every caller may write everywhere (default: none)',
    )
    return parser


def serve(options: argparse.Namespace, server_class: type[LocalHubServer] = LocalHubServer) -> int:
    """
    Serves until SIGINT or SIGTERM.

    Args:
        options (`argparse.Namespace`): what `make_parser` parsed.
        server_class (`type`, *optional*, defaults to [`LocalHubServer`]): what serves.

    Returns:
        `int`: the exit status.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        accounts = Accounts.load(options.tokens) if options.tokens else Accounts()
        store = Store(options.folder)
        server = server_class(store, accounts, options.host, options.port)
    except (OSError, OverflowError, ValueError) as error:
        sys.stderr.write(f"local_server: {error}\n")
        return 1
    try:
        # Both signals end the loop below, also where a shell has made a background job ignore SIGINT.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        print(server.endpoint, flush=True)  # noqa: T201
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        store.close()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m hub.local_server`."""
    return serve(make_parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
