"""One gateway's connection as a replica sees it: non-blocking, bounded, never trusted."""

import contextlib
import selectors
import socket
import ssl
from collections.abc import Callable
from typing import Final

import structlog

from serving.core.batches import BatchAnswer, RowBatch
from serving.core.models import ModelVersion
from serving.errors import FrameInvalid
from serving.gateway_settings import ChannelSettings
from serving.inference.frames import (
    Kind,
    MessageReader,
    Refusal,
    decode_batch,
    encode_answer,
    encode_hello,
    encode_refusal,
)

logger = structlog.get_logger()

_RECEIVE_BYTES: Final = 1024 * 1024
_JOINED_BYTES: Final = 64 * 1024
_LATER: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Received = Callable[["FrameConnection", int, RowBatch], None]


class FrameConnection:
    """Reads frames, writes answers. A peer that does not read its answers keeps its own memory
    bounded by its credits: an answer belongs to a frame, and frames in flight are few."""

    def __init__(
        self,
        peer: socket.socket,
        *,
        version: ModelVersion,
        channel: ChannelSettings,
        selector: selectors.BaseSelector,
        received: Received,
        closed: Callable[["FrameConnection"], None],
    ) -> None:
        self._peer = peer
        self._version = version
        self._digest_prefix = version.digest[:16]
        self._selector = selector
        self._received = received
        self._closed = closed
        self._reader = MessageReader(max_bytes=channel.max_message_bytes)
        self._unsent: memoryview | None = None
        self._queue: list[bytes] = []
        self._encrypted = peer if isinstance(peer, ssl.SSLSocket) else None
        peer.setblocking(False)
        selector.register(peer, selectors.EVENT_READ, self._ready)

    @property
    def unsent(self) -> bool:
        """Whether the peer has not taken all of its answers yet."""
        return self._unsent is not None

    @property
    def is_known(self) -> bool:
        """Whether the peer may send frames: with TLS, once its certificate was accepted."""
        return self._encrypted is None or self._encrypted.version() is not None

    def greet(self) -> None:
        """Tells the peer which artifact runs here: the first message of every connection."""
        self._send(encode_hello(self._version.digest))

    def answer(self, frame_id: int, answer: BatchAnswer) -> None:
        """Leaves with `flush`, together with the other answers of its batch."""
        if self._peer.fileno() >= 0:
            self._queue.append(encode_answer(frame_id, answer))

    def flush(self) -> None:
        """Sends what waits; what the peer does not take now leaves when it can."""
        if self._queue and self._unsent is None:
            self._flush()

    def refuse_draining(self, frame_id: int) -> None:
        self._send(encode_refusal(frame_id, Refusal.DRAINING))

    def close(self) -> None:
        """Closes at once; answers that were not sent yet are lost."""
        if self._peer.fileno() < 0:
            return
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._peer)
        self._peer.close()
        self._unsent = None
        self._queue.clear()
        self._closed(self)

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if events & selectors.EVENT_READ and self._peer.fileno() >= 0:
            self._receive()
            if self._encrypted is not None and self._unsent is not None:
                self._flush()  # What waited for the end of the handshake.

    def _receive(self) -> None:
        try:
            self._read()
            # What TLS has read ahead makes no socket readable.
            while self._encrypted is not None and self._encrypted.pending():
                self._read()
        except _LATER:
            return
        except OSError:
            self.close()
        except FrameInvalid as error:
            logger.warning("closing a connection that sent no frame", error=error.message)
            self.close()

    def _read(self) -> None:
        data = self._peer.recv(_RECEIVE_BYTES)
        if not data:
            self.close()
            return
        for kind, body in self._reader.feed(data):
            self._take(kind, body)

    def _take(self, kind: Kind, body: memoryview) -> None:
        if kind != Kind.INFER:
            raise FrameInvalid(f"a gateway sends no {kind.name}")
        frame_id, batch = decode_batch(body)
        if batch.digest != self._digest_prefix:
            self._send(encode_refusal(frame_id, Refusal.WRONG_MODEL))
        elif not self._fits(batch):
            self._send(encode_refusal(frame_id, Refusal.NOT_UNDERSTOOD))
        else:
            self._received(self, frame_id, batch)

    def _fits(self, batch: RowBatch) -> bool:
        declared = self._version.inputs
        return (
            batch.rows > 0
            and len(batch.tensors) == len(declared)
            and all(
                tensor.datatype == wanted.datatype
                and wanted.admits((batch.rows, *tensor.row_shape))
                for tensor, wanted in zip(batch.tensors, declared, strict=True)
            )
        )

    def _send(self, message: bytes) -> None:
        if self._peer.fileno() < 0:
            return
        self._queue.append(message)
        self.flush()

    def _flush(self) -> None:
        try:
            while self._unsent is not None or self._queue:
                if self._unsent is None:
                    self._unsent = self._oldest()
                sent = self._peer.send(self._unsent)
                self._unsent = self._unsent[sent:] or None
        except ssl.SSLWantReadError:
            self._watch(selectors.EVENT_READ)
        except _LATER:
            self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)
        except OSError:
            self.close()
        else:
            self._watch(selectors.EVENT_READ)

    def _oldest(self) -> memoryview:
        """Takes the oldest messages, small ones as one: a system call and a wake-up for all."""
        count, size_bytes = 1, len(self._queue[0])
        for message in self._queue[1:]:
            size_bytes += len(message)
            if size_bytes > _JOINED_BYTES:
                break
            count += 1
        messages, self._queue = self._queue[:count], self._queue[count:]
        return memoryview(messages[0] if count == 1 else b"".join(messages))

    def _watch(self, events: int) -> None:
        if self._selector.get_key(self._peer).events != events:
            self._selector.modify(self._peer, events, self._ready)
