"""What publishing a step takes, given what the Hub holds: decided before anything is written."""

from dataclasses import dataclass
from typing import Literal

from hub.errors import PublishError
from hub.remote import LocalFile, RemoteRun
from hub.step_folder import CARD
from hub.text import shorten


# A repository made on the website may start with these; nothing is lost when the first step replaces them.
_STARTER_FILES = {CARD, "LICENSE"}


@dataclass(frozen=True)
class Plan:
    """What it takes to publish a step: nothing, only the tag on `commit`, or a commit and the tag."""

    action: Literal["nothing", "tag", "commit"]
    commit: str | None = None


def make_plan(step: int, files: dict[str, LocalFile], remote: RemoteRun, overwrite_revisions: bool) -> Plan:
    """Decides what publishing `step` takes. Raises [`PublishError`] where that would lose or disorder revisions."""
    published = remote.tags.get(step)
    if published is not None and remote.holds(published, files):
        return Plan("nothing", published)
    if published is not None and not overwrite_revisions:
        difference = _difference(remote, published, files)
        raise PublishError(
            f"step{step} of {remote.repo_id} has other content than the folder ({difference}); "
            "choose another --hub_model_id, or replace it with --overwrite_revisions"
        )
    _check_order(step, remote, overwrite_revisions)
    if remote.holds(remote.head, files):
        return Plan("tag", remote.head)
    if not overwrite_revisions:
        _check_head(step, remote)
    return Plan("commit")


def _check_order(step: int, remote: RemoteRun, overwrite_revisions: bool) -> None:
    later = [known for known in sorted(remote.tags) if known > step]
    if later and not overwrite_revisions:
        raise PublishError(
            f"{remote.repo_id} has step{later[0]} but not step{step}, expected steps in order; "
            "choose another --hub_model_id, or start again from here with --overwrite_revisions"
        )
    if step > 1 and step - 1 not in remote.tags:
        raise PublishError(f"{remote.repo_id} has no step{step - 1} yet, publish it before step{step}")


def _check_head(step: int, remote: RemoteRun) -> None:
    if step > 1 and remote.head != remote.tags[step - 1]:
        raise PublishError(
            f"main of {remote.repo_id} has commits after step{step - 1} that are not step{step}; "
            "move them to another branch, or publish on top of them with --overwrite_revisions"
        )
    if step == 1 and (others := sorted(remote.files(remote.head).keys() - _STARTER_FILES)):
        raise PublishError(
            f"{remote.repo_id} already holds other files ({shorten(others, 60)}); "
            "choose another --hub_model_id, or replace them with --overwrite_revisions"
        )


def _difference(remote: RemoteRun, commit: str, files: dict[str, LocalFile]) -> str:
    there = remote.files(commit)
    changed = [path for path in there.keys() & files.keys() if not files[path].equals(there[path])]
    return shorten(sorted(changed) + sorted(there.keys() ^ files.keys()), 60)
