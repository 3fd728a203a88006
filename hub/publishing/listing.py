"""What the revisions of a repository know, without loading one of them."""

from dataclasses import replace

from hub.publishing.remote import RemoteRun
from hub.run.errors import StepFolderError
from hub.run.layout import RESULTS_FILE, STEPS_FILE, step_name
from hub.run.results import RunResults
from hub.run.steps_file import StepEntry, decode_steps


def published_steps(remote: RemoteRun) -> list[StepEntry]:
    """
    What the revisions of a repository know, in order; those without readable results are left out.

    One request where `steps.json` agrees with the tags, and one more for each revision of which it says nothing.

    Raises:
        `CLIENT_ERRORS`: the Hub refuses or cannot be reached.
    """
    listed = {entry.tag: entry for entry in _read(remote)}
    entries = []
    for step, commit in sorted(remote.tags.items()):
        entry = listed.get(step_name(step))
        if entry is None or entry.commit not in (None, commit):
            entry = _of_revision(remote, step)
        if entry is not None:
            entries.append(replace(entry, commit=commit))
    return entries


def _read(remote: RemoteRun) -> tuple[StepEntry, ...]:
    raw = remote.read_json(STEPS_FILE, remote.head) if remote.head else None
    try:
        return decode_steps(raw) if raw is not None else ()
    except StepFolderError:
        # Somebody wrote into it: the tags know.
        return ()


def _of_revision(remote: RemoteRun, step: int) -> StepEntry | None:
    raw = remote.read_json(RESULTS_FILE, remote.tags[step])
    try:
        results = RunResults.from_dict(raw, step_name(step)) if isinstance(raw, dict) else None
    except StepFolderError:
        return None
    return StepEntry.of(results) if results and results.last.step == step else None
