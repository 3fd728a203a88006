"""Asks the Hub before the first epoch: will it accept what the run is going to publish?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError

from hub.publishing.client_errors import one_line_errors, status_of
from hub.publishing.content import run_contents
from hub.publishing.destination import Destination
from hub.publishing.plan import check_room, plan_contents
from hub.publishing.remote import RemoteRun
from hub.run.errors import PublishError
from hub.run.step_folder import list_step_folders


def preflight(
    destination: Destination,
    output_dir: str | Path | None = None,
    *,
    first_own_step: int = 1,
    earlier_steps: Sequence[Any] | None = None,
) -> None:
    """
    Checks that the steps of a run can be published; makes the repositories that are missing.

    Args:
        destination (`Destination`): where the run will be published, and how.
        output_dir (`str` or `Path`, *optional*): folder of the run, whose finished steps may be on the Hub already;
            `None` for a new run.
        first_own_step (`int`, *optional*, defaults to 1): first step of the run, greater than 1 if it continues a
            published model.
        earlier_steps (`Sequence`, *optional*): the steps before it, as recorded in `results.json`.

    Raises:
        `PublishError`: the token is refused or may not write, revisions on the Hub are in the way, or the Hub cannot
            be reached.
        `StepFolderError`: a step folder is inconsistent.
    """
    is_there = output_dir is not None and Path(output_dir).is_dir()
    done = list_step_folders(output_dir, complete=False) if output_dir is not None and is_there else []
    has_more = not done or done[-1].step < done[-1].results.num_steps
    next_step = done[-1].step + 1 if done else first_own_step
    with one_line_errors(f"publish to {destination.hub_model_id}", destination.hub_model_id, destination.secret):
        role = _role(destination)
        contents_by_type = run_contents(done, destination)
    for repo_type, contents in contents_by_type.items():
        repo_id = destination.repo_id(repo_type)
        with one_line_errors(f"publish to {repo_id}", repo_id, destination.secret):
            remote = RemoteRun.at(destination, repo_type)
            _make_repository(remote, role)
            remote = remote.read_again()
            plan_contents(contents, remote, destination)
            if has_more:
                # A memory does not record the steps before.
                earlier = earlier_steps if repo_type == "model" else None
                check_room(next_step, remote, destination, first_own_step, earlier)


def _role(destination: Destination) -> str | None:
    """What the token may do, if the Hub says so."""
    if destination.secret is None:
        return None
    role: str | None = destination.api.whoami().get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PublishError(f"the token can only read, expected one that may write to {destination.hub_model_id}")
    return role


def _make_repository(remote: RemoteRun, role: str | None) -> None:
    """Makes the repository; where it exists, the conflict (409) still shows that the token may write there."""
    try:
        remote.create()
    except HfHubHTTPError as error:
        exists = status_of(error) == 409
        # A fine-grained token may write to the repositories that it names, but create none.
        if not exists and not (role == "fineGrained" and remote.exists):
            raise
