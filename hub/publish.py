"""
Publishes a run: one repository, and for every step one commit on `main` and one tag `step{t}`.

Whatever is already there with equal content is left alone, so the same call again finishes what broke off.
Whatever is there with other content is never replaced unless `overwrite_revisions` says so.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars

from hub.client_errors import CLIENT_ERRORS, one_line_errors, status_of
from hub.errors import PublishError, UserError
from hub.model_card import card_for, write_aside
from hub.plan import Plan, make_plan
from hub.remote import LocalFile, RemoteRun
from hub.step_folder import CARD, StepFolder, is_complete, list_step_folders
from hub.text import is_repo_id


_SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")


@dataclass(frozen=True)
class PublishedStep:
    """A step on the Hub. `created` is False when the revision was there before, with the same content."""

    step: int
    commit_url: str
    tag: str
    created: bool


def preflight(hub_model_id: str, *, private: bool = False, token: str | None = None) -> None:
    """
    Checks before the first epoch that steps can be published; makes the repository when it is missing.

    Args:
        hub_model_id: `namespace/name`.
        private: Visibility of a repository that is made now; one that exists keeps its own.
        token: A Hub token; by default the one of this machine.

    Raises:
        PublishError: The id is malformed, the token is refused or may not write, or the Hub cannot be reached.
    """
    _check_repo_id(hub_model_id)
    with one_line_errors(f"publish to {hub_model_id}", hub_model_id, token or get_token()):
        api = HfApi(token=token)
        role = _role(api) if token or get_token() else None
        if role == "read":
            raise PublishError(f"the token can only read, expected one that may write to {hub_model_id}")
        try:
            api.create_repo(hub_model_id, private=private or None)
        except HfHubHTTPError as error:
            exists = status_of(error) == 409
            # A token for chosen repositories alone may write to them, but creates none.
            if not exists and not (role == "fineGrained" and api.repo_exists(hub_model_id)):
                raise


def publish_step(
    folder: str | Path | StepFolder,
    hub_model_id: str,
    *,
    private: bool = False,
    overwrite_revisions: bool = False,
    token: str | None = None,
) -> PublishedStep:
    """
    Publishes one complete step folder as a commit on `main` and the tag `step{t}`; does what is still missing.

    The card is first made to name `hub_model_id`, in the folder itself, so that folder and revision stay equal.

    Args:
        folder: The step folder.
        hub_model_id: `namespace/name`; made when missing, `private` or not.
        overwrite_revisions: Replace a revision that has other content. Later steps belong to the run that is
            being replaced: their tags are deleted, their commits stay in the history of `main`.
        token: A Hub token; by default the one of this machine.

    Raises:
        StepFolderError: The folder is incomplete or inconsistent.
        PublishError: Out of order, other content on the Hub, no right to write, or no connection.
    """
    step_folder = folder if isinstance(folder, StepFolder) else StepFolder.read(folder)
    _check_repo_id(hub_model_id)
    api = HfApi(token=token)
    with one_line_errors(f"publish {step_folder.tag} to {hub_model_id}", hub_model_id, token or get_token()):
        files = _files_to_publish(step_folder, hub_model_id, token or get_token())
        remote = RemoteRun.read(api, hub_model_id)
        plan = make_plan(step_folder.step, files, remote, overwrite_revisions)
        if not remote.exists:
            api.create_repo(hub_model_id, private=private or None, exist_ok=True)
            remote = RemoteRun.read(api, hub_model_id)
        _write_card(step_folder, files)
        commit = _carry_out(plan, step_folder, files, remote)
    url = f"{api.endpoint}/{hub_model_id}/commit/{commit}"
    return PublishedStep(step_folder.step, url, step_folder.tag, created=plan.action != "nothing")


def publish_run(
    output_dir: str | Path,
    hub_model_id: str,
    *,
    private: bool = False,
    overwrite_revisions: bool = False,
    token: str | None = None,
) -> list[PublishedStep]:
    """Publishes the complete step folders of a run in order; see [`publish_step`] for arguments and errors."""
    return [
        publish_step(folder, hub_model_id, private=private, overwrite_revisions=overwrite_revisions, token=token)
        for folder in _step_folders(output_dir)
    ]


def plan_run(
    output_dir: str | Path, hub_model_id: str, *, overwrite_revisions: bool = False, token: str | None = None
) -> list[tuple[StepFolder, Plan]]:
    """What [`publish_run`] would do, step by step. Writes nothing, neither here nor on the Hub."""
    _check_repo_id(hub_model_id)
    plans = []
    with one_line_errors(f"look at {hub_model_id}", hub_model_id, token or get_token()):
        remote = RemoteRun.read(HfApi(token=token), hub_model_id)
        for folder in _step_folders(output_dir):
            files = _files_to_publish(folder, hub_model_id, token or get_token())
            plan = make_plan(folder.step, files, remote, overwrite_revisions)
            plans.append((folder, plan))
            if plan.action != "nothing":
                remote.record(folder.step, plan.commit or f"planned-{folder.tag}", files=None if plan.commit else {})
    return plans


def _check_repo_id(hub_model_id: str) -> None:
    if not is_repo_id(hub_model_id):
        raise PublishError(
            f"--hub_model_id is {hub_model_id!r}, expected namespace/name of letters, digits, '-', '_' and '.'"
        )


def _role(api: HfApi) -> str | None:
    role: str | None = api.whoami().get("auth", {}).get("accessToken", {}).get("role")
    return role


def _step_folders(output_dir: str | Path) -> list[StepFolder]:
    folders = list_step_folders(output_dir)
    if not folders:
        raise PublishError(f"{Path(output_dir).name} has no complete step folder, expected step1, step2, …")
    return folders


def _files_to_publish(folder: StepFolder, hub_model_id: str, token: str | None) -> dict[str, LocalFile]:
    """Path in the repository -> file, the card with the content it will have when published."""
    if not is_complete(folder.path):
        raise PublishError(f"{folder.path.name} has no card or figures yet, call complete_step_folder first")
    files = {path: LocalFile(file) for path, file in folder.published_files().items()}
    files[CARD] = LocalFile(folder.path / CARD, card_for(folder, hub_model_id).encode())
    for path, file in files.items():
        if Path(path).suffix in (".json", ".md", ".py", ".yaml") and _has_secret(file.read(), token):
            raise PublishError(f"{folder.path.name}/{path} holds a Hub token, remove it before publishing")
    return files


def _has_secret(content: bytes, token: str | None) -> bool:
    return bool(_SECRET.search(content)) or (token is not None and token.encode() in content)


def _write_card(folder: StepFolder, files: dict[str, LocalFile]) -> None:
    text = files[CARD].read().decode()
    if (folder.path / CARD).read_bytes() != text.encode():
        write_aside(folder.path / CARD, text)


def _carry_out(plan: Plan, folder: StepFolder, files: dict[str, LocalFile], remote: RemoteRun) -> str:
    if plan.action == "nothing" and plan.commit:
        return plan.commit
    commit = plan.commit or _commit(folder, files, remote)
    for step in sorted((known for known in remote.tags if known >= folder.step), reverse=True):
        remote.api.delete_tag(remote.repo_id, tag=f"step{step}")
    _tag(remote, folder.step, commit)
    return commit


def _commit(folder: StepFolder, files: dict[str, LocalFile], remote: RemoteRun) -> str:
    """One commit that leaves exactly `files` on main. A commit that landed although the answer was lost counts."""
    last = folder.results.last
    obsolete = sorted(remote.files(remote.head).keys() - files.keys())
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        *(CommitOperationAdd(path, file.path) for path, file in sorted(files.items())),
        *(CommitOperationDelete(path) for path in obsolete),
    ]
    title = f"Step {last.step}: {last.num_seen_classes} classes, accuracy {last.accuracy:.2%}"
    try:
        info = remote.api.create_commit(remote.repo_id, operations, commit_message=title, parent_commit=remote.head)
    except CLIENT_ERRORS:
        now = RemoteRun.read(remote.api, remote.repo_id)
        if now.head is not None and now.head != remote.head and now.holds(now.head, files):
            return now.head
        raise
    return info.oid


def _tag(remote: RemoteRun, step: int, commit: str) -> None:
    try:
        remote.api.create_tag(remote.repo_id, tag=f"step{step}", revision=commit)
    except CLIENT_ERRORS as error:
        made = RemoteRun.read(remote.api, remote.repo_id).tags.get(step)
        if made == commit:
            return
        if status_of(error) == 409:
            message = f"step{step} of {remote.repo_id} was just made by someone else, with other content"
            raise PublishError(message) from None
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hub.publish", description="Publish a run, or finish publishing it: one tag step{t} a step."
    )
    parser.add_argument("output_dir", help="--output_dir of the run, with its folders step1, step2, …")
    parser.add_argument("--hub_model_id", required=True, help="repository as namespace/name; made when missing")
    parser.add_argument("--private", action="store_true", help="make the repository private when it is made now")
    parser.add_argument(
        "--overwrite_revisions", action="store_true", help="replace revisions that exist with other content"
    )
    parser.add_argument("--dry_run", action="store_true", help="only print what would be done")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m hub.publish`; returns the exit status."""
    options = _parser().parse_args(arguments)
    disable_progress_bars()
    try:
        _dry_run(options) if options.dry_run else _publish(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _dry_run(options: argparse.Namespace) -> None:
    words = {"nothing": "already there", "tag": "would be tagged", "commit": "would be published"}
    for folder, plan in plan_run(
        options.output_dir, options.hub_model_id, overwrite_revisions=options.overwrite_revisions
    ):
        _say(f"{folder.tag}  {words[plan.action]}")


def _publish(options: argparse.Namespace) -> None:
    endpoint = HfApi().endpoint
    for folder in _step_folders(options.output_dir):
        step = publish_step(
            folder,
            options.hub_model_id,
            private=options.private,
            overwrite_revisions=options.overwrite_revisions,
        )
        state = "published" if step.created else "already there"
        _say(f"{endpoint}/{options.hub_model_id}/tree/{step.tag}  {state}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
