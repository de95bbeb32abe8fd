"""One connection of the HTTP/2 server: frames in, streams out, every phase of it bounded.

    state     waiting for                         leaves by                              deadline
    PREFACE   the client's preface and SETTINGS   both came -> OPEN                      head_timeout_s
    OPEN      frames                              a fault, or the last answer after
                                                  either side's goodbye -> LINGER        idle_timeout_s
    LINGER    the client's closing                end of its bytes -> CLOSED             LINGER_S
    CLOSED    the last bytes to leave             -                                      write_timeout_s

In OPEN a block of fields has to be whole within `head_timeout_s`, a silent client has to answer a ping
(`keepalive_s`), what was written has to be taken within `write_timeout_s`, and what a stream asks for
with `hasten` has to come. While the client does not take what was written, nothing more is read
from it, so that it cannot make us owe it more.

A fault of a stream resets that stream; a fault of the connection is told by GOAWAY, and what the client
still sends is read and thrown away for a moment, so that it sees why. What nobody foresaw is a fault of
the connection, too: it is logged, and the worker lives.

Answers of one turn of the loop leave together: what is written while frames are read, or by a batch that
came back, is one write to the transport.
"""

import asyncio
import contextlib
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, cast

import structlog

from serving.edge.connections import LINGER_S, SWEEP_S
from serving.edge.http2.frames import (
    DEFAULT_WINDOW,
    FRAME_HEAD,
    FRAME_HEAD_BYTES,
    MAX_FRAME_BYTES,
    PING,
    PREFACE,
    ConnectionFault,
    ErrorCode,
    Setting,
    frame,
    goaway_frame,
    settings_frame,
    window_update_frame,
)
from serving.edge.http2.patience import Patience
from serving.edge.http2.reading import FrameReader
from serving.edge.http2.streams import NOBODY, Stream

if TYPE_CHECKING:
    from serving.edge.http2.server import Http2Limits, Http2Server

logger = structlog.get_logger()

_WRITE_BUFFER_BYTES: Final = 256 * 1024
"""What waits for the client beyond this stops our reading."""
_FRAMES_PER_TURN: Final = 256
"""Of one connection; then it is the others' turn. A segment can hold thousands of calls."""
_STREAM_BITS: Final = 2**31 - 1
_ARE_YOU_THERE: Final = b"serving?"
_unpack: Final = FRAME_HEAD.unpack_from


class State(IntEnum):
    """Where a connection stands; see the table in the module docstring."""

    PREFACE = 0
    OPEN = 1
    LINGER = 2
    CLOSED = 3


