"""Large files of a repository of the local Hub: which files count as large, and where their content is kept."""

import codecs
import hashlib
import io
import os
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dulwich.attrs import compile_gitattributes_patterns, match_path, parse_git_attributes

from hub.local.errors import HubError
from hub.local.names import encode


MAX_REGULAR_BYTES = 10 << 20

_LFS_SUFFIXES = (
    "7z arrow bin bz2 ckpt ftz gz h5 joblib lfs.* mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt pth "
    "rar safetensors tar.* tar tflite tgz wasm xz zip zst"
)
_LFS_PATTERNS = [*(f"*.{suffix}" for suffix in _LFS_SUFFIXES.split()), "saved_model/**/*", "*tfevents*"]
DEFAULT_GITATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LFS_PATTERNS
).encode()

_CHUNK_BYTES = 1 << 20
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})\n"
)


@dataclass(frozen=True)
class Pointer:
    """What git keeps in place of a large file: its SHA-256 in hex and its size in bytes."""

    oid: str
    size: int

    def to_bytes(self) -> bytes:
        """The pointer as the small file that git stores."""
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (self.oid.encode(), self.size)

    @classmethod
    def parse(cls, content: bytes) -> "Pointer | None":
        """The pointer that `content` is, or `None` for any other file."""
        match = _POINTER.fullmatch(content)
        return cls(match[1].decode(), int(match[2])) if match else None


def is_large(path: str, size: int, sample: bytes, gitattributes: bytes) -> bool:
    """
    Whether a file goes to LFS: by the repository's `.gitattributes`, by its size in bytes, or for not being text.
    `sample` is its beginning, which may end within a character.
    """
    patterns = compile_gitattributes_patterns(parse_git_attributes(io.BytesIO(gitattributes)), ".gitattributes")
    by_name = match_path(patterns, encode(path)).get(b"filter") == b"lfs"
    return by_name or size > MAX_REGULAR_BYTES or not _is_text(sample)


def _is_text(sample: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return b"\0" not in sample


class BlobStore:
    """Large files by SHA-256 in `folder`; what arrives is written in `incoming` and moved once it is verified."""

    def __init__(self, folder: Path, incoming: Path) -> None:
        self._folder = folder
        self._incoming = incoming

    def path(self, oid: str) -> Path:
        """Where the content of `oid` is, if it is stored; raises `HubError` 400 if `oid` is no SHA-256 in hex."""
        if not re.fullmatch(r"[0-9a-f]{64}", oid):
            raise HubError(400, f"LFS object id {oid!r:.80}: expected 64 hexadecimal digits")
        return self._folder / oid[:2] / oid

    def size(self, oid: str) -> int | None:
        """Bytes of the content of `oid`, `None` if it is not stored."""
        try:
            return self.path(oid).stat().st_size
        except FileNotFoundError:
            return None

    def add(self, pointer: Pointer, chunks: Iterable[bytes]) -> None:
        """Stores the content of `pointer`; raises `HubError` 400 if `chunks` are another content."""
        upload = uuid.uuid4().hex
        try:
            self.write_part(upload, 0, chunks)
            self.finish(upload, pointer)
        finally:
            (self._incoming / upload).unlink(missing_ok=True)

    def write_part(self, upload: str, offset: int, chunks: Iterable[bytes]) -> None:
        """Writes a part of the content that the upload named `upload` gathers, at byte `offset`."""
        descriptor = os.open(self._incoming / upload, os.O_WRONLY | os.O_CREAT, 0o666)
        with open(descriptor, "wb") as file:
            file.seek(offset)
            for chunk in chunks:
                file.write(chunk)

    def finish(self, upload: str, pointer: Pointer) -> None:
        """Stores what the upload gathered, if that is not done yet; raises `HubError` 400 as `add` does."""
        aside = self._incoming / upload
        digest = hashlib.sha256()
        try:
            with open(aside, "r+b") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                received = (digest.hexdigest(), file.tell())
                if received != (pointer.oid, pointer.size):
                    raise HubError(
                        400,
                        f"LFS object {pointer.oid} of {pointer.size} bytes: received {received[0]} of {received[1]} "
                        "bytes, upload it again",
                    )
                os.fsync(file.fileno())
        except FileNotFoundError:
            if self.size(pointer.oid) is None:
                raise HubError(400, f"LFS object {pointer.oid}: no part of it arrived, upload it again") from None
        else:
            target = self.path(pointer.oid)
            target.parent.mkdir(exist_ok=True)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
