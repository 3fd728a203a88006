"""
Entry point of the explorer.

    python -m hub.space org/name
    python -m hub.space --local OUTPUT_DIR
    python -m hub.space org/name --push_space org/name-explorer
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import gradio as gr


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hub.space", description="A page that walks through the revisions of a run."
    )
    parser.add_argument("source", nargs="?", help="namespace/name of a repository on the Hub")
    parser.add_argument("--local", metavar="OUTPUT_DIR", help="the --output_dir of a run, in place of a repository")
    parser.add_argument("--endpoint", metavar="URL", help="of the Hub; default: HF_ENDPOINT, or huggingface.co")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, help="port to listen on; default: the first free one from 7860")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run the code stored beside the weights (read it first) in place of the modeling_dytox package",
    )
    parser.add_argument(
        "--push_space",
        metavar="NAMESPACE/NAME",
        help="publish the page as a Space of the Hub, and do not open it here",
    )
    parser.add_argument("--private", action="store_true", help="make a private Space, with --push_space")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m hub.space`; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.source is None) == (options.local is None):
        parser.error("give either namespace/name of a repository or --local OUTPUT_DIR")
    # Read when the libraries are imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if options.endpoint:
        os.environ["HF_ENDPOINT"] = options.endpoint

    from hub.run.errors import UserError

    try:
        if options.push_space:
            return _push(options)
        page = _page(options.local or options.source, options.trust_remote_code, is_local=options.local is not None)
        _serve(page, options.host, options.port)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _push(options: argparse.Namespace) -> int:
    from hub.publishing.client_errors import quiet_client
    from hub.run.errors import UserError
    from hub.space.push import push_space
    from hub.walk import list_revisions

    if options.local or options.trust_remote_code:
        raise UserError(
            "--push_space takes a repository alone: a Space reads no folder, and runs the code that it holds"
        )
    quiet_client()
    list_revisions(options.source)
    sys.stdout.write(push_space(options.source, options.push_space, private=options.private) + "\n")
    return 0


def _page(source: str, remote_code: bool, is_local: bool) -> "gr.Blocks":
    from pathlib import Path

    from transformers.utils import logging

    from hub.publishing.client_errors import quiet_client
    from hub.run.errors import UserError

    try:
        from hub.space.app import build_page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError('the explorer needs gradio: pip install -e ".[space]"') from None
    from hub.space.revisions import Revisions

    quiet_client()
    logging.disable_progress_bar()
    if is_local != Path(source).is_dir():
        there = "is not a folder" if is_local else "is a folder here: give it with --local"
        raise UserError(f"{source} {there}")
    return build_page(Revisions(source, remote_code=remote_code))


def _serve(page: "gr.Blocks", host: str, port: int | None) -> None:
    from hub.run.errors import UserError
    from hub.space.app import THEME
    from hub.space.html import CSS

    try:
        page.launch(server_name=host, server_port=port, theme=THEME, css=CSS, ssr_mode=False, footer_links=[])
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port or 'from 7860'}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
