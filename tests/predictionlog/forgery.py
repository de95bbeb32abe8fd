"""What somebody can do who has the files and knows the format, but not the key.

A segment is taken apart into its commits, changed, and put together again with every checksum, offset
and count right. Only tree and seal cannot be made again, and stay as they were.
"""

from dataclasses import dataclass
from pathlib import Path

from google_crc32c import value as checksum

from serving.predictionlog.format import (
    COMMIT_BYTES,
    CRC,
    FIRST_FRAME,
    HEAD,
    LINK,
    Commit,
    FrameType,
    SegmentHeader,
    closed,
    decode_commit,
    encode_commit,
)
from serving.predictionlog.reading.reader import list_segments
from serving.predictionlog.removals import Removal, write_removal
from serving.predictionlog.source import Source
from serving.trust.signatures import SigningKey
from tests.logs import NOW_NS, SIGNER


@dataclass(slots=True)
class Forgery:
    """A sealed segment, open to any change. commits: each a list of frames without commit frame."""

    path: Path
    header: SegmentHeader
    head: bytes
    commits: list[list[bytes]]
    footers: list[Commit]
    ending: bytes

    @classmethod
    def of(cls, path: Path) -> "Forgery":
        with Source(path) as source:
            header, _ = source.header()
        assert header is not None
        data = path.read_bytes()
        found = cls(path, header, data[:FIRST_FRAME], [[]], [], b"")
        at = FIRST_FRAME
        while True:
            length, kind, _, _, _ = HEAD.unpack_from(data, at)
            if kind in (FrameType.TREE, FrameType.SEAL):
                break
            frame = data[at : at + length]
            if kind == FrameType.COMMIT:
                footer = decode_commit(frame, nonce=header.nonce, offset=at)
                assert footer is not None
                found.footers.append(footer)
                found.commits.append([])
            else:
                found.commits[-1].append(frame)
            at += length
        found.commits.pop()
        found.ending = data[at:]
        return found

    def write(self) -> None:
        """The changed segment, with everything right that can be made right without the key."""
        pieces, at, newest = [self.head], FIRST_FRAME, 0
        for number, (frames, footer) in enumerate(
            zip(self.commits, self.footers, strict=True), start=1
        ):
            start, body = at, []
            for frame in frames:
                if frame[4] == FrameType.DEFINITION:
                    frame = closed(frame[:16] + LINK.pack(newest) + frame[24:-4])  # noqa: PLW2901
                    newest = at
                body.append(frame)
                at += len(frame)
            whole = b"".join(body)
            records = sum(frame[4] == FrameType.PREDICTION for frame in body)
            made = footer._replace(
                number=number, start=start, definitions=newest, records=records,
                checksum=checksum(whole),
            )  # fmt: skip
            pieces += [whole, encode_commit(made, self.header.nonce)]
            at += COMMIT_BYTES
        self.path.write_bytes(b"".join([*pieces, self.ending]))

    def records(self) -> list[tuple[int, int]]:
        """(commit, position in it) of each record."""
        return [
            (commit, index)
            for commit, frames in enumerate(self.commits)
            for index, frame in enumerate(frames)
            if frame[4] == FrameType.PREDICTION
        ]


def edited(frame: bytes, at: int, bits: int) -> bytes:
    """The frame with other bits at a place in its body, and the checksum that fits them."""
    changed = bytearray(frame[: -CRC.size])
    changed[32 + at % (len(changed) - 32)] ^= bits
    return closed(bytes(changed))


def with_sequence(frame: bytes, sequence: int) -> bytes:
    """A copy of the record under another sequence, checksum right."""
    return closed(frame[:8] + sequence.to_bytes(8, "little") + frame[16:-4])


def state_removed(log: Path, *, through: int, signer: SigningKey = SIGNER) -> None:
    """Says, as retention does, that all segments up to this one were removed."""
    claim = next(each.claim for each in list_segments(log) if each.number == through)
    assert claim is not None
    removal = Removal(log.name, through, claim.sha256.hex(), through, "retention", NOW_NS)
    write_removal(log, removal, signer)
