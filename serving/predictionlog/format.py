r"""The file format of the prediction log, byte by byte. This is its specification, version 2.

A log is a directory of segments, `00000001.segment` and so on, one writer's; beside them stand `lock`,
`head.json` (`heads`) and, where retention was, `removed.json` (`removals`). All integers are
little-endian. A checksum is CRC-32C (Castagnoli); the one that ends a header or a frame is masked as in LevelDB's log format (rotated right by 15 bits, plus
0xA282EAD8), because a CRC over data that ends in its own CRC says nothing about the data, and a
commit sums over whole frames. A segment is

    header copy, header copy, commit, commit, ... [tree, seal] [zero bytes]

HEADER, 128 bytes, written twice so that one damaged byte does not hide the segment:

      0   8  magic 89 50 4C 4F 47 0D 0A 1A
      8   2  format version, 2
     10   1  durability: 0 off, 1 async, 2 process, 3 fsync
     11   1  what became of the previous segment: 1 sealed; 2 suspect: only its first `previous end`
             bytes count, and it has no seal; 0 there is none, or it is one that should be there and
             was not when the writer started
     12   4  length of this header, 128
     16   8  log id: random, one for each start of a writer
     24   8  number of this segment; never used twice in a directory
     32   8  first sequence: what the next admitted request was to get when the segment was begun
     40   8  when it was begun, nanoseconds since 1970, UTC, signed
     48   8  number of the previous segment, 0 when there is none
     56   8  previous end
     64  32  previous hash: SHA-256 of the previous segment's seal frame; for a suspect one the root
             (see TREE) over its extents up to `previous end`; zeros when there is none
     96   8  nonce: random, repeated by every commit and seal of this segment, told to nobody else,
             so that no payload can pass for one of them
    104   4  tag: upper half of every definition number in this segment
    108  16  zeros
    124   4  masked checksum of bytes 0 to 123

FRAME, the unit of everything after the header:

      0   4  length of the whole frame, checksum included; a hint until the checksum was verified
      4   1  type: 1 definition, 2 prediction, 3 commit, 4 seal, 5 outcome, 6 loss, 7 tree
      5   1  fate of a prediction; 1 in a seal that recovery wrote; else 0
      6   2  flags of a prediction, below; else zeros
      8   8  sequence: of the request or event; a definition's number; a commit's number in its
             segment; for a seal, how many commits precede it; for a tree, its number of extents
     16   .  body by type
     -4   4  masked checksum of everything before it in the frame

DEFINITION body: 8 bytes offset of the definition before it in this segment (0: none), then a JSON
object: model, version, digest, inputs and outputs as [name, datatype, [shape without rows]], where
need be with a fourth member, the names of a row's elements, and a fifth, its treatment (`payloads`).

PREDICTION body; how its payload (from 104 on) reads under flags 1, compressed, 2, encrypted, and 4,
digested, and under the treatments of its definition is specified in `payloads`. Flags 8, chosen: the
caller chose the version, it was not routed there; 16, part: of an ensemble's prediction; 32, cached:
answered from the response cache, nothing ran:

     16   8  arrival, nanoseconds since 1970, UTC, signed
     24   8  definition number: its frame stands earlier in the same segment
     32   8  sequence of the primary whose copy this was, 0 for a primary; with flag 16 that of the
             ensemble's prediction
     40   4  rows, 4 queue us, 4 total us, 4 position in the batch
     56   4  length of request id, 2 of principal, 2 of reason
     64   8  batch id, 8 policy epoch, 4 run us, 4 batch size
     88  16  trace id, zeros when not traced
    104   .  principal, request id, reason (UTF-8); then each input and output, raw, in the order
             of the definition; a tensor has rows x shape elements. An element of BYTES is its
             length, 4 bytes, and that many bytes; a BF16 is 2 bytes. A reader that does not know
             the name of a datatype cannot tell where such a record's tensors end, and says so

EVENT body, of an outcome (`outcomes`), a loss (`losses`) and of what may follow; never in one
append with predictions:

     16   8  time, nanoseconds since 1970, UTC, signed
     24   8  zeros, where a prediction has its definition number
     32   .  by type

COMMIT body, always the last frame of its commit:

     16   8  nonce
     24   8  start: offset where this commit begins. Everything below it was complete (with
             durability fsync: on disk) before this commit was written
     32   8  offset of the newest definition at or before this commit, 0 when there is none
     40  16  earliest and latest time of its predictions and events; 0 and 0 when it has none
     56   8  next sequence when it was written
     64   4  number of predictions and events
     68   4  plain checksum of the commit's bytes from start to this frame

TREE body, what a seal signs of the segment. EXTENTS divide every byte before the tree, in order: the
header (both copies), then each commit with its commit frame; in a segment that recovery sealed also
what was damaged already:

     16   .  for each extent 8 bytes length, 4 number of frames beside the commit frame (0 for the
             header and for damage), 32 leaf: SHA-256 of 00 and the extent's bytes
      .   .  for each such frame, in file order, its last 4 bytes

The leaves are those of an RFC 9162 Merkle tree, so that a proof of a few hashes shows that a commit
is in a sealed segment. The checksums are there to name the record where a leaf does not fit.

SEAL body, the last frame of a closed segment:

     16   8  nonce
     24   8  offset of the newest definition, 0 when there is none
     32  16  earliest and latest time in the segment
     48   8  next sequence, 8 number of predictions, 8 number of events
     72   8  when it was sealed
     80   8  bytes that recovery cut off; 8 commits that the head counted and recovery did not find
     96   8  offset of the tree frame, 32 SHA-256 of the tree frame
    136  32  root of the tree
    168   8  number of the previous segment, 32 previous hash, both as in the header
    208   8  key id: first 8 bytes of the SHA-256 of the public key
    216  64  Ed25519 signature over the ASCII text `serving prediction log seal 2`, a line feed, and
             bytes 0 to 207 of this frame

So a segment cannot change without its root, its root without its signature, and no segment can go
from between two others, because each seal names the one before.

VALIDITY. A frame counts when its length is in bounds and its checksum is right; a commit also when
it repeats the nonce and its own start and its checksum over its bytes is right. Bad bytes below the
start of a valid later commit, or before a seal, are damage. Bad bytes after every such offset are a
torn tail: the write was cut off and nobody was answered from it. Zeros to the end of the file are
room written ahead. Validity shows accidents; against people only the signatures count.

VERSION 1 has no tree, no events and no flags. Its seal has 116 bytes: as above up to the number of
predictions at 56, then 8 bytes when it was sealed, 8 bytes that recovery cut off, and at 80 the
SHA-256 of all bytes before the seal, unsigned. Its unsealed segments are not sealed any more: the
header of the next segment calls them suspect.

EVOLUTION. A segment is of one version, in its header; a directory may hold several. This program
writes version 2 and reads 1 and 2. A later version is refused as a whole (FormatUnsupported): by the
start of a writer, by every reader of that segment, and `verify` names it. Within a version:
- a frame type that is not known is sound when its checksum is; readers pass over it, the tree covers
  it, `verify` counts it;
- a prediction with a flag that is not known is not decoded: its reader is told (BodyInvalid), never
  given a guess;
- a byte that is given as zero has no meaning yet and is not checked;
- types, flags and states are never renumbered, and golden files of every version are kept
  (tests/predictionlog/golden) and read by every later one.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from google_crc32c import value as checksum

MAGIC: Final = b"\x89PLOG\r\n\x1a"
VERSION: Final = 2
SIGNED_SINCE: Final = 2
"""The first version whose seals are signed."""
SUFFIX: Final = ".segment"

HEADER: Final = struct.Struct("<8sHBBI8sQQqQQ32s8sI16x")
HEADER_BYTES: Final = HEADER.size + 4
FIRST_FRAME: Final = 2 * HEADER_BYTES
HEAD: Final = struct.Struct("<IBBHQ")
CRC: Final = struct.Struct("<I")
COMMIT: Final = struct.Struct("<IBBHQ8sQQqqQII")
COMMIT_BYTES: Final = COMMIT.size + 4
LINK: Final = struct.Struct("<Q")
MASK_DELTA: Final = 0xA282EAD8

MIN_FRAME_BYTES: Final = HEAD.size + CRC.size
MAX_FRAME_BYTES: Final = 2**32 - 1
NONCE_OFFSET: Final = HEAD.size


class FrameType(IntEnum):
    """What a frame holds. Numbers are part of the format: never renumber."""

    DEFINITION = 1
    PREDICTION = 2
    COMMIT = 3
    SEAL = 4
    OUTCOME = 5
    LOSS = 6
    TREE = 7


EVENTS: Final = frozenset({FrameType.OUTCOME, FrameType.LOSS})
CLOSING: Final = frozenset({FrameType.COMMIT, FrameType.SEAL, FrameType.TREE})
"""What a writer says about frames; everything else is said by its callers."""


class Flag(IntFlag):
    """How a prediction's payload is stored, and what kind of prediction it is. Bits are part of the
    format: never renumber."""

    COMPRESSED = 1
    ENCRYPTED = 2
    DIGESTED = 4
    CHOSEN = 8
    PART = 16
    CACHED = 32


KINDS: Final = int(Flag.CHOSEN | Flag.PART | Flag.CACHED)
"""Flags that say nothing about the payload."""


class Durability(IntEnum):
    """What an answer waited for. Numbers are part of the format: never renumber."""

    OFF = 0
    ASYNC = 1
    PROCESS = 2
    FSYNC = 3


class PreviousState(IntEnum):
    """What became of the segment before. Numbers are part of the format: never renumber."""

    UNKNOWN = 0
    SEALED = 1
    SUSPECT = 2


@dataclass(frozen=True, slots=True)
class TensorShape:
    """One tensor of a definition; `shape` is concrete and leaves out the row dimension.

    features: what the elements of a row are called; empty, or as many as a row has. treatment: what
    was done to it before it was recorded: keep, hash, drop or encrypt.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    features: tuple[str, ...] = ()
    treatment: str = "keep"


