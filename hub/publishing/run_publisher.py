"""Publishes a run beside its training: asks the Hub first, then takes a step at a time, and says what is left."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.publish import publish_step
from hub.publishing.background import RETRY_DELAYS, BackgroundPublisher
from hub.publishing.preflight import preflight
from hub.run.errors import PublishError


@dataclass(frozen=True)
class Target:
    """
    Where a run is published, and how.

    Args:
        output_dir: The folder of the run.
        hub_model_id: `namespace/name`.
        private: Visibility of repositories that are made.
        push_memory: Publish the rehearsal memories as well.
        overwrite_revisions: Replace revisions that have other content.
    """

    output_dir: Path
    hub_model_id: str
    private: bool = False
    push_memory: bool = False
    overwrite_revisions: bool = False

    @property
    def command(self) -> str:
        """The command that publishes what is missing."""
        flags = [f"--{name}" for name in ("private", "push_memory", "overwrite_revisions") if getattr(self, name)]
        words = [str(self.output_dir), "--hub_model_id", self.hub_model_id, *flags]
        return f"python -m hub.publish {shlex.join(words)}"


class RunPublisher:
    """
    Publishes the steps of a run in the background.

    Args:
        target: Where to.
        say: Takes lines for the user.
        warn: Takes warnings.
    """

    def __init__(self, target: Target, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._target = target
        self._say = say
        self._warn = warn
        self._background: BackgroundPublisher | None = None

    def start(
        self,
        *,
        is_new: bool,
        has_begun: bool = False,
        first_own_step: int = 1,
        earlier_steps: Sequence[Any] | None = None,
    ) -> None:
        """
        Asks the Hub whether it will take the run, and stands ready.

        Args:
            is_new: Whether what `output_dir` holds is of no interest: it will be replaced.
            has_begun: Whether the run goes on. The Hub may then be out of reach for now.
            first_own_step, earlier_steps: See [`preflight`].

        Raises:
            UserError: It will not.
        """
        target = self._target
        try:
            preflight(
                target.hub_model_id,
                None if is_new else target.output_dir,
                first_own_step=first_own_step,
                earlier_steps=earlier_steps,
                private=target.private,
                push_memory=target.push_memory,
                overwrite_revisions=target.overwrite_revisions,
            )
        except PublishError as error:
            if not (error.transient and has_begun):
                raise
            self._warn(f"The Hub is not to be had for now: {error}. The run goes on all the same.")
        self._background = BackgroundPublisher(self._publish, self._warn, RETRY_DELAYS)

    def submit(self, step: int) -> None:
        """Lets a step that is saved be published as soon as those before it are; returns at once."""
        if self._background is not None:
            self._background.submit(step)

    def finish(self) -> None:
        """Waits for the Hub where it is not done yet; says how to go on with what it did not take."""
        left = self._background.close() if self._background is not None else []
        if left:
            steps = ", ".join(map(str, left))
            self._warn(f"Not published: step {steps}. To publish what is missing later: {self._target.command}")

    def abandon(self) -> None:
        """Lets go of what is not published yet, without waiting."""
        if self._background is not None:
            self._background.abandon()

    def _publish(self, step: int) -> None:
        target = self._target
        published = publish_step(
            target.output_dir / f"step{step}",
            target.hub_model_id,
            private=target.private,
            push_memory=target.push_memory,
            overwrite_revisions=target.overwrite_revisions,
        )
        self._say(f"Step {step} is at {published.url}")