class Http2Connection(asyncio.Protocol):
    """One client connection: the state table above."""

    _transport: asyncio.Transport

    def __init__(self, server: "Http2Server") -> None:
        self.limits: Http2Limits = server.limits
        self.certificate: bytes | None = None
        self.tick = server.port.tick
        self.window = DEFAULT_WINDOW
        self.first_window = DEFAULT_WINDOW
        self.pending = 0
        """Bytes of answers that wait for windows."""
        self.streams: dict[int, Stream] = {}
        self.patience = Patience(server.port.tick)
        self._server = server
        self._port = server.port
        self._state = State.PREFACE
        self._reader = FrameReader(self, server.application)
        self._rest = b""
        self._out: list[bytes] = []
        self._is_reading = False
        self._flush_is_due = False
        self._choked_since = -1
        self._heard = self._busy = self._since = server.port.tick
        self._is_asked = False
        self._consumed = 0
        self._blocked: dict[int, Stream] = {}
        self._draining = False

    # -- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports fit asyncio.Transport by shape, not by inheritance.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        encrypted = transport.get_extra_info("ssl_object")
        if encrypted is not None:
            self.certificate = encrypted.getpeercert(binary_form=True)
        refusal = self._port.admit(self, transport)
        self._greet()
        if refusal is not None:
            self._server.refused(refusal)
            self.write(goaway_frame(0, ErrorCode.NO_ERROR, "connect again later"))
            self.close()

    def data_received(self, data: bytes) -> None:
        self.tick = self._heard = self._port.tick
        if self._state >= State.LINGER:
            return
        self._is_reading = True
        try:
            self._receive(self._rest + data if self._rest else data)
        except ConnectionFault as fault:
            self._give_up(fault.code, fault.reason)
        except Exception as error:
            logger.exception("connection failed", error=repr(error))
            self._give_up(ErrorCode.INTERNAL_ERROR, "something went wrong here")
        finally:
            self._is_reading = False
            if self._out:
                self._flush()

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._port.forget(self)
        self._reader.close()

    def pause_writing(self) -> None:
        self._choked_since = self._port.tick
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._choked_since = -1
        self._port.loop.call_soon(self._go_on)
        for stream in list(self.streams.values()):
            if not stream.pending:
                self._tell(stream.receiver.writable)

    # -- for streams and the reader ----------------------------------------------------------------

    @property
    def unwritten_bytes(self) -> int:
        """Of all streams, not taken by the kernel though it should have been."""
        return self._transport.get_write_buffer_size() if self._choked_since >= 0 else 0

    def peer(self) -> object:
        return self._transport.get_extra_info("peername") or ""

    def write(self, piece: bytes) -> None:
        """Sends frames with whatever else is sent in this turn."""
        self.write_all((piece,))

    def write_all(self, pieces: tuple[bytes, ...]) -> None:
        self._out += pieces
        if not self._is_reading and not self._flush_is_due:
            self._schedule()

    def consumed(self, count: int) -> None:
        """So much of what was received makes room for more, on the connection as a whole."""
        self._consumed += count
        window = self.limits.window_bytes * self.limits.windows_per_connection
        if self._consumed * 2 >= window:
            self.write(window_update_frame(0, self._consumed))
            self._reader.window += self._consumed
            self._consumed = 0

    def wait_for_window(self, stream: Stream) -> None:
        """The stream has more to send than the window of the connection permits."""
        self._blocked[stream.id] = stream

    def unblock(self) -> None:
        """The window of the connection has grown: those that waited take turns."""
        while self._blocked and self.window > 0:
            stream = self._blocked.pop(next(iter(self._blocked)))
            if not stream.ended:
                stream.resume()

    def resize_windows(self, first: int) -> None:
        """The client gives every stream another window. Raises ConnectionFault."""
        change, self.first_window = first - self.first_window, first
        for stream in list(self.streams.values()):
            stream.shift_window(change)
            if stream.pending:
                stream.resume()

    def served(self, stream: Stream) -> None:
        """The stream has its answer."""
        self.patience.served()
        self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Both sides of the stream are over, or ours is and the client's does not count any more."""
        self.streams.pop(stream.id, None)
        self._blocked.pop(stream.id, None)
        self._busy = self._port.tick
        self.pending -= stream.pending
        stream.pending = 0
        stream.receiver = NOBODY  # Each knew the other: streams leave no cycles behind.
        if not stream.finished:
            self._reader.ignore(stream.id)
        stream.give_back()
        if self._draining and not self.streams and self._state == State.OPEN:
            self._linger()

    def opened(self) -> None:
        """The client's preface is complete."""
        self._state = State.OPEN

    def says_goodbye(self) -> None:
        """The client opens no more streams."""
        self._draining = True
        if not self.streams:
            self._linger()

    # -- receiving ---------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        at = 0
        if self._reader.is_new:
            if not data.startswith(PREFACE[: len(data)]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2")
            if len(data) < len(PREFACE):
                self._rest = data
                return
            self._reader.is_new = False
            at = len(PREFACE)
        end, read, left = len(data), self._reader.read, _FRAMES_PER_TURN
        while end - at >= FRAME_HEAD_BYTES:
            upper, lower, kind, flags, stream = _unpack(data, at)
            size = upper << 8 | lower
            if size > MAX_FRAME_BYTES:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame that is too large")
            at += FRAME_HEAD_BYTES
            if end - at < size:
                at -= FRAME_HEAD_BYTES
                break
            read(kind, flags, stream & _STREAM_BITS, memoryview(data)[at : at + size])
            at += size
            left -= 1
            if self._state >= State.LINGER:
                return
            if not left:
                self._transport.pause_reading()
                self._port.loop.call_soon(self._go_on)
                break
        self._rest = data[at:]

    def _go_on(self) -> None:
        """Reads on, unless the client does not."""
        if self._state < State.CLOSED and self._choked_since < 0:
            self._transport.resume_reading()
            self.data_received(b"")

    # -- writing -----------------------------------------------------------------------------------

    def _greet(self) -> None:
        limits = self.limits
        values = {
            Setting.MAX_CONCURRENT_STREAMS: limits.max_streams,
            Setting.INITIAL_WINDOW_SIZE: limits.window_bytes,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
        }
        window = limits.window_bytes * limits.windows_per_connection
        self._reader.window = window
        self.write(settings_frame(values))
        if window > DEFAULT_WINDOW:
            self.write(window_update_frame(0, window - DEFAULT_WINDOW))

    def _schedule(self) -> None:
        self._flush_is_due = True
        self._port.loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self._flush_is_due = False
        if self._out:
            self._flush()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self._transport.is_closing():
            self._transport.write(b"".join(out))

    # -- ending ------------------------------------------------------------------------------------

    def sweep(self, tick: int) -> None:
        """Applies the deadlines. `tick` counts `SWEEP_S`."""
        self.tick = tick
        self.patience.sweep(tick)
        limits, began = self.limits, self._reader.block_since
        if self._choked_since >= 0 and self._waited_s(self._choked_since) > limits.write_timeout_s:
            self.abort()
        elif (self._state == State.PREFACE or (self._state == State.OPEN and began >= 0)) and (
            self._waited_s(max(began, self._since)) > limits.head_timeout_s
        ):
            self._give_up(ErrorCode.PROTOCOL_ERROR, "too slow")
        elif self._state == State.OPEN:
            for stream in list(self.streams.values()):
                stream.sweep(self._waited_s(stream.since))
            self._sweep_silence()
        elif self._state == State.LINGER and self._waited_s(self._since) > LINGER_S:
            self.close()
        elif self._state == State.CLOSED and self._waited_s(self._since) > limits.write_timeout_s:
            self.abort()

    def drain(self) -> None:
        """No new streams; the connection ends with the last of those that are open."""
        if self._state == State.PREFACE:
            self.close()
        if self._state != State.OPEN or self._draining:
            return
        self._draining = True
        self.write(goaway_frame(self._reader.latest, ErrorCode.NO_ERROR))
        self._reader.refuses = True
        if not self.streams:
            self._linger()

    def close(self) -> None:
        """Closes once what was written has been sent."""
        self._enter(State.CLOSED)
        if self._out:
            self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Closes now, whatever was written."""
        self._transport.abort()

    def _sweep_silence(self) -> None:
        limits, silent_s = self.limits, self._waited_s(self._heard)
        if not self.streams and self._waited_s(self._busy) > limits.idle_timeout_s:
            self.drain()
        elif silent_s > limits.keepalive_s + limits.keepalive_timeout_s:
            self.abort()
        elif silent_s <= limits.keepalive_s:
            self._is_asked = False
        elif not self._is_asked:
            self._is_asked = True
            self.write(frame(PING, 0, 0, _ARE_YOU_THERE))

    def _give_up(self, code: ErrorCode, reason: str) -> None:
        self.write(goaway_frame(self._reader.latest, code, reason))
        self._leave_streams()
        self._linger()

    def _linger(self) -> None:
        """Nothing more is sent. Closing at once could make the kernel reset the connection, and the
        client lose what it has not read."""
        self._enter(State.LINGER)
        self._rest = b""
        if self._out:
            self._flush()
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # The client may have gone meanwhile.
                self._transport.write_eof()

    def _leave(self) -> None:
        self._enter(State.CLOSED)
        self._leave_streams()

    def _leave_streams(self) -> None:
        streams, self.streams = self.streams, {}
        self._blocked.clear()
        for stream in streams.values():
            self._tell(stream.leave)
            stream.receiver = NOBODY

    def _tell(self, told: Callable[[], None]) -> None:
        """Where what a receiver makes of it must not keep others from being told."""
        try:
            told()
        except Exception as error:
            logger.exception("connection failed", error=repr(error))
            self.abort()

    def _enter(self, state: State) -> None:
        self._state = state
        self._since = self._port.tick

    def _waited_s(self, since: int) -> float:
        return (self._port.tick - since) * SWEEP_S
