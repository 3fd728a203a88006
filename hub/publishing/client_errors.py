"""Failures of the Hub, reported in one line without tokens."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    StrictDataclassError,
)
from huggingface_hub.utils import disable_progress_bars, logging

from hub.publishing.secrets import without_tokens
from hub.run.errors import PublishError, UserError
from hub.run.text import printable


#: What the client raises when a request fails; xet uploads add bare `RuntimeError` and `OSError`.
CLIENT_ERRORS = (HTTPError, OSError, RuntimeError)

_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def quiet_client() -> None:
    """Silences huggingface_hub: its warnings may contain signed upload URLs."""
    disable_progress_bars()
    logging.set_verbosity_error()


@contextmanager
def one_line_errors(doing: str, repo_id: str, token: str | None = None) -> Iterator[None]:
    """
    Turns a failure of the Hub within the block into one line.

    Args:
        doing (`str`): what is tried, to follow "cannot": `publish step3`.
        repo_id (`str`): the repository.
        token (`str`, *optional*): the token in use, to keep it out of the message.

    Raises:
        `PublishError`: the Hub refuses or cannot be reached.
    """
    try:
        yield
    except UserError:
        raise
    except (*CLIENT_ERRORS, ValueError, StrictDataclassError) as error:
        reason = _reason(error, repo_id)
        raise PublishError(f"cannot {doing}: {without_tokens(reason, token)}", _is_transient(error)) from None


def status_of(error: BaseException) -> int | None:
    """The HTTP status the Hub answered with, if it answered."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, OfflineModeIsEnabled | LocalTokenNotFoundError):
        return False
    status = status_of(error)
    if status is not None:
        # A conflict (409, 412) as well: looking again finds what the other publisher has made.
        return status in (408, 409, 412, 429) or status >= 500 or _is_stale_link(error)
    # xet reports what happens on the network as plain runtime errors.
    return isinstance(error, HTTPError | ConnectionError | TimeoutError | RuntimeError)


def _is_stale_link(error: BaseException) -> bool:
    """Whether the link to upload a file was refused: it needs no token, but expires."""
    return isinstance(error, HfHubHTTPError) and status_of(error) == 403 and error.response.request.method == "PUT"


def _reason(error: Exception, repo_id: str) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token for the Hub; {_LOG_IN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on; unset HF_HUB_OFFLINE to publish"
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, repo_id)
    if isinstance(error, HTTPError | ConnectionError | LocalEntryNotFoundError):
        return f"no connection to the Hub ({type(error).__name__}); run the same command again to finish"
    return f"{type(error).__name__}: {printable(' '.join(str(error).split()))[:200]}"


def _refusal(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    if _is_stale_link(error):
        return "the Hub no longer accepts the link to upload a file (403); run the same command again to finish"
    known = {
        401: f"the Hub does not accept the token, or {repo_id} needs one (401); {_LOG_IN}",
        403: f"the token may not write to {repo_id} (403); use a token with write access to this namespace",
        404: f"{repo_id} is missing or hidden from this token (404)",
        412: f"someone else has changed main of {repo_id} in the meantime (412, conflict); look at it, then run again",
    }
    said = printable(" ".join((error.server_message or "").split()))[:200]
    return known.get(status) or f"the Hub answered {status}" + (f" ({said})" if said else "")
