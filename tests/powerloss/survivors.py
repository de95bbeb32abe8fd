"""What is left after a power cut, found by the real recovery and the real reader."""

from collections.abc import Iterator

from serving.predictionlog.format import (
    HEAD,
    Durability,
    FrameType,
    SegmentHeader,
    encode_header,
    segment_name,
)
from serving.predictionlog.reading.reader import Segment, list_segments
from serving.predictionlog.scan import Run, scan
from serving.predictionlog.source import Source
from serving.predictionlog.writing.recovery import Recovered, recover
from tests.logs import NOW_NS
from tests.powerloss.disks import Content, Platter
from tests.powerloss.workloads import DIRECTORY, QuickSigner

SIGNER = QuickSigner()
Records = tuple[tuple[int, bytes], ...]


class Survivors:
    """Recovers states, each distinct one once, and reads back what is left."""

    def __init__(self, frames: dict[int, bytes]) -> None:
        self.states = 0
        self._frames = frames
        self._known: dict[int, frozenset[int]] = {}
        self._read: dict[tuple[str, Content, int], Records] = {}

    @property
    def distinct(self) -> int:
        return len(self._known)

    def of(self, state: Platter) -> frozenset[int]:
        """Sequences that are found after recovery, each once, in order, and byte for byte."""
        self.states += 1
        key = hash(state.key())
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._recovered(state)
        return found

    def _recovered(self, state: Platter) -> frozenset[int]:
        recovered = recover(DIRECTORY, files=state, now_ns=NOW_NS, signer=SIGNER)
        sequences: list[int] = []
        for segment in self._segments(state, recovered):
            for sequence, frame in self._records(state, segment):
                assert frame == self._frames[sequence]
                sequences.append(sequence)
        assert sequences == sorted(set(sequences))
        assert recovered.next_sequence > max(sequences, default=0)
        return frozenset(sequences)

    @staticmethod
    def _segments(state: Platter, recovered: Recovered) -> list[Segment]:
        """As a reader sees them once the next segment was begun."""
        descriptor = state.create(DIRECTORY / segment_name(recovered.number + 1))
        header = SegmentHeader(
            b"log-id-8", recovered.number + 1, Durability.FSYNC, recovered.next_sequence, NOW_NS,
            recovered.previous, b"nonce-08", 1,
        )  # fmt: skip
        state.write(descriptor, [encode_header(header)], 0, durable=True)
        return list_segments(DIRECTORY, state)

    def _records(self, state: Platter, segment: Segment) -> Records:
        """Every record of a segment that a reader hands out; read once for equal segments."""
        name = segment.path.name
        key = (name, state.files[state.names_of[name]], segment.complete_to)
        if key not in self._read:
            self._read[key] = records_in(state, segment)
        return self._read[key]


def records_in(state: Platter, segment: Segment) -> Records:
    """(sequence, frame), verified."""
    if segment.header is None:
        return ()
    with Source(segment.path, state) as source:
        events = list(scan(source, segment.header, complete_to=segment.complete_to))
    runs = [event for event in events if isinstance(event, Run)]
    return tuple(record for run in runs for record in predictions(run.frames))


def predictions(frames: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(frames):
        length, kind, _, _, sequence = HEAD.unpack_from(frames, at)
        if kind == FrameType.PREDICTION:
            yield sequence, frames[at : at + length]
        at += length
