"""Which names the local Hub accepts for repositories, files and revisions: all of them become paths on disk."""

import re

from dulwich.refs import Ref, check_ref_format

from hub.local.errors import HubError


REPO_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
MAX_PATH_BYTES = 1024

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_HEX_ID = re.compile(r"[0-9a-f]{40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RESERVED_NAMESPACES = {"api", *REPO_TYPES}


def is_name(name: str) -> bool:
    """Whether `name` can be a namespace or the second half of a repository id (1..96 plain characters)."""
    return bool(_NAME.fullmatch(name)) and ".." not in name and "--" not in name and not name.endswith(".git")


def check_repo_id(repo_id: str) -> str:
    """Returns `repo_id` if it is a valid `namespace/name`; raises `HubError` 400 otherwise."""
    namespace, _, name = repo_id.partition("/")
    if not (is_name(namespace) and is_name(name)) or namespace.lower() in _RESERVED_NAMESPACES:
        raise HubError(400, f"repository id {repo_id!r}: expected namespace/name of letters, digits, '-', '_' and '.'")
    return repo_id


def check_path(path: str) -> str:
    """Returns `path` if it can name a file inside a repository; raises `HubError` 400 otherwise."""
    parts = path.split("/")
    forbidden = any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)
    if forbidden or _CONTROL.search(path) or "\\" in path or len(encode(path)) > MAX_PATH_BYTES:
        raise HubError(
            400, f"file name {path!r:.200}: expected a relative path without '..', '.git' or control characters"
        )
    return path


def check_ref(name: str) -> str:
    """Returns `name` if it can name a branch or a tag; raises `HubError` 400 otherwise."""
    ambiguous = _HEX_ID.fullmatch(name) or name.startswith(("refs/", "-")) or name == "HEAD"
    # 200 bytes leave room for ".lock" within the 255 of a file name.
    if ambiguous or len(encode(name)) > 200 or not check_ref_format(Ref(b"refs/heads/" + encode(name))):
        raise HubError(400, f"revision name {name!r:.200}: expected a valid git branch or tag name")
    return name


def encode(text: str) -> bytes:
    """`text` as UTF-8; raises `HubError` 400 for lone surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise HubError(400, f"name {text!r:.200}: expected valid Unicode") from None
