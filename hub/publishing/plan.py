"""What it takes to publish a step, given what the Hub holds already. Nothing here changes anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from hub.cards.edits import with_edits
from hub.publishing.client_errors import one_line_errors
from hub.publishing.content import StepContent, run_contents
from hub.publishing.destination import Destination
from hub.publishing.local_file import LocalFile
from hub.publishing.remote import RemoteRun
from hub.run.errors import PublishError, one_line
from hub.run.layout import CARD_FILE
from hub.run.step_folder import StepFolder
from hub.run.text import printable, shorten


# A repository made on the website may start with these; nothing is lost when the first step replaces them.
_STARTER_FILES = {CARD_FILE, "LICENSE"}


@dataclass(frozen=True)
class Plan:
    """
    What it takes to publish a step.

    Args:
        action (`str`): nothing, only the tag on `commit`, or a commit and the tag.
        content (`StepContent`): what the revision holds: the step, with what users wrote into the cards before.
        commit (`str`, *optional*): the commit, if it is there.
    """

    action: Literal["nothing", "tag", "commit"]
    content: StepContent
    commit: str | None = None


def plan_run(folders: Sequence[StepFolder], destination: Destination) -> list[tuple[StepContent, RemoteRun, Plan]]:
    """
    What publishing a run would do, repository by repository and step by step. Writes nothing, neither to the folders
    nor to the Hub.

    Raises:
        `UserError`: see [`publish_step`].
    """
    planned = []
    with one_line_errors(f"look at {destination.hub_model_id}", destination.hub_model_id, destination.secret):
        for repo_type, contents in run_contents(folders, destination).items():
            planned += plan_contents(contents, RemoteRun.at(destination, repo_type), destination)
    return planned


def plan_contents(
    contents: Sequence[StepContent], remote: RemoteRun, destination: Destination
) -> list[tuple[StepContent, RemoteRun, Plan]]:
    """The plan of each step, once those before it are carried out; `remote` is left as it would be after all."""
    planned = []
    for content in contents:
        plan = make_plan(content, remote, destination)
        planned.append((content, remote, plan))
        if plan.action != "nothing":
            commit = plan.commit or f"planned-{content.tag}"
            remote.record(content.step, commit, files=None if plan.commit else {})
    return planned


def make_plan(content: StepContent, remote: RemoteRun, destination: Destination) -> Plan:
    """
    Decides what publishing a step takes.

    Raises:
        `PublishError`: it would lose revisions or break their order.
    """
    overwrite = destination.overwrite_revisions
    published = remote.tags.get(content.step)
    if published is not None and remote.holds(published, content.files):
        return Plan("nothing", content, published)
    content = _with_edits(content, remote)
    if published is not None and remote.holds(published, content.files):
        return Plan("nothing", content, published)
    if published is not None and not overwrite:
        difference = _difference(remote, published, content.files)
        raise PublishError(
            f"{content.tag} of {remote.name} has other content than the folder ({difference}); "
            "choose another --hub_model_id, or replace it with --overwrite_revisions"
        )
    _check_order(content.step, content.first_own_step, remote, overwrite)
    if remote.holds(remote.head, content.files):
        return Plan("tag", content, remote.head)
    if not overwrite:
        _check_head(content.step, remote)
    if content.step == content.first_own_step:
        _check_ancestor(content.step, content.earlier_steps, remote)
    return Plan("commit", content)


def _with_edits(content: StepContent, remote: RemoteRun) -> StepContent:
    """
    The content with what users wrote into the cards of earlier steps, on the website say: what changes from a step to
    its last edit. A step's own card does not tell the words of users from generated ones, the history of `main` does.
    """
    for step in sorted(known for known in remote.tags if known < content.step):
        commit, edit = remote.tags[step], remote.last_edit(step)
        if edit != commit:
            before, after = remote.read_card(commit), remote.read_card(edit)
            try:
                card = with_edits(content.files[CARD_FILE].read().decode(), before, after)
            except (ValueError, TypeError, yaml.YAMLError) as error:
                raise PublishError(
                    f"{CARD_FILE} on main of {remote.name} has a metadata block that is not valid YAML "
                    f"({printable(one_line(error))[:80]}); correct it there"
                ) from error
            content = content.with_card(card)
    return content


def check_room(
    step: int,
    remote: RemoteRun,
    destination: Destination,
    first_own_step: int = 1,
    earlier_steps: Sequence[Any] | None = None,
) -> None:
    """
    Makes sure that a step that is still to be learned will find its place on the Hub.

    Args:
        step (`int`): number of the step, from 1.
        remote (`RemoteRun`): the repository.
        destination (`Destination`): whether later revisions may be replaced.
        first_own_step, earlier_steps (*optional*): see [`StepContent`].

    Raises:
        `PublishError`: revisions or files are in its way.
    """
    overwrite = destination.overwrite_revisions
    if (later := [known for known in sorted(remote.tags) if known >= step]) and not overwrite:
        raise PublishError(
            f"{remote.name} has step{later[0]} already, which this run did not write; "
            "choose another --hub_model_id, or replace it with --overwrite_revisions"
        )
    _check_order(step, first_own_step, remote, overwrite)
    if not overwrite:
        _check_head(step, remote)
    if step == first_own_step:
        _check_ancestor(step, earlier_steps, remote)


def _check_order(step: int, first_own_step: int, remote: RemoteRun, overwrite: bool) -> None:
    known = sorted(remote.tags)
    later = [tag for tag in known if tag > step]
    if later and not overwrite:
        raise PublishError(
            f"{remote.name} has step{later[0]} but not step{step}, expected steps in order; "
            "choose another --hub_model_id, or start again from here with --overwrite_revisions"
        )
    # A run that continues a model published elsewhere begins with a later step, in a repository of its own.
    begins = step == first_own_step and not any(tag < step for tag in known)
    if step - 1 not in known and not begins:
        raise PublishError(f"{remote.name} has no step{step - 1} yet, publish it before step{step}")


def _check_head(step: int, remote: RemoteRun) -> None:
    before = remote.tags.get(step - 1)
    if before is not None and remote.head != remote.last_edit(step - 1):
        raise PublishError(
            f"main of {remote.name} has commits after step{step - 1} that are not step{step} and change more than "
            f"{CARD_FILE}; move them to another branch, or publish on top of them with --overwrite_revisions"
        )
    if before is None and (others := sorted(remote.files(remote.head).keys() - _STARTER_FILES)):
        raise PublishError(
            f"{remote.name} already holds other files ({shorten(others, 60)}); "
            "choose another --hub_model_id, or replace them with --overwrite_revisions"
        )


def _check_ancestor(step: int, earlier_steps: Sequence[Any] | None, remote: RemoteRun) -> None:
    """A continued model is published after its ancestor, or in a repository of its own."""
    before = remote.tags.get(step - 1)
    if before is None or earlier_steps is None:
        return
    if _identity(remote.steps_of(before)) != _identity(earlier_steps):
        raise PublishError(
            f"step{step - 1} of {remote.name} is not the model that step{step} continues; "
            "choose another --hub_model_id"
        )


def _identity(steps: Any) -> Any:
    """What identifies a run by its steps, however much else later versions record."""
    try:
        return [(list(step["classes"]), step["accuracy"], step["num_parameters"]) for step in steps]
    except (KeyError, TypeError):
        return None


def _difference(remote: RemoteRun, commit: str, files: dict[str, LocalFile]) -> str:
    there = remote.files(commit)
    changed = [path for path in there.keys() & files.keys() if not files[path].equals(there[path])]
    return shorten(sorted(changed) + sorted(there.keys() ^ files.keys()), 60)
