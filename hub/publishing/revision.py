"""
Publishing a step: one revision in each repository, made exactly once despite failures on the way.

A revision is a commit on `main` and the tag `step{t}`. One that is there with equal content is left alone. After a
failure, a 412 (conflict) among them, the repository is looked at again: what was done despite the failure, or by
another publisher of the same run, counts.
"""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

from hub.publishing.client_errors import CLIENT_ERRORS, one_line_errors
from hub.publishing.content import StepContent, run_contents
from hub.publishing.destination import Destination
from hub.publishing.listing import published_steps
from hub.publishing.plan import Plan, make_plan
from hub.publishing.remote import RemoteRun
from hub.run.errors import PublishError
from hub.run.layout import STEPS_FILE, step_name
from hub.run.step_folder import StepFolder
from hub.run.steps_file import encode_steps


@dataclass(frozen=True)
class PublishedRevision:
    """
    A revision on the Hub.

    Args:
        repository_url (`str`): web page of its repository.
        tag (`str`): its name, `step{t}`.
        commit (`str`): its commit.
        created (`bool`): `False` if it was there before, with the same content.
    """

    repository_url: str
    tag: str
    commit: str
    created: bool

    @property
    def url(self) -> str:
        """The web page of the revision."""
        return f"{self.repository_url}/tree/{self.tag}"


def publish_step(folder: str | Path | StepFolder, destination: Destination) -> list[PublishedRevision]:
    """
    Publishes what is missing of a step, and makes its folder equal to the revision: the card names the destination and
    has what users wrote into earlier cards, and a card or figures that the folder lacks are added.

    Args:
        folder (`str`, `Path` or `StepFolder`): the step folder.
        destination (`Destination`): where to publish it, and how.

    Returns:
        `list[PublishedRevision]`: the revision of the model, then that of the rehearsal memory if it is published.

    Raises:
        `StepFolderError`: the folder is incomplete or inconsistent, or the memory is missing.
        `PublishError`: the step is out of order, the Hub has other content, does not permit it or cannot be reached.
    """
    folder = folder if isinstance(folder, StepFolder) else StepFolder.read(folder)
    doing = f"publish {folder.tag} to"
    # All of it before anything goes up: a model without the memory that was asked for would be half of a step.
    with one_line_errors(f"{doing} {destination.hub_model_id}", destination.hub_model_id, destination.secret):
        contents = run_contents([folder], destination)
    revisions = []
    for repo_type, (content,) in contents.items():
        repo_id = destination.repo_id(repo_type)
        with one_line_errors(f"{doing} {repo_id}", repo_id, destination.secret):
            revisions.append(_publish_content(content, RemoteRun.at(destination, repo_type), destination))
    return revisions


def _publish_content(content: StepContent, remote: RemoteRun, destination: Destination) -> PublishedRevision:
    """
    Does what is missing for a step to be published.

    Raises:
        `PublishError`: the step is out of order, or the Hub has other content.
        `CLIENT_ERRORS`: the Hub refuses or cannot be reached.
    """
    plan = make_plan(content, remote, destination)
    created = plan.action != "nothing"
    # Before the commit, as figures that are drawn again may differ.
    content.update_folder()
    while True:
        try:
            if remote.exists:
                commit = _carry_out(plan, remote)
                # After the commit, as users may change their words until then.
                plan.content.update_folder()
                return PublishedRevision(remote.url, content.tag, commit, created)
            remote.create()
        except CLIENT_ERRORS:
            # A 412 (conflict), say: another publisher has moved `main`, maybe by the very commit that is missing.
            before, remote = remote, remote.read_again()
            left = _plan_or_none(content, remote, destination)
            if left is None or (left, remote.exists, remote.tags) == (plan, before.exists, before.tags):
                raise
            plan = left
        else:
            # Another publisher may have used the new repository first.
            remote = remote.read_again()
            plan = make_plan(content, remote, destination)


def _plan_or_none(content: StepContent, remote: RemoteRun, destination: Destination) -> Plan | None:
    try:
        return make_plan(content, remote, destination)
    except PublishError:
        # The failure itself says more than the conflict that it left.
        return None


def _carry_out(plan: Plan, remote: RemoteRun) -> str:
    content = plan.content
    if plan.action == "nothing" and plan.commit:
        return plan.commit
    commit = plan.commit
    if commit is None:
        commit = remote.api.create_commit(
            remote.repo_id,
            _operations(content, remote),
            commit_message=content.title,
            parent_commit=remote.head,
            repo_type=remote.repo_type,
        ).oid
    for step in sorted((known for known in remote.tags if known >= content.step), reverse=True):
        remote.api.delete_tag(remote.repo_id, tag=step_name(step), repo_type=remote.repo_type)
    remote.api.create_tag(remote.repo_id, tag=content.tag, revision=commit, repo_type=remote.repo_type)
    return commit


def _operations(
    content: StepContent, remote: RemoteRun
) -> list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete]:
    """What leaves exactly the files of the step on `main`, and the list of all steps."""
    obsolete = sorted(remote.files(remote.head).keys() - content.files.keys())
    return [
        *(CommitOperationAdd(path, file.source) for path, file in sorted(content.files.items())),
        *(CommitOperationDelete(path) for path in obsolete),
        *_steps_file(content, remote),
    ]


def _steps_file(content: StepContent, remote: RemoteRun) -> list[CommitOperationAdd]:
    if content.entry is None:
        return []
    earlier = [entry for entry in published_steps(remote) if entry.step < content.step]
    return [CommitOperationAdd(STEPS_FILE, encode_steps([*earlier, content.entry]))]
