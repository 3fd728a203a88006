"""
Publishes a run: one repository, and for every step one commit on `main` and one tag `step{t}`.

What is on the Hub already with equal content is left alone, so the same command again finishes what broke off.
What is there with other content is never replaced unless `--overwrite_revisions` says so.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hub.publishing.client_errors import quiet_client
from hub.publishing.content import missing_files
from hub.publishing.destination import Destination
from hub.publishing.plan import plan_run
from hub.publishing.revision import publish_step
from hub.run.errors import PublishError, UserError
from hub.run.layout import MEMORY_SUFFIX
from hub.run.step_folder import StepFolder, list_step_folders


def finished_steps(output_dir: str | Path) -> list[StepFolder]:
    """
    The step folders of a run that training has finished, in order; their cards and figures may still be missing.

    Raises:
        `StepFolderError`: a folder is inconsistent.
        `PublishError`: there is none.
    """
    folders = list_step_folders(output_dir, complete=False)
    if not folders:
        raise PublishError(f"{Path(output_dir).name} has no finished step folder, expected step1, step2, …")
    return folders


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m hub.publish`; returns the exit status."""
    options = _parser().parse_args(arguments)
    quiet_client()
    try:
        destination = Destination(
            options.hub_model_id,
            private=options.private,
            push_memory=options.push_memory,
            overwrite_revisions=options.overwrite_revisions,
        )
        folders = finished_steps(options.output_dir)
        _show_plan(folders, destination) if options.dry_run else _publish(folders, destination)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _publish(folders: Sequence[StepFolder], destination: Destination) -> None:
    for folder in folders:
        missing = missing_files(folder)
        revisions = publish_step(folder, destination)
        if missing:
            _say(f"{folder.tag}: {', '.join(missing)} added")
        for revision in revisions:
            _say(f"{revision.url}  {'published' if revision.created else 'already there'}")


def _show_plan(folders: Sequence[StepFolder], destination: Destination) -> None:
    words = {"nothing": "already there", "tag": "would be tagged", "commit": "would be published"}
    for folder in folders:
        if missing := missing_files(folder):
            _say(f"{folder.tag}: {', '.join(missing)} would be added")
    for content, remote, plan in plan_run(folders, destination):
        _say(f"{remote.url}/tree/{content.tag}  {words[plan.action]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hub.publish",
        description="Publish a run, or finish publishing it: one tag step{t} a step. A card or figures that a step "
        "folder lacks are added to it first.",
    )
    parser.add_argument("output_dir", help="--output_dir of the run, with its folders step1, step2, …")
    parser.add_argument("--hub_model_id", required=True, help="repository as namespace/name; made when missing")
    parser.add_argument("--private", action="store_true", help="make repositories that do not exist yet private")
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


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
