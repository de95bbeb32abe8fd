"""How far a log goes, signed: what makes a missing end visible.

`head.json` in a writer's directory is a DSSE envelope around a `Head`: so many extents with this root
(`format`) were in this segment at that time. The writer replaces it about once a second while it
commits, and when it seals. A log that holds less than its head was cut. Who can write the directory
can also put an older head there; an exported one (`serving log head --export`), kept elsewhere,
shows that too.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from serving.core.clock import Clock
from serving.errors import SignatureInvalid
from serving.predictionlog.files import SYSTEM_FILES, Files, FilesToRead
from serving.predictionlog.format import SegmentHeader
from serving.predictionlog.tree import Signer
from serving.trust.signatures import Envelope, TrustedKeys

HEAD_NAME: Final = "head.json"
HEAD_TYPE: Final = "application/vnd.serving.log-head+json"
HEAD_NS: Final = 1_000_000_000
"""How old the head may become while commits are made."""
_MAX_HEAD_BYTES: Final = 64 * 1024

_log = logging.getLogger(__name__)


class Head(msgspec.Struct, frozen=True):
    """The first `extents` extents of a segment and the root over them, in hexadecimal.

    seal_sha256: of the seal frame once the segment is sealed, and then these are all extents.
    """

    directory: str
    log_id: str
    segment: int
    extents: int
    root: str
    next_sequence: int
    time_ns: int
    seal_sha256: str = ""

    @property
    def commits(self) -> int:
        return self.extents - 1


class Covered(Protocol):
    """An open segment; `OpenSegment` fits by shape."""

    commits: int
    position: int

    @property
    def header(self) -> SegmentHeader: ...
    def covered(self) -> tuple[int, bytes]: ...


class HeadFile:
    """The head of a directory that is written to. Not thread-safe: one caller at a time."""

    def __init__(self, directory: Path, *, files: Files, signer: Signer, clock: Clock) -> None:
        self._directory = directory
        self._files = files
        self._signer = signer
        self._clock = clock
        self._written_ns = 0
        self._end = (0, 0)

    @property
    def due(self) -> bool:
        return self._clock.monotonic_ns() - self._written_ns >= HEAD_NS

    def publish(self, segment: Covered, next_sequence: int, *, sealed: bytes = b"") -> None:
        """Signs how far the segment goes, if that changed. sealed: SHA-256 of its seal.

        A segment without a commit is named once it is sealed, because it may be removed till then.
        A head that cannot be written costs no record, and is told.
        """
        self._written_ns = self._clock.monotonic_ns()
        header = segment.header
        end = (header.number, segment.position)
        if end == self._end or not (segment.commits or sealed):
            return
        extents, root = segment.covered()
        head = Head(
            directory=self._directory.name,
            log_id=header.log_id.hex(),
            segment=header.number,
            extents=extents,
            root=root.hex(),
            next_sequence=next_sequence,
            time_ns=self._clock.wall_ns(),
            seal_sha256=sealed.hex(),
        )
        envelope = self._signer.sign(HEAD_TYPE, msgspec.json.encode(head))
        try:
            self._files.replace(self._directory / HEAD_NAME, envelope.encode())
        except OSError as error:
            _log.warning("prediction log: its head was not written: %s", error.strerror)
            return
        self._end = end


def read_envelope(directory: Path, files: FilesToRead = SYSTEM_FILES) -> Envelope | None:
    """The directory's head as it was signed; None when there is none.

    Raises SignatureInvalid for what is no envelope, OSError.
    """
    try:
        descriptor = files.open_to_read(directory / HEAD_NAME)
    except FileNotFoundError:
        return None
    try:
        return Envelope.decode(files.read(descriptor, _MAX_HEAD_BYTES, 0))
    finally:
        files.close(descriptor)


def open_head(envelope: Envelope, trusted: TrustedKeys | None) -> Head:
    """What the envelope says; trusted None: whoever signed it. Raises SignatureInvalid."""
    try:
        head = msgspec.json.decode(envelope.payload, type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SignatureInvalid(f"no head of a log: {error}") from error
    if trusted is not None:
        trusted.verify(envelope, payload_type=HEAD_TYPE, role="log", at_ns=head.time_ns)
    return head


class ExportedHeads(msgspec.Struct, frozen=True):
    """The heads of all directories of a log, as they were signed, by directory."""

    heads: Mapping[str, Envelope]

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def decode(cls, content: bytes) -> "ExportedHeads":
        """Raises SignatureInvalid for what is no export."""
        try:
            return msgspec.json.decode(content, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SignatureInvalid(f"no exported heads of a prediction log: {error}") from error