@dataclass(frozen=True, slots=True)
class Definition:
    """What the predictions that refer to it have in common.

    outputs: empty for predictions that failed.
    """

    model: str
    version: str
    digest: str
    inputs: tuple[TensorShape, ...]
    outputs: tuple[TensorShape, ...]

    @property
    def treated(self) -> bool:
        """Whether anything was done to a tensor before it was recorded."""
        return any(each.treatment != "keep" for each in (*self.inputs, *self.outputs))


@dataclass(frozen=True, slots=True)
class Previous:
    """The link from a segment to the one before it; `number` 0 means there is none.

    sha256: of its seal frame, or the root over what counts of a suspect one.
    """

    number: int = 0
    state: PreviousState = PreviousState.UNKNOWN
    end: int = 0
    sha256: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The facts at the head of a segment."""

    log_id: bytes
    number: int
    durability: Durability
    first_sequence: int
    begun_ns: int
    previous: Previous
    nonce: bytes
    tag: int
    version: int = VERSION

    @property
    def signed(self) -> bool:
        """Whether a seal of this segment is signed."""
        return self.version >= SIGNED_SINCE


class Commit(NamedTuple):
    """A commit frame. `end` is the offset after it; `start` that of the commit's first byte."""

    number: int
    start: int
    definitions: int
    earliest_ns: int
    latest_ns: int
    next_sequence: int
    records: int
    checksum: int
    end: int


