"""A file to publish, compared with that on the Hub by digest."""

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash, sha_fileobj


@dataclass(frozen=True)
class LocalFile:
    """
    A file to publish.

    Args:
        source (`Path` or `bytes`): the file on disk, or its bytes where it is not there yet.
    """

    source: Path | bytes

    def equals(self, remote: RepoFile) -> bool:
        """Whether the Hub's file has the same bytes, by its LFS sha256 or its git blob sha1."""
        size = self.source.stat().st_size if isinstance(self.source, Path) else len(self.source)
        if remote.lfs is None:
            return size == remote.size and git_hash(self.read()) == remote.blob_id
        return size == remote.lfs.size and self._sha256 == remote.lfs.sha256

    def read(self) -> bytes:
        """The bytes to publish."""
        return self.source.read_bytes() if isinstance(self.source, Path) else self.source

    @cached_property
    def _sha256(self) -> str:
        with self.source.open("rb") if isinstance(self.source, Path) else BytesIO(self.source) as file:
            return sha_fileobj(file).hex()
