"""The gateway's side of the frame channel: one connection to one replica.

A frame's answer, its refusal or the loss of
the connection reaches `FrameSink` exactly once per frame; what to do then (retry, fail) is decided
by the gateway. A replica that answers nothing for `stall_timeout_s` is treated as lost: a stopped
process keeps its socket open. Shutting down is the other end's word: DRAINING hands the frame back.
A channel that is no longer wanted is retired: it closes when the frames it carries are answered.

A replica is believed no more than the format makes it: an answer that fits no frame in flight, or
lacks an output that the version declares, closes the connection.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import structlog

from serving.core.batches import BatchAnswer, RowBatch
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.core.traffic import ReplicaEndpoint
from serving.errors import FrameInvalid
from serving.gateway_settings import ChannelSettings
from serving.inference.frames import (
    Kind,
    MessageReader,
    Refusal,
    decode_answer,
    decode_hello,
    decode_refusal,
    encode_batch,
)
from serving.inference.places import TLS, UNIX, ChannelCertificates

logger = structlog.get_logger()


class FrameSink(Protocol):
    """Who sent a frame and gets its fate: exactly one of the three, once."""

    batch: RowBatch

    def answered(self, answer: BatchAnswer) -> None: ...
    def returned(self) -> None:
        """The replica did not take the frame, because it is shutting down."""

    def lost(self) -> None:
        """The replica did not answer and never will; the rows may be sent elsewhere."""


class Channel(asyncio.Protocol):
    """One connection to one replica of `version`. Made by `connect`."""

    def __init__(
        self,
        endpoint: ReplicaEndpoint,
        version: ModelVersion,
        *,
        settings: ChannelSettings,
        clock: Clock,
        changed: Callable[["Channel"], None],
        certificates: ChannelCertificates | None = None,
    ) -> None:
        """certificates: for replicas on other nodes."""
        self.endpoint = endpoint
        self.credits = settings.credits
        self.outstanding_rows = 0
        self.ready = False
        """Greeted with the digest that was promised; may carry frames."""
        self.closed = False
        self._retired = False
        self._version = version
        self._settings = settings
        self._clock = clock
        self._changed = changed
        self._certificates = certificates
        self._reader = MessageReader(max_bytes=settings.max_message_bytes)
        self._in_flight: dict[int, FrameSink] = {}
        self._next_id = 1
        self._last_heard_ns = 0
        self._transport: asyncio.Transport | None = None

    async def connect(self) -> None:
        """Opens the connection. Raises OSError or TimeoutError; `changed` tells when it is ready."""
        address, loop = self.endpoint.address, asyncio.get_running_loop()
        async with asyncio.timeout(self._settings.connect_timeout_s):
            if address.startswith(UNIX):
                await loop.create_unix_connection(lambda: self, address.removeprefix(UNIX))
            elif address.startswith(TLS) and self._certificates is not None:
                host, _, port = address.removeprefix(TLS).rpartition(":")
                await loop.create_connection(
                    lambda: self, host.strip("[]"), int(port), ssl=self._certificates.client()
                )
            else:
                raise OSError(f"{address} is not an address that channel.listen permits")

    @property
    def has_credit(self) -> bool:
        return self.ready and len(self._in_flight) < self.credits

    def send(self, sink: FrameSink) -> None:
        """Sends the sink's batch; how much is in flight is for the caller to judge."""
        if self._transport is None:
            sink.lost()
            return
        frame_id = self._next_id
        message = encode_batch(frame_id, sink.batch)
        self._next_id = frame_id + 1
        if not self._in_flight:
            self._last_heard_ns = self._clock.monotonic_ns()
        self._in_flight[frame_id] = sink
        self.outstanding_rows += sink.batch.rows
        self._transport.write(message)

    def retire(self) -> None:
        """Takes no more frames; closes when those in flight have their fate, at once if none."""
        self._retired, self.ready = True, False
        self._close_if_done()

    def check(self, now_ns: int) -> None:
        """Drops a replica that has been silent for too long with frames in flight."""
        silent_ns = now_ns - self._last_heard_ns
        if self._in_flight and silent_ns > self._settings.stall_timeout_s * 1e9:
            logger.warning("replica is silent", replica=self.endpoint.replica)
            self.abort()

    def abort(self) -> None:
        """Closes at once; frames in flight are lost."""
        if self._transport is not None:
            self._transport.abort()
        self._lose()

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports fit asyncio.Transport by shape, not by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._last_heard_ns = self._clock.monotonic_ns()
        try:
            for kind, body in self._reader.feed(data):
                self._take(kind, body)
        except FrameInvalid as error:
            logger.warning("closing a replica that sent no frame", error=error.message)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()

    # -- messages --------------------------------------------------------------------------------

    def _take(self, kind: Kind, body: memoryview) -> None:
        if kind == Kind.ANSWER:
            frame_id, answer = decode_answer(body)
            self._answered(frame_id, answer)
        elif kind == Kind.HELLO:
            self._greeted(decode_hello(body))
        elif kind == Kind.REFUSAL:
            self._refused(*decode_refusal(body))
        else:
            raise FrameInvalid(f"a replica sends no {kind.name}")

    def _greeted(self, digest: str) -> None:
        if digest != self._version.digest:
            raise FrameInvalid("the replica runs another artifact than was approved")
        self.ready = not self._retired
        self._changed(self)

    def _answered(self, frame_id: int, answer: BatchAnswer) -> None:
        sink = self._in_flight.get(frame_id)
        if sink is None or answer.rows != sink.batch.rows or not self._fits(answer):
            raise FrameInvalid("an answer fits no frame in flight")
        del self._in_flight[frame_id]
        self.outstanding_rows -= answer.rows
        sink.answered(answer)
        self._close_if_done()
        self._changed(self)

    def _fits(self, answer: BatchAnswer) -> bool:
        """Whether the outputs are those declared; there are none where every row failed."""
        declared = self._version.outputs
        if len(answer.outputs) != len(declared):
            return not answer.outputs and len(answer.failures) == answer.rows
        return all(
            output.datatype == wanted.datatype and wanted.admits((answer.rows, *output.row_shape))
            for output, wanted in zip(answer.outputs, declared, strict=True)
        )

    def _refused(self, frame_id: int, reason: Refusal) -> None:
        sink = self._in_flight.pop(frame_id, None)
        if sink is None:
            raise FrameInvalid("a refusal fits no frame in flight")
        self.outstanding_rows -= sink.batch.rows
        self.ready = False
        if reason != Refusal.DRAINING:
            sink.lost()
            raise FrameInvalid(f"the replica refused a frame: {reason.name}")
        sink.returned()
        self._close_if_done()
        self._changed(self)

    def _close_if_done(self) -> None:
        if self._retired and not self._in_flight:
            self.abort()

    def _lose(self) -> None:
        if self.closed:
            return
        self.closed, self.ready = True, False
        lost, self._in_flight = list(self._in_flight.values()), {}
        self.outstanding_rows = 0
        for sink in lost:
            sink.lost()
        self._changed(self)
