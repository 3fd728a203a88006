"""Where a run is published, and how."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, get_token

from hub.run.errors import PublishError
from hub.run.layout import MEMORY_SUFFIX
from hub.run.text import is_repo_id


RepoType = Literal["model", "dataset"]


@dataclass(frozen=True)
class Destination:
    """
    Where a run is published, and how.

    Args:
        hub_model_id (`str`): repository of the models, `namespace/name`; it is made when missing.
        private (`bool`, *optional*, defaults to `False`): visibility of repositories that are made; one that exists
            keeps its own.
        push_memory (`bool`, *optional*, defaults to `False`): publish the rehearsal memories as well, to the data set
            `{hub_model_id}-memory`.
        overwrite_revisions (`bool`, *optional*, defaults to `False`): replace revisions that have other content. Later
            steps belong to the run that is replaced: their tags are deleted, their commits stay in the history of
            `main`.
        token (`str`, *optional*): a token of the Hub, by default the one of this machine.

    Raises:
        `PublishError`: `hub_model_id` is not the id of a repository.
    """

    hub_model_id: str
    private: bool = False
    push_memory: bool = False
    overwrite_revisions: bool = False
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not is_repo_id(self.hub_model_id):
            raise PublishError(
                f"--hub_model_id is {self.hub_model_id!r}, expected namespace/name of letters, digits, '-', '_' "
                "and '.'"
            )

    @property
    def memory_repo_id(self) -> str:
        """The data set of the rehearsal memories."""
        return self.hub_model_id + MEMORY_SUFFIX

    def repo_id(self, repo_type: RepoType) -> str:
        """The repository of the models, or the data set of their rehearsal memories."""
        return self.hub_model_id if repo_type == "model" else self.memory_repo_id

    @property
    def api(self) -> HfApi:
        """The client of the Hub."""
        return HfApi(token=self.token)

    @property
    def secret(self) -> str | None:
        """The token in use, which no message and no file may contain."""
        return self.token or get_token()

    def command(self, output_dir: str | Path) -> str:
        """The command that publishes what is missing of the run in `output_dir`."""
        flags = [f"--{name}" for name in ("private", "push_memory", "overwrite_revisions") if getattr(self, name)]
        words = [str(output_dir), "--hub_model_id", self.hub_model_id, *flags]
        return f"python -m hub.publish {shlex.join(words)}"
