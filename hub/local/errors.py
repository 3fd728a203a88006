"""The error that becomes an answer of the local Hub."""

from collections.abc import Mapping
from typing import Any


class HubError(Exception):
    """
    An answer other than success.

    Args:
        status (`int`): HTTP status, 400..599.
        message (`str`): one line for the user, sent as `X-Error-Message` and as JSON `error`.
        code (`str`, *optional*): the Hub's machine-readable name of the error, sent as `X-Error-Code`.
        headers (`Mapping[str, str]`, *optional*): further headers of the answer.
        payload (`Mapping[str, Any]`, *optional*): further keys of the JSON answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers or {}
        self.payload = payload or {}
