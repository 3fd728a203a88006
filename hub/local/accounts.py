"""Who may talk to the local Hub: accounts by access token, read from a JSON file."""

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from hub.local.errors import HubError
from hub.local.names import is_name


@dataclass(frozen=True)
class Account:
    """
    The sender of a request.

    Args:
        name (`str`): the user's name, also a namespace.
        orgs (`tuple[str, ...]`, *optional*): organizations of the user, further namespaces.
        role (`str`, *optional*, defaults to `"write"`): `"read"` or `"write"`.
        everywhere (`bool`, *optional*, defaults to `False`): whether all namespaces count as the user's own.
    """

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"
    everywhere: bool = False

    def belongs_to(self, namespace: str) -> bool:
        """Whether `namespace` is the user's or one of their organizations'."""
        return self.everywhere or namespace == self.name or namespace in self.orgs


def check_may_write(account: Account | None, repo_id: str) -> Account:
    """Returns `account` if it may change repositories beside `repo_id`; raises `HubError` 401 or 403 otherwise."""
    namespace = repo_id.split("/")[0]
    if account is None:
        raise HubError(401, f"Log in to write to {repo_id}: the request has no token")
    if account.role != "write" or not account.belongs_to(namespace):
        raise HubError(403, f"{account.name} may not write to {namespace!r}: use a token of role 'write' of a member")
    return account


class Accounts:
    """The accounts of a token file; without one, every caller is the same account, which may write everywhere."""

    def __init__(self, by_token: Mapping[str, Account] | None = None) -> None:
        self._by_token = by_token

    @classmethod
    def load(cls, path: Path) -> "Accounts":
        """
        Reads a token file such as `{"hf_abc": {"name": "alice", "orgs": ["org"], "role": "write"}}`.

        Raises:
            `ValueError`: the file is malformed.
        """
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"token file {path}: not JSON ({error})") from None
        if not isinstance(entries, dict) or not entries:
            raise ValueError(f"token file {path}: expected a JSON object with an account for each token")
        return cls({token: _account(entry, number) for number, (token, entry) in enumerate(entries.items(), 1)})

    def of(self, headers: Message) -> Account | None:
        """The account of a request, `None` if it is anonymous; raises `HubError` 401 for an unknown token."""
        if self._by_token is None:
            return Account("local", everywhere=True)
        authorization = headers.get("Authorization")
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        for known, account in self._by_token.items():
            if scheme.lower() == "bearer" and hmac.compare_digest(known.encode(), token.strip().encode()):
                return account
        raise HubError(401, "Invalid credentials in Authorization header")


def _account(entry: Any, number: int) -> Account:
    # The messages must not repeat the token.
    place = f"account {number} of the token file"
    if not isinstance(entry, dict) or not {"name"} <= entry.keys() <= {"name", "orgs", "role"}:
        raise ValueError(f"{place}: expected an object with name, orgs (optional) and role (optional)")
    orgs, role = entry.get("orgs", []), entry.get("role", "write")
    names = [entry["name"], *orgs] if isinstance(orgs, list) else [None]
    if not all(isinstance(name, str) and is_name(name) for name in names):
        raise ValueError(f"{place}: expected name and orgs to be letters, digits, '-', '_' and '.'")
    if role not in ("read", "write"):
        raise ValueError(f"{place}: role is {role!r}, expected 'read' or 'write'")
    return Account(entry["name"], tuple(orgs), role)
