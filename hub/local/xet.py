"""
Uploads of the local Hub through xet, which clients with `hf_xet` use by default for large files.

`hf_xet` accepts a folder as its storage server: it writes chunks ("xorbs") and, per upload, a table ("shard") of the
files they make up. Each upload gets a folder of its own; the first commit that needs one of its files moves them all
to the store of large files, from which every client downloads over plain HTTP. Needs client and server on one machine.
"""

import ipaddress
import logging
import shutil
import struct
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from hub.local.errors import HubError
from hub.local.http import API, Request, Response, Router
from hub.local.lfs import Pointer
from hub.local.store import Repository


logger = logging.getLogger(__name__)

router = Router()

_PREFIX = "xet-"
_XORBS = "xet/xorbs"
_PERMIT_SECONDS = 7 * 24 * 3600
# Shards are made of records of this size; these flags say which optional ones follow the segments of a file.
_RECORD = 48
_HAS_VERIFICATION = 1 << 31
_HAS_SHA256 = 1 << 30
_END_OF_FILES = b"\xff" * 32
# Bytes that are read ahead; the defaults are made for a distant server and take gigabytes.
_BUFFERS = dict.fromkeys(
    (f"reconstruction.download_buffer_{name}" for name in ("size", "perfile_size", "limit")), 32_000_000
)

# The files of an upload by their xet hash in hex.
_Files = dict[str, Pointer]


@router.repository_route("GET", API + r"/xet-write-token/(?P<revision>[^/]+)", write=True)
def open_upload(repository: Repository, request: Request, revision: str) -> Response:
    """Where a client of this machine may put its files; raises `HubError` 404 for clients elsewhere."""
    if not is_loopback(urlsplit(request.endpoint).hostname or "") or find_spec("hf_xet") is None:
        raise HubError(404, "xet uploads need hf_xet and a client on the same machine: set HF_HUB_DISABLE_XET=1")
    folder = repository.incoming / f"{_PREFIX}{uuid.uuid4().hex}"
    folder.mkdir()
    expiry = int(time.time()) + _PERMIT_SECONDS
    return Response.of_json({"casUrl": f"local://{folder.resolve()}", "accessToken": uuid.uuid4().hex, "exp": expiry})


def is_loopback(host: str) -> bool:
    """Whether `host` is a name or an address of the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def receive(repository: Repository, oid: str) -> None:
    """Moves the files of an upload that has `oid` to the store of large files; does nothing if no upload has it."""
    for folder in repository.incoming.glob(f"{_PREFIX}*"):
        files = _uploaded(folder)
        if not any(pointer.oid == oid for pointer in files.values()):
            continue
        try:
            _store(repository, folder, files)
        except (HubError, OSError, RuntimeError) as error:
            # A client that was killed left it incomplete. Another upload may have the file.
            logger.warning("%s is passed over: %s", folder.name, error)
            continue
        # Another client may still be writing there; what it leaves is removed with the next start.
        shutil.rmtree(folder, ignore_errors=True)
        return


def _uploaded(folder: Path) -> _Files:
    """The files of all shards that are complete."""
    found: _Files = {}
    for shard in folder.glob(f"{_XORBS}/shards/*.mdb"):
        # One that is being written, or was when its client was killed, ends too early.
        with suppress(struct.error, FileNotFoundError):
            found |= _files(shard.read_bytes())
    return found


def _store(repository: Repository, folder: Path, files: _Files) -> None:
    # Only a client that has it installed uploads through it.
    from hf_xet import XetConfig, XetFileInfo, XetSession

    session = XetSession(XetConfig().with_config(_BUFFERS))
    with _view(folder) as view, session.new_download_stream_group(endpoint=f"local://{view}") as group:
        for xet_hash, pointer in files.items():
            if repository.blobs.size(pointer.oid) is None:
                repository.blobs.add(pointer, group.download_stream(XetFileInfo(xet_hash, pointer.size)))


@contextmanager
def _view(folder: Path) -> Iterator[Path]:
    """A second view of an upload: the client may keep the index of its own locked until its commit is answered."""
    with TemporaryDirectory(dir=folder) as name:
        view = Path(name).resolve()
        (view / _XORBS).mkdir(parents=True)
        for path in (folder.resolve() / _XORBS).iterdir():
            target = view / _XORBS / path.name
            if path.is_dir():
                target.symlink_to(path)
            else:
                shutil.copyfile(path, target)
        yield view


def _files(shard: bytes) -> _Files:
    """The files of a shard that have a SHA-256: each is a record, its segments and records that flags announce."""
    files: _Files = {}
    at = _RECORD
    while shard[at : at + 32] != _END_OF_FILES:
        xet_hash = _hex(shard[at : at + 32])
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        sizes = [struct.unpack_from("<I", shard, at + _RECORD * (1 + number) + 36)[0] for number in range(segments)]
        at += _RECORD * (1 + segments * (2 if flags & _HAS_VERIFICATION else 1))
        if flags & _HAS_SHA256:
            files[xet_hash] = Pointer(_hex(shard[at : at + 32]), sum(sizes))
            at += _RECORD
    return files


def _hex(digest: bytes) -> str:
    """A hash as xet prints it: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))
