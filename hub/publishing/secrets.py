"""Tokens of the Hub: found in files, hidden in messages."""

import re


_TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:(?:hf|api_org)_[A-Za-z0-9]{30,}|hf_oauth_[A-Za-z0-9_.-]{30,})")


def holds_token(content: bytes, token: str | None) -> bool:
    """Whether a file contains something that looks like a token, or `token` itself, the one in use."""
    text = content.decode("latin-1")
    return bool(_TOKEN.search(text)) or (token is not None and token in text)


def without_tokens(text: str, token: str | None) -> str:
    """`text` with `hf_***` in place of `token`, the one in use, and of anything that looks like a token."""
    return _TOKEN.sub("hf_***", text.replace(token, "hf_***") if token else text)
