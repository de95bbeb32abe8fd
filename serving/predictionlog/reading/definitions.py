"""Which models a segment has records of, without reading the records.

Every commit names the newest definition at or before it, and every definition the one before it, so a
few reads from the end of a segment find all of them, however large it is.
"""

from serving.predictionlog.format import FIRST_FRAME, Definition, SegmentHeader
from serving.predictionlog.payloads import BodyInvalid
from serving.predictionlog.records import decode_definition
from serving.predictionlog.scan import frame_length, last_mark
from serving.predictionlog.source import Source


def definitions_of(source: Source, header: SegmentHeader) -> dict[int, Definition] | None:
    """All that stand before the last mark, by number; None where they cannot be told."""
    mark = last_mark(source, header)
    if mark is None:
        return None
    found: dict[int, Definition] = {}
    before = mark.definitions
    while before >= FIRST_FRAME:
        length = frame_length(source, before, source.size)
        if not length:
            return None
        try:
            number, before, definition = decode_definition(source.read(before, length), 0)
        except BodyInvalid:
            return None
        found[number] = definition
    return found
