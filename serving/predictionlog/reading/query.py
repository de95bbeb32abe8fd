"""`serving log query`: which records match, in which order.

Each worker's records come in the order they were recorded; those of several workers are merged by
arrival. A limit keeps the newest matches and reads the log backwards to find them, so that a few
recent records cost the same in a log of any size. Segments without the asked model are skipped by
their definitions, sealed ones outside the asked time by their seals. With a model and a limit only
commits with records of the model are looked at (`seeking`), so damage elsewhere is not noticed.
"""

import contextlib
import heapq
import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Final

from serving.core.predictions import Fate, PredictionRecord
from serving.errors import ParameterInvalid
from serving.predictionlog.format import Definition, SegmentHeader
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.definitions import definitions_of
from serving.predictionlog.reading.reader import (
    Segment,
    SegmentReader,
    list_segments,
    log_directories,
)
from serving.predictionlog.records import Fixed, principal_of, request_id_of, subject_of
from serving.predictionlog.source import Source

_TRIES: Final = 5
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for; None and empty mean anything.

    since_ns, until_ns: arrival, from and including, up to and excluding. limit: the newest so many.
    without_subject: only what names no data subject. salvage: also what stands behind damage in the
    same commit.
    """

    since_ns: int | None = None
    until_ns: int | None = None
    model: str = ""
    version: str = ""
    principal: str = ""
    fate: Fate | None = None
    prediction_id: str = ""
    request_id: str = ""
    without_subject: bool = False
    limit: int | None = None
    newest_first: bool = False
    salvage: bool = False


def segment_key(log_id: bytes, number: int) -> str:
    """Names a segment wherever it lies: a log id is random, and new with each start of a writer."""
    return f"{log_id.hex()}-{number:08d}"


class Search:
    """One run of a query over a log.

    damaged: names of segments in which something could not be read; missing: of those that were
    removed before they were read. Both are complete once `records` ended.
    """

    def __init__(
        self,
        root: Path,
        query: Query,
        *,
        held: Collection[str] = (),
        keys: PayloadKeys | None = None,
    ) -> None:
        """held: keys of segments to pass over, because their records are found elsewhere.

        keys: open sealed payloads; None leaves them sealed.
        """
        self._keys = keys
        self._root = root
        self._query = query
        self._held = held
        self._principal = query.principal.encode()
        self._request_id = query.request_id.encode()
        self._log_id, _, sequence = query.prediction_id.partition("-")
        self._sequence = sequence_of(sequence) if query.prediction_id else None
        self.damaged: set[str] = set()
        self.missing: set[str] = set()

    def records(self) -> Iterator[PredictionRecord]:
        """Matching records. Raises OSError when a file cannot be read."""
        query = self._query
        if query.limit is None:
            return self._merged(newest_first=query.newest_first)
        newest = list(itertools.islice(self._merged(newest_first=True), query.limit))
        return iter(newest if query.newest_first else newest[::-1])

    def _merged(self, *, newest_first: bool) -> Iterator[PredictionRecord]:
        streams = self.streams(newest_first=newest_first)
        return heapq.merge(*streams, key=attrgetter("time_ns"), reverse=newest_first)

    def streams(self, *, newest_first: bool) -> list[Iterator[PredictionRecord]]:
        """One for each worker, in the order of its log."""
        return [
            self._of_worker(directory, newest_first=newest_first)
            for directory in log_directories(self._root)
        ]

    def _of_worker(self, directory: Path, *, newest_first: bool) -> Iterator[PredictionRecord]:
        segments = _listed(directory)
        for segment in reversed(segments) if newest_first else segments:
            name = segment.path.relative_to(self._root).as_posix()
            reader = SegmentReader(segment, keys=self._keys)
            try:
                numbers = self._concerns(segment, reader)
                if numbers is not None:
                    yield from reader.records(
                        wanted=self._wants,
                        newest_first=newest_first,
                        salvage=self._query.salvage,
                        numbers=numbers,
                    )
            except FileNotFoundError:  # Retention was faster; the list was made before.
                self.missing.add(name)
            if reader.damaged:
                self.damaged.add(name)

    def _concerns(self, segment: Segment, reader: SegmentReader) -> list[int] | None:
        """None to pass over the segment; else the definitions to look for, empty for all."""
        header = segment.header
        if header is None or segment_key(header.log_id, segment.number) in self._held:
            return None
        if self._log_id and header.log_id.hex() != self._log_id:
            return None
        return self._numbers(segment, header) if self._in_time(reader) else None

    def _in_time(self, reader: SegmentReader) -> bool:
        query = self._query
        anytime = query.since_ns is None and query.until_ns is None
        times = None if anytime else reader.times()
        if times is None:
            return True
        earliest_ns, latest_ns = times
        after = query.since_ns is None or latest_ns >= query.since_ns
        return after and (query.until_ns is None or earliest_ns < query.until_ns)

    def _numbers(self, segment: Segment, header: SegmentHeader) -> list[int] | None:
        """As `_concerns`, by the asked model alone."""
        query = self._query
        if not (query.model or query.version):
            return []
        with Source(segment.path) as source:
            known = definitions_of(source, header)
        if known is None:
            return []
        numbers = [
            number
            for number, each in known.items()
            if query.model in ("", each.model) and query.version in ("", each.version)
        ]
        if not numbers:
            return None
        return [] if query.limit is None else numbers

    def _wants(self, frames: bytes, offset: int, fixed: Fixed, definition: Definition) -> bool:
        query = self._query
        return (
            (query.since_ns is None or fixed.time_ns >= query.since_ns)
            and (query.until_ns is None or fixed.time_ns < query.until_ns)
            and (self._sequence is None or fixed.sequence == self._sequence)
            and (query.fate is None or fixed.fate == query.fate)
            and query.model in ("", definition.model)
            and query.version in ("", definition.version)
            and (not self._principal or principal_of(frames, offset, fixed) == self._principal)
            and (not self._request_id or request_id_of(frames, offset, fixed) == self._request_id)
            and not (query.without_subject and subject_of(frames, offset, fixed))
        )


def _listed(directory: Path) -> list[Segment]:
    """The segments, listed again where retention took one while it was looked at."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            return list_segments(directory)
    return list_segments(directory)


def sequence_of(text: str) -> int:
    if not re.fullmatch("[0-9a-f]{1,16}", text):
        raise ParameterInvalid(
            "a prediction id looks like 0123456789abcdef-1f: 16 hexadecimal digits, a hyphen, more"
        )
    return int(text, 16)


def instant_ns(text: str, *, now_ns: int) -> int:
    """`15m`, `2h`, `1d` before now, or an ISO 8601 date or time (UTC unless it says otherwise).

    Nanoseconds since 1970, UTC. Raises ParameterInvalid.
    """
    ago = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", text.strip())
    if ago:
        return now_ns - round(float(ago[1]) * _UNITS_S[ago[2]] * 1e9)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ParameterInvalid(
            f"{text[:64]!r} is no time; write 15m, 2h or 1d (ago), or 2026-01-31T12:00:00Z"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = elapsed.days * 86_400 + elapsed.seconds
    return seconds * 1_000_000_000 + elapsed.microseconds * 1000
