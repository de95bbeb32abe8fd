"""How a segment ends: the Merkle tree over its extents, and the seal that signs it (see `format`).

`SegmentTree` grows commit by commit beside an open segment, for about 2 us a commit and 50 ns a
record; whoever reads a segment builds the same tree from its bytes. `SealedTree` is one as a
tree frame holds it. `closing` is what ends a segment, `decode_seal` reads it back.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from serving.errors import SignatureInvalid
from serving.predictionlog.format import (
    CRC,
    HEAD,
    FrameType,
    Previous,
    PreviousState,
    SegmentHeader,
    closed,
    is_closed,
)
from serving.trust.merkle import Frontier, root
from serving.trust.signatures import Envelope, TrustedKeys

EXTENT: Final = struct.Struct("<QI32s")
SEAL: Final = struct.Struct("<IBBHQ8sQqqQQQqQQQ32s32sQ32s8s64s")
SEAL_BYTES: Final = SEAL.size + CRC.size
_SIGNED_BYTES: Final = 208
_SIGNED_AS: Final = b"serving prediction log seal 2\n"
_FIRST_SEAL: Final = struct.Struct("<IBBHQ8sQqqQQqQ32s")
"""Of format version 1."""
_LEAF: Final = hashlib.sha256(b"\0")
_LEAF_OFFSET: Final = EXTENT.size - 32


class Signer(Protocol):
    """Who signs seals and heads; the installation's `SigningKey` fits by shape."""

    @property
    def key_id(self) -> str: ...
    def sign_bytes(self, message: bytes) -> bytes: ...
    def sign(self, payload_type: str, payload: bytes) -> Envelope: ...


class Seal(NamedTuple):
    """A seal frame, found at `offset`; `start` is where its tree begins and everything else ends.

    sha256: of the tree frame; in version 1 of all bytes before the seal, which has no tree, and the
    fields before the last three are empty.
    """

    commits: int
    recovered: bool
    definitions: int
    earliest_ns: int
    latest_ns: int
    next_sequence: int
    records: int
    events: int
    sealed_ns: int
    cut_bytes: int
    lost_commits: int
    start: int
    sha256: bytes
    root: bytes
    previous_number: int
    previous_sha256: bytes
    key_id: str
    signature: bytes
    offset: int
    end: int
    frame: bytes


class Totals(NamedTuple):
    """What a seal says about its segment as a whole."""

    commits: int = 0
    definitions: int = 0
    earliest_ns: int = 0
    latest_ns: int = 0
    next_sequence: int = 0
    records: int = 0
    events: int = 0
    cut_bytes: int = 0
    lost_commits: int = 0


class Extent(NamedTuple):
    """Bytes from `start` to `end`; `checks` of its frames begin at `first` in those of the tree."""

    start: int
    end: int
    frames: int
    leaf: bytes
    first: int


