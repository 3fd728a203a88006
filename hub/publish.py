"""
Publishes a run: one repository, and for every step one commit on `main` and one tag `step{t}`.

Whatever is already there with equal content is left alone, so the same call again finishes what broke off.
Whatever is there with other content is never replaced unless `overwrite_revisions` says so.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, get_token

from hub.cards.memory_card import MEMORY_SUFFIX, check_privacy, memory_content, memory_repo_id
from hub.cards.model_card import card_for
from hub.publishing.client_errors import one_line_errors, quiet_client
from hub.publishing.plan import Plan, StepContent, make_plan
from hub.publishing.remote import LocalFile, RemoteRun
from hub.publishing.revision import publish_content
from hub.run.atomic import write_aside
from hub.run.errors import PublishError, UserError
from hub.run.layout import CARD_FILE as CARD
from hub.run.step_folder import StepFolder, is_complete, list_step_folders
from hub.run.text import is_repo_id


_SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")


@dataclass(frozen=True)
class PublishedStep:
    """
    A step on the Hub.

    Args:
        step: Its number.
        repository_url: Where the repository is to be seen.
        commit: The commit of the revision.
        created: False when the revision was there before, with the same content.
        memory: The revision of its rehearsal memory, if that was published as well.
    """

    step: int
    repository_url: str
    commit: str
    created: bool
    memory: "PublishedStep | None" = None

    @property
    def tag(self) -> str:
        """The name of the revision: `step{t}`."""
        return f"step{self.step}"

    @property
    def url(self) -> str:
        """Where the revision is to be seen."""
        return f"{self.repository_url}/tree/{self.tag}"


def publish_step(
    folder: str | Path | StepFolder,
    hub_model_id: str,
    *,
    private: bool = False,
    push_memory: bool = False,
    overwrite_revisions: bool = False,
    token: str | None = None,
) -> PublishedStep:
    """
    Publishes one complete step folder as a commit on `main` and the tag `step{t}`; does what is still missing.

    The card is first made to name `hub_model_id`, in the folder itself, so that folder and revision stay equal.

    Args:
        folder: The step folder.
        hub_model_id: `namespace/name`; made when missing, `private` or not.
        push_memory: Publish the rehearsal memory of the step as well, to the data set `{hub_model_id}-memory`.
        overwrite_revisions: Replace a revision that has other content. Later steps belong to the run that is
            being replaced: their tags are deleted, their commits stay in the history of `main`.
        token: A Hub token; by default the one of this machine.

    Raises:
        StepFolderError: The folder is incomplete or inconsistent.
        PublishError: Out of order, other content on the Hub, no right to write, or no connection.
    """
    step_folder = folder if isinstance(folder, StepFolder) else StepFolder.read(folder)
    check_repo_id(hub_model_id)
    # Before anything goes up: a model without the memory that was asked for would be half of a step.
    memory = memory_content(step_folder, hub_model_id) if push_memory else None
    with one_line_errors(f"publish {step_folder.tag} to {hub_model_id}", hub_model_id, token or get_token()):
        content = model_content(step_folder, hub_model_id, token or get_token())
        remote = RemoteRun.read(HfApi(token=token), hub_model_id)
        make_plan(content, remote, overwrite_revisions)
        _write_card(step_folder, content)
        published = _publish_content(content, remote, private, overwrite_revisions)
        # The images of a private model are no more public than the model.
        private = private or (push_memory and remote.is_private())
    if memory is None:
        return published
    return replace(published, memory=_publish_memory(memory, hub_model_id, private, overwrite_revisions, token))


def _publish_memory(
    content: StepContent, hub_model_id: str, private: bool, overwrite_revisions: bool, token: str | None
) -> PublishedStep:
    repo_id = memory_repo_id(hub_model_id)
    with one_line_errors(f"publish the memory of {content.tag} to {repo_id}", repo_id, token or get_token()):
        remote = RemoteRun.read(HfApi(token=token), repo_id, "dataset")
        check_privacy(remote, private)
        make_plan(content, remote, overwrite_revisions)
        return _publish_content(content, remote, private, overwrite_revisions)


def _publish_content(
    content: StepContent, remote: RemoteRun, private: bool, overwrite_revisions: bool
) -> PublishedStep:
    """Publishes to the repository, which is made if it is missing."""
    if not remote.exists:
        remote.api.create_repo(remote.repo_id, private=private or None, exist_ok=True, repo_type=remote.repo_type)
        remote = remote.read_again()
    commit, created = publish_content(content, remote, overwrite_revisions)
    return PublishedStep(content.step, remote.url, commit, created)


def publish_run(
    output_dir: str | Path,
    hub_model_id: str,
    *,
    private: bool = False,
    push_memory: bool = False,
    overwrite_revisions: bool = False,
    token: str | None = None,
) -> list[PublishedStep]:
    """Publishes the complete step folders of a run in order; see [`publish_step`] for arguments and errors."""
    return [
        publish_step(
            folder,
            hub_model_id,
            private=private,
            push_memory=push_memory,
            overwrite_revisions=overwrite_revisions,
            token=token,
        )
        for folder in complete_steps(output_dir)
    ]


def plan_run(
    output_dir: str | Path,
    hub_model_id: str,
    *,
    private: bool = False,
    push_memory: bool = False,
    overwrite_revisions: bool = False,
    token: str | None = None,
) -> list[tuple[StepContent, RemoteRun, Plan]]:
    """
    What [`publish_run`] would do, repository by repository and step by step. Writes nothing, neither here nor on the
    Hub; see [`publish_step`] for arguments and errors.
    """
    check_repo_id(hub_model_id)
    secret = token or get_token()
    folders = complete_steps(output_dir)
    planned = []
    with one_line_errors(f"look at {hub_model_id}", hub_model_id, secret):
        for repo_id, repo_type, contents in run_contents(folders, hub_model_id, push_memory, secret):
            remote = RemoteRun.read(HfApi(token=token), repo_id, repo_type)
            if repo_type == "dataset":
                check_privacy(remote, private)
            elif push_memory and remote.exists:
                private = private or remote.is_private()
            planned += plan_contents(contents, remote, overwrite_revisions)
    return planned


def plan_contents(
    contents: Sequence[StepContent], remote: RemoteRun, overwrite_revisions: bool
) -> list[tuple[StepContent, RemoteRun, Plan]]:
    """The plan of each step, once those before it are carried out; `remote` is left as it would be after all."""
    planned = []
    for content in contents:
        plan = make_plan(content, remote, overwrite_revisions)
        planned.append((content, remote, plan))
        if plan.action != "nothing":
            commit = plan.commit or f"planned-{content.tag}"
            remote.record(content.step, commit, files=None if plan.commit else {})
    return planned


def check_repo_id(hub_model_id: str) -> None:
    """Raises [`PublishError`] where this is no id of a repository."""
    if not is_repo_id(hub_model_id):
        raise PublishError(
            f"--hub_model_id is {hub_model_id!r}, expected namespace/name of letters, digits, '-', '_' and '.'"
        )


def complete_steps(output_dir: str | Path) -> list[StepFolder]:
    """The complete step folders of a run, at least one, in order; raises [`UserError`] where there is none."""
    folders = list_step_folders(output_dir)
    if not folders:
        raise PublishError(f"{Path(output_dir).name} has no complete step folder, expected step1, step2, …")
    return folders


def model_content(folder: StepFolder, hub_model_id: str, token: str | None) -> StepContent:
    """
    What the revision of a step's model holds: the files of its folder, the card as it will name `hub_model_id`.

    Raises:
        StepFolderError: The folder is incomplete or inconsistent.
        PublishError: A file holds a Hub token.
    """
    if not is_complete(folder.path):
        raise PublishError(f"{folder.path.name} has no card or figures yet, call add_card_and_figures first")
    files = {path: LocalFile(file) for path, file in folder.published_files().items()}
    files[CARD] = LocalFile(folder.path / CARD, card_for(folder, hub_model_id).encode())
    for path, file in files.items():
        if Path(path).suffix in (".json", ".md", ".py", ".yaml") and _has_secret(file.read(), token):
            raise PublishError(f"{folder.path.name}/{path} holds a Hub token, remove it before publishing")
    last = folder.results.last
    title = f"Step {last.step}: {last.num_seen_classes} classes, accuracy {last.accuracy_text()}"
    first = folder.results.first_own_step
    earlier = [asdict(step) for step in folder.results.steps[: first - 1]] or None
    return StepContent(folder.step, files, title, first, earlier)


def run_contents(
    folders: Sequence[StepFolder], hub_model_id: str, push_memory: bool, token: str | None
) -> list[tuple[str, str, list[StepContent]]]:
    """
    What the repositories of a run are to hold: the id and the type of each, and the content of each step there.

    Raises:
        UserError: See [`model_content`] and [`memory_content`].
    """
    parts = [(hub_model_id, "model", [model_content(folder, hub_model_id, token) for folder in folders])]
    if push_memory:
        memories = [memory_content(folder, hub_model_id) for folder in folders]
        parts.append((memory_repo_id(hub_model_id), "dataset", memories))
    return parts


def _has_secret(content: bytes, token: str | None) -> bool:
    return bool(_SECRET.search(content)) or (token is not None and token.encode() in content)


def _write_card(folder: StepFolder, content: StepContent) -> None:
    text = content.files[CARD].read().decode()
    if (folder.path / CARD).read_bytes() != text.encode():
        write_aside(folder.path / CARD, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hub.publish", description="Publish a run, or finish publishing it: one tag step{t} a step."
    )
    parser.add_argument("output_dir", help="--output_dir of the run, with its folders step1, step2, …")
    parser.add_argument("--hub_model_id", required=True, help="repository as namespace/name; made when missing")
    parser.add_argument("--private", action="store_true", help="make the repository private when it is made now")
    parser.add_argument(
        "--push_memory",
        action="store_true",
        help=f"publish the rehearsal memories as well, to the data set HUB_MODEL_ID{MEMORY_SUFFIX}: others can then "
        "continue the model; mind the terms of the images",
    )
    parser.add_argument(
        "--overwrite_revisions", action="store_true", help="replace revisions that exist with other content"
    )
    parser.add_argument("--dry_run", action="store_true", help="only print what would be done")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m hub.publish`; returns the exit status."""
    options = _parser().parse_args(arguments)
    quiet_client()
    try:
        _dry_run(options) if options.dry_run else _publish(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _dry_run(options: argparse.Namespace) -> None:
    words = {"nothing": "already there", "tag": "would be tagged", "commit": "would be published"}
    for content, remote, plan in plan_run(
        options.output_dir,
        options.hub_model_id,
        private=options.private,
        push_memory=options.push_memory,
        overwrite_revisions=options.overwrite_revisions,
    ):
        _say(f"{remote.url}/tree/{content.tag}  {words[plan.action]}")


def _publish(options: argparse.Namespace) -> None:
    for folder in complete_steps(options.output_dir):
        step = publish_step(
            folder,
            options.hub_model_id,
            private=options.private,
            push_memory=options.push_memory,
            overwrite_revisions=options.overwrite_revisions,
        )
        for part in (step, step.memory):
            if part is not None:
                _say(f"{part.url}  {'published' if part.created else 'already there'}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
