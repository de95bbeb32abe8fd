"""From verified runs of frames to what they say: predictions, outcomes, losses, in file order.

A prediction refers to a definition that stands earlier in its segment. Where reading began after it,
it is found over the chain of definitions that every commit holds the end of. A `Selection` leaves
predictions out before anything of them is decoded: by their definition, then by their fixed part.
"""

import logging
from collections.abc import Iterator
from typing import Protocol

import msgspec

from serving.core.outcomes import Outcome
from serving.core.predictions import PredictionRecord
from serving.predictionlog.format import HEAD, Definition, FrameType, SegmentHeader
from serving.predictionlog.losses import Loss, decode_loss
from serving.predictionlog.outcomes import decode_outcome
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.records import (
    KEY,
    KEY_OFFSET,
    BodyInvalid,
    Fixed,
    decode_definition,
    decode_fixed,
    decode_prediction,
)
from serving.predictionlog.scan import Run, frame_length
from serving.predictionlog.source import Source

Event = PredictionRecord | Outcome | Loss

_log = logging.getLogger(__name__)


class Selection(Protocol):
    """Which predictions a reader wants; outcomes and losses pass by it.

    revision: another one whenever `wants` would answer otherwise than before.
    """

    @property
    def revision(self) -> int: ...
    def wants(self, definition: Definition) -> bool: ...
    def takes(self, log_id: str, fixed: Fixed, definition: Definition) -> bool:
        """Asked for each record whose definition is wanted, in the order of the log."""
        ...


class SegmentDecoder:
    """Decodes runs of one segment. undecodable: frames that said what no writer of ours writes."""

    def __init__(
        self, header: SegmentHeader, keys: PayloadKeys | None, selection: Selection | None = None
    ) -> None:
        """keys: None leaves sealed payloads sealed. selection: None takes everything."""
        self._keys = keys
        self._selection = selection
        self._revision = -1
        self._unwanted: set[int] = set()
        self.nonce = header.nonce
        self.undecodable = 0
        self._log_id = header.log_id.hex()
        self._definitions: dict[int, Definition] = {}

    def events(self, source: Source, run: Run) -> Iterator[tuple[int, Event]]:
        """(sequence, what it says) of each record in the run."""
        frames = run.frames
        newest = run.commit.definitions if run.commit is not None else 0
        self._look_again()
        at = 0
        while at < len(frames):
            length, kind, _, _, sequence = HEAD.unpack_from(frames, at)
            try:
                event = self._event(source, frames, at, kind=kind, newest=newest)
            except (BodyInvalid, ValueError, msgspec.MsgspecError) as error:
                self.undecodable += 1
                _log.warning("prediction log: a record cannot be decoded: %s", error)
            else:
                if event is not None:
                    yield sequence, event
            at += length

    def _event(
        self, source: Source, frames: bytes, at: int, *, kind: int, newest: int
    ) -> Event | None:
        if kind == FrameType.PREDICTION:
            return self._prediction(source, frames, at, newest=newest)
        if kind == FrameType.DEFINITION:
            number, _, definition = decode_definition(frames, at)
            self._definitions[number] = definition
        elif kind == FrameType.OUTCOME:
            return decode_outcome(frames, at)
        elif kind == FrameType.LOSS:
            return decode_loss(frames, at)
        return None

    def _prediction(
        self, source: Source, frames: bytes, at: int, *, newest: int
    ) -> PredictionRecord | None:
        _, number = KEY.unpack_from(frames, at + KEY_OFFSET)
        if number in self._unwanted:
            return None
        definition = self._definition(source, number, newest)
        selection = self._selection
        if selection is not None:
            if not selection.wants(definition):
                self._unwanted.add(number)
                return None
            if not selection.takes(self._log_id, decode_fixed(frames, at), definition):
                return None
        return decode_prediction(
            frames, at, definition=definition, log_id=self._log_id, keys=self._keys
        )

    def _look_again(self) -> None:
        """What was unwanted may be wanted now."""
        if self._selection is not None and self._selection.revision != self._revision:
            self._revision = self._selection.revision
            self._unwanted.clear()

    def _definition(self, source: Source, wanted: int, newest: int) -> Definition:
        definition = self._definitions.get(wanted)
        while definition is None and newest:
            length = frame_length(source, newest, source.size)
            if not length:
                break
            number, newest, found = decode_definition(source.read(newest, length), 0)
            self._definitions[number] = found
            definition = self._definitions.get(wanted)
        if definition is None:
            raise BodyInvalid(f"definition {wanted:x} is missing")
        return definition