class SegmentTree:
    """Extents in the order in which they are added; each begins where the last one ended."""

    def __init__(self) -> None:
        self.end = 0
        self.checks = bytearray()
        self._entries = bytearray()
        self._frontier = Frontier()

    def copy(self) -> "SegmentTree":
        found = SegmentTree()
        found.end, found.checks = self.end, bytearray(self.checks)
        found._entries = bytearray(self._entries)
        return found

    @property
    def size(self) -> int:
        """How many extents."""
        return len(self._entries) // EXTENT.size

    @property
    def extents(self) -> tuple[Extent, ...]:
        return tuple(_extents(self._entries))

    def add(self, pieces: Iterable[bytes], *, frames: Iterable[bytes] = ()) -> None:
        """The next extent's bytes; frames: those of its frames beside the commit frame."""
        self._put(pieces, b"".join([frame[-4:] for frame in frames]))

    def add_run(self, frames: bytes, footer: bytes) -> None:
        """A commit as it was read: its frames in one, and the commit frame."""
        checks, at, unpack = [], 0, CRC.unpack_from
        while at < len(frames):
            at += unpack(frames, at)[0]
            checks.append(frames[at - 4 : at])
        self._put((frames, footer), b"".join(checks))

    def _put(self, pieces: Iterable[bytes], checks: bytes) -> None:
        leaf, length = _LEAF.copy(), 0
        for piece in pieces:
            leaf.update(piece)
            length += len(piece)
        self._entries += EXTENT.pack(length, len(checks) // CRC.size, leaf.digest())
        self.checks += checks
        self.end += length

    def root(self) -> bytes:
        """RFC 9162, over what was added; costs what was added since it was last asked for."""
        known = self._frontier.size * EXTENT.size
        for at in range(known, len(self._entries), EXTENT.size):
            self._frontier.append(bytes(self._entries[at + _LEAF_OFFSET : at + EXTENT.size]))
        return self._frontier.root()

    def root_of(self, size: int) -> bytes:
        """The root over the first `size` extents."""
        return root([extent.leaf for extent in self.extents[:size]])

    def frame(self) -> bytes:
        """As it stands before a seal."""
        length = HEAD.size + len(self._entries) + len(self.checks) + CRC.size
        head = HEAD.pack(length, FrameType.TREE, 0, 0, self.size)
        return closed(b"".join((head, self._entries, self.checks)))


class SealedTree(NamedTuple):
    """What a tree frame holds."""

    extents: tuple[Extent, ...]
    checks: bytes


def decode_tree(frame: bytes) -> SealedTree | None:
    """None unless `frame` is a whole tree."""
    if len(frame) < HEAD.size + CRC.size or not is_closed(frame):
        return None
    length, kind, _, _, count = HEAD.unpack_from(frame)
    entries = HEAD.size + count * EXTENT.size
    if kind != FrameType.TREE or length != len(frame) or entries > len(frame) - CRC.size:
        return None
    return SealedTree(
        tuple(_extents(frame[HEAD.size : entries])), frame[entries : len(frame) - CRC.size]
    )


def _extents(entries: bytes | bytearray) -> Iterator[Extent]:
    start = first = 0
    for length, frames, leaf in EXTENT.iter_unpack(entries):
        yield Extent(start, start + length, frames, leaf, first)
        start, first = start + length, first + frames


def closing(
    tree: SegmentTree,
    totals: Totals,
    header: SegmentHeader,
    *,
    signer: Signer,
    recovered: bool,
    sealed_ns: int,
) -> tuple[list[bytes], Previous]:
    """Tree and seal, to be written where the tree's extents end; and the link to the segment then."""
    frame = tree.frame()
    start = tree.end
    signed = SEAL.pack(
        SEAL_BYTES, FrameType.SEAL, recovered, 0, totals.commits, header.nonce, totals.definitions,
        totals.earliest_ns, totals.latest_ns, totals.next_sequence, totals.records, totals.events,
        sealed_ns, totals.cut_bytes, totals.lost_commits, start, hashlib.sha256(frame).digest(),
        tree.root(), header.previous.number, header.previous.sha256, b"", b"",
    )[:_SIGNED_BYTES]  # fmt: skip
    signature = signer.sign_bytes(_SIGNED_AS + signed)
    seal = closed(signed + bytes.fromhex(signer.key_id) + signature)
    return [frame, seal], sealed_link(header.number, start + len(frame) + len(seal), seal)


def sealed_link(number: int, end: int, seal: bytes) -> Previous:
    """The link to a segment that ends at `end` with this seal frame."""
    return Previous(number, PreviousState.SEALED, end, hashlib.sha256(seal).digest())


def seal_bytes(header: SegmentHeader) -> int:
    """The length of a seal frame in this segment."""
    return SEAL_BYTES if header.signed else _FIRST_SEAL.size + CRC.size


def decode_seal(frame: bytes, header: SegmentHeader, *, offset: int) -> Seal | None:
    """`frame` was found at `offset`; None unless it is this segment's and undamaged."""
    if len(frame) != seal_bytes(header) or not is_closed(frame):
        return None
    if frame[4] != FrameType.SEAL or frame[HEAD.size : HEAD.size + 8] != header.nonce:
        return None
    end = offset + len(frame)
    if not header.signed:
        _, _, recovered, _, commits, _, *times, records, sealed_ns, cut, sha256 = (
            _FIRST_SEAL.unpack_from(frame)
        )
        return Seal._make(
            (commits, bool(recovered), *times, records, 0, sealed_ns, cut, 0, offset, sha256, b"",
             0, b"", "", b"", offset, end, frame)
        )  # fmt: skip
    _, _, recovered, _, commits, _, *fields, key, signature = SEAL.unpack_from(frame)
    return Seal._make((commits, bool(recovered), *fields, key.hex(), signature, offset, end, frame))


def check_seal(seal: Seal, trusted: TrustedKeys) -> str:
    """Why the seal does not count; empty when a trusted key signed it."""
    try:
        trusted.verify_bytes(
            _SIGNED_AS + seal.frame[:_SIGNED_BYTES],
            seal.signature,
            key_id=seal.key_id,
            role="log",
            at_ns=seal.sealed_ns,
        )
    except SignatureInvalid as error:
        return error.message
    return ""
