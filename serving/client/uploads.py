"""Sends an artifact to the control port, piece by piece, and waits for what becomes of it.

Sent again after an interruption, it goes on where it was: the control port knows the upload by the
version, the files and the sender. Files are read twice, to declare their digests and to send them, and
never as a whole.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from serving.client.connection import Connection, segment
from serving.core.clock import Clock, SystemClock
from serving.errors import ParameterInvalid

UPLOADS: Final = "/v1/artifacts/uploads"
PIECE_BYTES: Final = 4 * 1024 * 1024
POLL_S: Final = 0.2

Progress = Callable[[str, int, int], None]
"""Told the file, the bytes that arrived, and its size."""


class Declared(msgspec.Struct, frozen=True):
    """A file as it is declared."""

    path: str
    sha256: str
    bytes: int


class Arrived(msgspec.Struct, frozen=True):
    path: str
    bytes: int
    received: int


class UploadState(msgspec.Struct, frozen=True, kw_only=True):
    """stage: receiving, inspecting, then validated, rejected or failed, with code and reason."""

    id: str
    model: str
    version: str
    stage: str
    digest: str
    files: tuple[Arrived, ...]
    code: str = ""
    reason: str = ""


def upload_artifact(
    connection: Connection,
    source: Path,
    *,
    model: str,
    version: str,
    facts: Mapping[str, Any] | None = None,
    parity: Path | None = None,
    progress: Progress = lambda _path, _received, _size: None,
    clock: Clock | None = None,
) -> UploadState:
    """Uploads a file, or every file of a folder, and returns what the inspection found.

    facts: `definition`, `description` and `lineage` of the version, as far as there are any. parity: a
    file with answers of the model it was made from. Raises ParameterInvalid for what cannot be read, and
    what the control port refuses with.
    """
    clock = clock or SystemClock()
    places = _places(source)
    declared = [_declared(path, file) for path, file in places.items()]
    order: dict[str, Any] = {"model": model, "version": version, "files": declared, **(facts or {})}
    if parity is not None:
        extra = _declared(_beside(parity.name, places), parity)
        places[extra.path] = parity
        order["parity"] = extra
    state = connection.order("POST", UPLOADS, UploadState, body=order)
    path = f"{UPLOADS}/{state.id}"
    for file in state.files:
        _send(connection, path, places[file.path], arrived=file, progress=progress)
    state = connection.order("POST", f"{path}/finish", UploadState)
    while state.stage == "inspecting":
        clock.sleep(POLL_S)
        state = connection.ask(path, UploadState)
    return state


def _send(
    connection: Connection, upload: str, source: Path, *, arrived: Arrived, progress: Progress
) -> None:
    """What is not there yet."""
    offset = arrived.received
    with source.open("rb") as content:
        content.seek(offset)
        while piece := content.read(PIECE_BYTES):
            path = f"{upload}/{segment(arrived.path)}?offset={offset}"
            connection.put_bytes(path, piece)
            offset += len(piece)
            progress(arrived.path, offset, arrived.bytes)


def _places(source: Path) -> dict[str, Path]:
    """Files by their path in the artifact; links are not followed, they are refused."""
    if source.is_file() and not source.is_symlink():
        return {source.name: source}
    if not source.is_dir():
        raise ParameterInvalid(f"{source} is neither a file nor a folder")
    found = sorted(_files(source))
    return {file.relative_to(source).as_posix(): file for file in found}


def _files(folder: Path) -> Iterator[Path]:
    for each in folder.rglob("*"):
        if each.is_symlink():
            raise ParameterInvalid(f"{each} is a symbolic link")
        if each.is_file():
            yield each


def _declared(path: str, file: Path) -> Declared:
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return Declared(path, digest, file.stat().st_size)
    except OSError as error:
        raise ParameterInvalid(f"{file} cannot be read: {error.strerror}") from error


def _beside(name: str, taken: Mapping[str, Path]) -> str:
    """A name that no file of the artifact has."""
    while name in taken:
        name = f"parity-{name}"
    return name
