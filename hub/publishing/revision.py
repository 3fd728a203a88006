"""
One revision of a run, made once whatever goes wrong on the way: a commit on `main` and the tag `step{t}`.

What is there with equal content is left alone. After a failure the repository is looked at again: what was done all
the same, or by another publisher of the same run, counts.
"""

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

from hub.publishing.client_errors import CLIENT_ERRORS
from hub.publishing.plan import Plan, StepContent, make_plan
from hub.publishing.remote import LocalFile, RemoteRun
from hub.run.errors import PublishError


def publish_content(content: StepContent, remote: RemoteRun, overwrite_revisions: bool) -> tuple[str, bool]:
    """
    Does what is missing for a step to be published.

    Args:
        content: What the revision has to hold.
        remote: The repository, which exists, as it was just read.
        overwrite_revisions: Replace a revision that has other content, and forget the tags of later steps.

    Returns:
        The commit of the revision, and whether anything had to be done.

    Raises:
        PublishError: Out of order, or other content on the Hub.
        `CLIENT_ERRORS`: The Hub refuses or cannot be reached.
    """
    plan = make_plan(content, remote, overwrite_revisions)
    needed = plan.action != "nothing"
    while True:
        try:
            return _carry_out(plan, content, remote), needed
        except CLIENT_ERRORS:
            before, remote = remote, remote.read_again()
            left = _plan_or_none(content, remote, overwrite_revisions)
            if left is None or (left, remote.tags) == (plan, before.tags):
                raise
            plan = left


def _plan_or_none(content: StepContent, remote: RemoteRun, overwrite_revisions: bool) -> Plan | None:
    try:
        return make_plan(content, remote, overwrite_revisions)
    except PublishError:
        # The failure itself says more than the conflict that it left.
        return None


def _carry_out(plan: Plan, content: StepContent, remote: RemoteRun) -> str:
    if plan.action == "nothing" and plan.commit:
        return plan.commit
    commit = plan.commit or _commit(content, remote)
    for step in sorted((known for known in remote.tags if known >= content.step), reverse=True):
        remote.api.delete_tag(remote.repo_id, tag=f"step{step}", repo_type=remote.repo_type)
    remote.api.create_tag(remote.repo_id, tag=content.tag, revision=commit, repo_type=remote.repo_type)
    return commit


def _commit(content: StepContent, remote: RemoteRun) -> str:
    """One commit that leaves exactly the files of the step on main."""
    obsolete = sorted(remote.files(remote.head).keys() - content.files.keys())
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        *(CommitOperationAdd(path, _source(file)) for path, file in sorted(content.files.items())),
        *(CommitOperationDelete(path) for path in obsolete),
    ]
    return remote.api.create_commit(
        remote.repo_id,
        operations,
        commit_message=content.title,
        parent_commit=remote.head,
        repo_type=remote.repo_type,
    ).oid


def _source(file: LocalFile) -> str | bytes:
    return str(file.path) if file.content is None else file.content
