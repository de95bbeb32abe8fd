"""What each frame of a client means, in the order in which they come (RFC 9113, sections 5, 6 and 8).

A frame is taken, answered, ignored or a fault; `ConnectionFault` ends the connection, `StreamFault` the
stream that it was on. Blocks of fields are always decoded, also those of streams that nobody serves:
the table of the connection is made of all of them.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serving.edge.connections import SWEEP_S
from serving.edge.http2.fields import HeadReader, OversizedHead
from serving.edge.http2.frames import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    PING,
    PRIORITIZED,
    SETTINGS,
    ConnectionFault,
    ErrorCode,
    Setting,
    StreamFault,
    frame,
    header_frames,
    read_number,
    read_settings,
    reset_frame,
)
from serving.edge.http2.streams import Application, Stream

if TYPE_CHECKING:
    from serving.edge.http2.connection import Http2Connection

_MAX_IGNORED: Final = 1024
"""Streams that we ended before the client did, whose further frames mean nothing."""
_MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
"""Of answers that wait for windows; a client that does not take them asks for nothing more."""
_BLOCK_TIMES: Final = 4
"""A block in HPACK is shorter than its list of fields, and one of so many times the limit is not read."""
_FIELDS_PER_EXTRA: Final = 32
"""A field costs about a microsecond, and the client as little as a byte."""
_STREAMS_PER_EXTRA: Final = 32
"""The window of each has to be shifted."""
_PRIORITY_BYTES: Final = 5
_PING_BYTES: Final = 8
_NUMBER_BYTES: Final = 4
_GOAWAY_BYTES: Final = 8
_SETTING_BYTES: Final = 6
_MAX_PEER_FRAME: Final = 2**24 - 1
_MIN_PEER_FRAME: Final = 16_384

Handler = Callable[[int, int, memoryview], None]


def _fault(reason: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> ConnectionFault:
    return ConnectionFault(code, reason)


def _size_fault(reason: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, reason)


class FrameReader:
    """The reading side of one connection.

    is_new: no preface yet. latest: the highest stream. window: of the connection, for what we receive.
    refuses: no stream is opened any more. block_since: the tick at which a block began that goes on.
    """

    def __init__(self, connection: "Http2Connection", application: Application) -> None:
        limits = connection.limits
        self.is_new = True
        self.latest = 0
        self.window = 0
        self.refuses = False
        self.block_since = -1
        self._connection = connection
        self._application = application
        self._heads = HeadReader(max_list_bytes=limits.max_header_list_bytes, read=self._has_read)
        self._max_block_bytes = _BLOCK_TIMES * limits.max_header_list_bytes
        self._is_greeted = False
        self._block: list[bytes] = []
        self._block_bytes = 0
        self._block_of = (0, 0)
        self._ignored: set[int] = set()
        self._ignored_order: deque[int] = deque()
        self._handlers: tuple[Handler, ...] = (
            self._data, self._headers, self._priority, self._reset, self._settings,
            self._push, self._ping, self._goaway, self._window, self._continuation,
        )  # fmt: skip

    def read(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        """One frame. number: of its stream. Raises ConnectionFault."""
        if self._block and (kind != CONTINUATION or number != self._block_of[0]):
            raise _fault("a block of fields was interrupted")
        if not self._is_greeted:
            if kind != SETTINGS or flags & ACK:
                raise _fault("SETTINGS come first")
            self._is_greeted = True
            self._connection.opened()
        if kind > CONTINUATION:
            self._connection.patience.spend()
            return
        try:
            self._handlers[kind](flags, number, payload)
        except StreamFault as fault:
            self._end_stream(number, fault.code)

    def close(self) -> None:
        """There will be no frames. The connection and its reader forget each other."""
        self._handlers = ()
        del self._connection

    def ignore(self, number: int) -> None:
        """Further frames on this stream mean nothing."""
        self._ignored.add(number)
        self._ignored_order.append(number)
        if len(self._ignored_order) > _MAX_IGNORED:
            self._ignored.discard(self._ignored_order.popleft())

    # -- requests ----------------------------------------------------------------------------------

    def _headers(self, flags: int, number: int, payload: memoryview) -> None:
        if not number & 1:
            raise _fault("clients open odd streams")
        block = _unpadded(payload) if flags & PADDED else payload
        if flags & PRIORITIZED:
            if len(block) < _PRIORITY_BYTES:
                raise _size_fault("a priority cut short")
            if read_number(bytes(block[:4])) == number:
                raise _fault("a stream depends on itself")
            block = block[_PRIORITY_BYTES:]
        if flags & END_HEADERS:
            self._fields(number, bytes(block), ends=bool(flags & END_STREAM))
            return
        self._block, self._block_of = [bytes(block)], (number, flags)
        self._block_bytes = len(block)
        self.block_since = self._connection.tick

    def _continuation(self, flags: int, number: int, payload: memoryview) -> None:
        if not self._block:
            raise _fault("CONTINUATION of nothing")
        self._connection.patience.spend()
        self._block.append(bytes(payload))
        self._block_bytes += len(payload)
        if self._block_bytes > self._max_block_bytes:
            raise _fault("a block of fields without end", ErrorCode.ENHANCE_YOUR_CALM)
        if flags & END_HEADERS:
            block, self._block, self.block_since = b"".join(self._block), [], -1
            self._fields(number, block, ends=bool(self._block_of[1] & END_STREAM))

    def _fields(self, number: int, block: bytes, *, ends: bool) -> None:
        stream = self._connection.streams.get(number)
        if stream is not None:
            self._take_trailers(stream, block, ends=ends)
        elif number > self.latest:
            self._open(number, block, ends=ends)
        else:
            self._heads.skip(block)
            if number not in self._ignored:
                raise _fault("HEADERS on a stream that is over", ErrorCode.STREAM_CLOSED)

    def _open(self, number: int, block: bytes, *, ends: bool) -> None:
        connection = self._connection
        self.latest = number
        try:
            head = self._heads.read(block)
        except OversizedHead:
            connection.write(header_frames(self._application.oversized, number, ends=True))
            if not ends:
                connection.write(reset_frame(number, ErrorCode.NO_ERROR))
                self.ignore(number)
            connection.patience.spend()
            return
        is_full = len(connection.streams) >= connection.limits.max_streams
        if self.refuses or is_full or connection.pending > _MAX_PENDING_BYTES:
            raise StreamFault(ErrorCode.REFUSED_STREAM, "no more streams")
        stream = Stream(connection, number, head, finished=ends)
        if ends:
            stream.check_length()
        receiver = self._application(stream)
        if stream.ended:
            return
        stream.receiver = receiver
        connection.streams[number] = stream
        if ends:
            stream.receiver.finished()

    def _take_trailers(self, stream: Stream, block: bytes, *, ends: bool) -> None:
        self._heads.read_trailers(block)
        if stream.finished:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS after the end")
        if not ends:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "trailers end a request")
        stream.finish()

    def _data(self, flags: int, number: int, payload: memoryview) -> None:
        size = len(payload)
        self.window -= size
        if self.window < 0:
            raise _fault("more than the window permits", ErrorCode.FLOW_CONTROL_ERROR)
        stream = self._connection.streams.get(number)
        data = _unpadded(payload) if flags & PADDED else payload
        if stream is None or stream.finished:
            self._check_known(number)
            self._connection.consumed(size)
            if stream is not None or number not in self._ignored:
                raise StreamFault(ErrorCode.STREAM_CLOSED, "DATA after the end")
            self._connection.patience.spend()
            return
        if not data and not flags & END_STREAM:
            self._connection.patience.spend()
        stream.take(data, size=size)
        if flags & END_STREAM and not stream.ended:
            stream.finish()
        elif flags & END_STREAM:
            stream.finished = True

    # -- the connection ----------------------------------------------------------------------------

    def _settings(self, flags: int, number: int, payload: memoryview) -> None:
        if number:
            raise _fault("SETTINGS belong to the connection")
        if flags & ACK:
            if payload:
                raise _size_fault("an acknowledgement says nothing")
            return
        if len(payload) % _SETTING_BYTES:
            raise _size_fault("SETTINGS cut short")
        connection = self._connection
        connection.patience.spend()
        window = connection.first_window
        for name, value in read_settings(bytes(payload)):
            _check_setting(name, value)
            if name == Setting.INITIAL_WINDOW_SIZE:
                window = value
        connection.write(frame(SETTINGS, ACK, 0, b""))
        # Once, though a frame may say it thousands of times.
        if window != connection.first_window:
            connection.patience.spend(len(connection.streams) // _STREAMS_PER_EXTRA)
            connection.resize_windows(window)

    def _ping(self, flags: int, number: int, payload: memoryview) -> None:
        if number:
            raise _fault("PING belongs to the connection")
        if len(payload) != _PING_BYTES:
            raise _size_fault("a PING has eight bytes")
        connection = self._connection
        if flags & ACK:
            connection.patience.spend()
            return
        connection.patience.ping(
            connection.tick, least_ticks=connection.limits.min_ping_interval_s / SWEEP_S
        )
        connection.write(frame(PING, ACK, 0, bytes(payload)))

    def _goaway(self, flags: int, number: int, payload: memoryview) -> None:
        del flags
        if number:
            raise _fault("GOAWAY belongs to the connection")
        if len(payload) < _GOAWAY_BYTES:
            raise _size_fault("GOAWAY cut short")
        self._connection.says_goodbye()

    def _window(self, flags: int, number: int, payload: memoryview) -> None:
        del flags
        if len(payload) != _NUMBER_BYTES:
            raise _size_fault("WINDOW_UPDATE has four bytes")
        connection, increment = self._connection, read_number(bytes(payload))
        connection.patience.spend()
        if number:
            stream = connection.streams.get(number)
            if stream is None:
                self._check_known(number)
            elif not increment:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a window that does not grow")
            else:
                stream.open_window(increment)
            return
        if not increment:
            raise _fault("a window that does not grow")
        connection.window += increment
        if connection.window > MAX_WINDOW:
            raise _fault("a window that is too large", ErrorCode.FLOW_CONTROL_ERROR)
        connection.unblock()

    def _reset(self, flags: int, number: int, payload: memoryview) -> None:
        del flags
        self._check_known(number)
        if len(payload) != _NUMBER_BYTES:
            raise _size_fault("RST_STREAM has four bytes")
        connection = self._connection
        stream = connection.streams.get(number)
        if stream is None:
            connection.patience.spend()
            return
        connection.patience.reset()
        stream.finished = True
        stream.leave()
        connection.forget(stream)

    def _priority(self, flags: int, number: int, payload: memoryview) -> None:
        del flags
        if not number:
            raise _fault("PRIORITY belongs to a stream")
        self._connection.patience.spend()
        if len(payload) != _PRIORITY_BYTES:
            if number not in self._connection.streams:
                raise _size_fault("PRIORITY has five bytes")
            raise StreamFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has five bytes")

    def _push(self, flags: int, number: int, payload: memoryview) -> None:
        del flags, number, payload
        raise _fault("clients push nothing")

    # -- inside ------------------------------------------------------------------------------------

    def _has_read(self, fields: int) -> None:
        self._connection.patience.spend(fields // _FIELDS_PER_EXTRA)

    def _check_known(self, number: int) -> None:
        """Raises ConnectionFault for a stream that nobody has opened."""
        if not number & 1 or number > self.latest:
            raise _fault("a frame on a stream that is idle")

    def _end_stream(self, number: int, code: ErrorCode) -> None:
        """The client made a mistake on this stream."""
        connection = self._connection
        connection.patience.reset()
        stream = connection.streams.get(number)
        if stream is None:
            connection.write(reset_frame(number, code))
            self.ignore(number)
            return
        receiver, was_ended = stream.receiver, stream.ended
        stream.reset(code)
        self.ignore(number)  # Also where the client had ended its side: one RST_STREAM is enough.
        if not was_ended:
            receiver.gone()


def _check_setting(name: int, value: int) -> None:
    """Raises ConnectionFault."""
    if name == Setting.ENABLE_PUSH and value > 1:
        raise _fault("ENABLE_PUSH is 0 or 1")
    if name == Setting.MAX_FRAME_SIZE and not _MIN_PEER_FRAME <= value <= _MAX_PEER_FRAME:
        raise _fault("MAX_FRAME_SIZE out of range")
    if name == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise _fault("a window that is too large", ErrorCode.FLOW_CONTROL_ERROR)


def _unpadded(payload: memoryview) -> memoryview:
    """Raises ConnectionFault."""
    if not payload:
        raise _size_fault("padding without a length")
    padding = payload[0]
    if padding >= len(payload):
        raise _fault("more padding than frame")
    return payload[1 : len(payload) - padding]
