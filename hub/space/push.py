"""
Publishes the page as a Space that stands alone: the page, the modules that it imports, and what to install.

A Space runs on the Hub's machines and reads the revisions from there; it needs no clone of this project.
"""

import ast
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi

from hub.publishing.client_errors import one_line_errors
from hub.run.errors import PublishError, UserError
from hub.run.text import is_repo_id


_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("hub", "modeling_dytox")
_EXAMPLES = "hub/space/examples/*.png"
_APP = '''"""The explorer of {source}. Made by `python -m hub.space {source} --push_space`."""

import modeling_dytox  # makes the architectures known to transformers
from hub.space.app import THEME, build_page
from hub.space.html import CSS
from hub.space.revisions import Revisions


build_page(Revisions("{source}")).launch(theme=THEME, css=CSS, footer_links=[])
'''
#: What the modules import beside Gradio, which the metadata names. timm and torchvision: for encoders and processors.
REQUIREMENTS = ("huggingface_hub>=2", "pillow", "timm>=1.0", "torch>=2.6", "torchvision", "transformers>=5")
_CARD = """---
title: {title}
emoji: 🔎
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
models:
- {source}
license: apache-2.0
---

What each revision of [{source}](https://huggingface.co/{source}) says of an image, what each step learned and what it
forgot. If the repository is private, give the Space a secret `HF_TOKEN` that may read it.
"""


def push_space(source: str, space_id: str, *, private: bool = False) -> str:
    """
    Makes a Space, or brings it up to date.

    Args:
        source (`str`): `namespace/name` of the repository that it shows.
        space_id (`str`): `namespace/name` of the Space.
        private (`bool`, *optional*, defaults to `False`): visibility of a Space that is made.

    Returns:
        `str`: its web page.

    Raises:
        UserError: the name is none, or a Space of somebody else's making has it.
        PublishError: the Hub refuses or cannot be reached.
    """
    if not is_repo_id(space_id):
        raise UserError(f"--push_space is {space_id!r}, expected namespace/name of letters, digits, '-', '_' and '.'")
    files = space_files(source)
    api = HfApi()
    with one_line_errors(f"publish the Space {space_id}", space_id):
        api.create_repo(space_id, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True)
        there = set(api.list_repo_files(space_id, repo_type="space"))
        if "app.py" in there and not _is_ours(api, space_id):
            raise PublishError(f"{space_id} holds another app: choose another --push_space")
        obsolete = sorted(path for path in there - files.keys() if path.startswith(_PACKAGES))
        operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
            *(CommitOperationAdd(path, content) for path, content in sorted(files.items())),
            *(CommitOperationDelete(path) for path in obsolete),
        ]
        # The client leaves out what has not changed, and makes no empty commit.
        api.create_commit(space_id, operations, commit_message=f"Explorer of {source}", repo_type="space")
    return f"{api.endpoint}/spaces/{space_id}"


def _is_ours(api: HfApi, space_id: str) -> bool:
    path = api.hf_hub_download(space_id, "app.py", repo_type="space")
    return Path(path).read_text(encoding="utf-8").startswith('"""The explorer of ')


def space_files(source: str) -> dict[str, bytes]:
    """The files of a Space by path: page, card, requirements, examples, and the modules that the page imports."""
    card = _CARD.format(title=source.split("/")[-1][:40], gradio=version("gradio"), source=source)
    made = {
        "app.py": _APP.format(source=source),
        "README.md": card,
        "requirements.txt": "\n".join(REQUIREMENTS) + "\n",
    }
    found = [*modules(_APP), *_ROOT.glob(_EXAMPLES)]
    return {name: text.encode() for name, text in made.items()} | {
        path.relative_to(_ROOT).as_posix(): path.read_bytes() for path in found
    }


def modules(source_code: str) -> list[Path]:
    """The files of this project that some code imports, itself or by other modules, with the packages around them."""
    found: set[Path] = set()
    waiting = list(_imports(source_code, package=""))
    while waiting:
        for path in _files(waiting.pop()):
            if path not in found:
                found.add(path)
                package = ".".join(path.relative_to(_ROOT).parent.parts)
                waiting += _imports(path.read_text(encoding="utf-8"), package)
    return sorted(found)


def _imports(source_code: str, package: str) -> Iterable[str]:
    """Dotted names that code may import; a name imported from a package may be a module of it."""
    for node in ast.walk(ast.parse(source_code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module]))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _files(name: str) -> list[Path]:
    """The file of a module of this project and those of the packages around it; none for other names."""
    parts = name.split(".")
    if parts[0] not in _PACKAGES:
        return []
    packages = [_ROOT.joinpath(*parts[:length], "__init__.py") for length in range(1, len(parts) + 1)]
    module = _ROOT.joinpath(*parts).with_suffix(".py")
    return [path for path in (*packages, module) if path.is_file()]