class FormatUnsupported(Exception):
    """The segment is intact, but a later program wrote it."""


def segment_name(number: int) -> str:
    """Sorts by number for the first hundred million segments; readers sort by the number itself."""
    return f"{number:08d}{SUFFIX}"


def masked(crc: int) -> bytes:
    """A checksum as it ends a header or a frame."""
    return CRC.pack(((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF)


def closed(frame: bytes) -> bytes:
    """`frame` with its checksum appended."""
    return frame + masked(checksum(frame))


def is_closed(frame: bytes) -> bool:
    """Whether `frame` ends in its own checksum."""
    return masked(checksum(frame[:-4])) == frame[-4:]


def encode_header(header: SegmentHeader) -> bytes:
    """Both copies."""
    previous = header.previous
    copy = closed(
        HEADER.pack(
            MAGIC, header.version, header.durability, previous.state, HEADER_BYTES, header.log_id,
            header.number, header.first_sequence, header.begun_ns, previous.number, previous.end,
            previous.sha256, header.nonce, header.tag,
        )
    )  # fmt: skip
    return copy + copy


def decode_header(copy: bytes) -> SegmentHeader | None:
    """One copy; None when it is damaged. Raises FormatUnsupported for a later version."""
    if len(copy) != HEADER_BYTES or not is_closed(copy):
        return None
    (magic, version, durability, state, _, log_id, number, first, begun_ns, previous, end, sha256,
     nonce, tag) = HEADER.unpack_from(copy)  # fmt: skip
    if magic != MAGIC:
        return None
    if not 1 <= version <= VERSION:
        raise FormatUnsupported(f"format version {version}; this program reads 1 to {VERSION}")
    link = Previous(previous, PreviousState(state), end, sha256)
    return SegmentHeader(
        log_id, number, Durability(durability), first, begun_ns, link, nonce, tag, version
    )


def encode_definition(number: int, definition: bytes, *, before: int) -> bytes:
    """definition: its JSON. before: offset of the definition before it in the segment, 0 for none."""
    length = HEAD.size + LINK.size + len(definition) + CRC.size
    head = HEAD.pack(length, FrameType.DEFINITION, 0, 0, number)
    return closed(head + LINK.pack(before) + definition)


def encode_commit(commit: Commit, nonce: bytes) -> bytes:
    return closed(
        COMMIT.pack(
            COMMIT_BYTES, FrameType.COMMIT, 0, 0, commit.number, nonce, commit.start,
            commit.definitions, commit.earliest_ns, commit.latest_ns, commit.next_sequence,
            commit.records, commit.checksum,
        )
    )  # fmt: skip


def decode_commit(frame: bytes, *, nonce: bytes, offset: int) -> Commit | None:
    """`frame` was found at `offset`; None unless it is this segment's and undamaged."""
    if len(frame) != COMMIT_BYTES or not is_closed(frame):
        return None
    fields = COMMIT.unpack_from(frame)
    if fields[1] != FrameType.COMMIT or fields[5] != nonce:
        return None
    return Commit._make((fields[4], *fields[6:], offset + COMMIT_BYTES))
