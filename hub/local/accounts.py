"""Who may talk to the local Hub: accounts by access token, read from a JSON file."""

import hmac
import json
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import Any

from hub.local.http import Account, HubError
from hub.local.names import is_name


OPEN_ACCOUNT = Account("local", everywhere=True)
_FIELDS = {"name", "orgs", "role"}
_ROLES = ("read", "write")


class Accounts:
    """The accounts of a token file; without one, everybody is the same account that may write everywhere."""

    def __init__(self, by_token: Mapping[str, Account] | None = None) -> None:
        self._by_token = by_token

    @classmethod
    def load(cls, path: Path) -> "Accounts":
        """Read `{"hf_abc": {"name": "alice", "orgs": ["org"], "role": "write"}}`; raises `ValueError` if malformed."""
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
            return OPEN_ACCOUNT
        authorization = headers.get("Authorization")
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        for known, account in self._by_token.items():
            if scheme.lower() == "bearer" and hmac.compare_digest(known.encode(), token.strip().encode()):
                return account
        raise HubError(401, "Invalid credentials in Authorization header")


def _account(entry: Any, number: int) -> Account:
    """The account of the `number`-th token; messages must not repeat the token."""
    place = f"account {number} of the token file"
    if not isinstance(entry, dict) or not {"name"} <= entry.keys() <= _FIELDS:
        raise ValueError(f"{place}: expected an object with name, orgs (optional) and role (optional)")
    orgs, role = entry.get("orgs", []), entry.get("role", "write")
    if not isinstance(orgs, list) or not all(
        isinstance(name, str) and is_name(name) for name in [entry["name"], *orgs]
    ):
        raise ValueError(f"{place}: expected name and orgs to be letters, digits, '-', '_' and '.'")
    if role not in _ROLES:
        raise ValueError(f"{place}: role is {role!r}, expected 'read' or 'write'")
    return Account(entry["name"], tuple(orgs), role)
