"""Looks at the Hub before the first epoch: will it take what the run is going to publish?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from hub.cards.memory_card import check_privacy
from hub.publish import check_repo_id, plan_contents, run_contents
from hub.publishing.client_errors import one_line_errors, status_of
from hub.publishing.plan import check_room
from hub.publishing.remote import RemoteRun
from hub.run.errors import PublishError
from hub.run.step_folder import list_step_folders


def preflight(
    hub_model_id: str,
    output_dir: str | Path | None = None,
    *,
    first_own_step: int = 1,
    earlier_steps: Sequence[Any] | None = None,
    private: bool = False,
    push_memory: bool = False,
    overwrite_revisions: bool = False,
    token: str | None = None,
) -> None:
    """
    Checks that the steps of a run can be published; makes the repositories that are missing.

    Args:
        hub_model_id: `namespace/name`.
        output_dir: The folder of the run, whose complete steps may be on the Hub already; None for a new run.
        first_own_step: The first step of the run, greater than 1 if it continues a published model.
        earlier_steps: What `results.json` tells of the steps before it, an object each.
        private: Visibility of repositories that are made now; one that exists keeps its own.
        push_memory: Whether the rehearsal memory is going to be published as well.
        overwrite_revisions: Whether revisions with other content may be replaced.
        token: A Hub token; by default the one of this machine.

    Raises:
        PublishError: The id is malformed, the token is refused or may not write, revisions on the Hub are in the
            way, or the Hub cannot be reached.
        StepFolderError: A step folder is inconsistent.
    """
    check_repo_id(hub_model_id)
    secret = token or get_token()
    done = list_step_folders(output_dir) if output_dir is not None and Path(output_dir).is_dir() else []
    with one_line_errors(f"publish to {hub_model_id}", hub_model_id, secret):
        api = HfApi(token=token)
        role = _role(api) if secret else None
        parts = run_contents(done, hub_model_id, push_memory, secret)
    for repo_id, repo_type, contents in parts:
        with one_line_errors(f"publish to {repo_id}", repo_id, secret):
            _make_repository(api, repo_id, repo_type, private, role)
            remote = RemoteRun.read(api, repo_id, repo_type)
            private = private or (repo_type == "model" and remote.is_private())
            if repo_type == "dataset":
                check_privacy(remote, private)
            plan_contents(contents, remote, overwrite_revisions)
            if not done or done[-1].step < done[-1].results.num_steps:
                next_step = done[-1].step + 1 if done else first_own_step
                earlier = earlier_steps if repo_type == "model" else None
                check_room(next_step, remote, overwrite_revisions, first_own_step, earlier)


def _make_repository(api: HfApi, repo_id: str, repo_type: str, private: bool, role: str | None) -> None:
    if role == "read":
        raise PublishError(f"the token can only read, expected one that may write to {repo_id}")
    try:
        api.create_repo(repo_id, private=private or None, repo_type=repo_type)
    except HfHubHTTPError as error:
        exists = status_of(error) == 409
        # A token for chosen repositories alone may write to them, but creates none.
        if not exists and not (role == "fineGrained" and api.repo_exists(repo_id, repo_type=repo_type)):
            raise


def _role(api: HfApi) -> str | None:
    role: str | None = api.whoami().get("auth", {}).get("accessToken", {}).get("role")
    return role
