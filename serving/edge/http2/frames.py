"""The frames of HTTP/2 (RFC 9113, section 6) as bytes, and the errors that they can be.

Frames are made here and read in `serving.edge.http2.connection`. A block of fields that is longer than
a frame may be travels in several.
"""

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16_384
"""What we take, and what every peer takes: nothing is gained here by larger ones."""
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9


class ErrorCode(IntEnum):
    """Of RST_STREAM and GOAWAY."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """The parameters of SETTINGS that mean something."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ConnectionFault(Exception):
    """What a peer did ends the connection. reason: short, shown to the peer."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamFault(Exception):
    """What a peer did ends one of its streams."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code

    def again(self) -> "StreamFault":
        """The same fault, to be raised."""
        return StreamFault(self.code, str(self))


FRAME_HEAD: Final = struct.Struct(">HBBBI")
"""Length in two parts (24 bits: upper 16, lower 8), kind, flags, stream."""
_SETTING: Final = struct.Struct(">HI")
_NUMBER: Final = struct.Struct(">I")
_GOAWAY: Final = struct.Struct(">II")


def frame_head(kind: int, flags: int, stream: int, size: int) -> bytes:
    return FRAME_HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return frame_head(kind, flags, stream, len(payload)) + payload


def header_frames(block: bytes, stream: int, *, ends: bool) -> bytes:
    """HEADERS, with CONTINUATION where the block needs it. ends: with END_STREAM."""
    flags = END_STREAM if ends else 0
    if len(block) <= MAX_FRAME_BYTES:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    parts = [block[at : at + MAX_FRAME_BYTES] for at in range(0, len(block), MAX_FRAME_BYTES)]
    first, *middle, last = parts
    return b"".join(
        (
            frame(HEADERS, flags, stream, first),
            *(frame(CONTINUATION, 0, stream, part) for part in middle),
            frame(CONTINUATION, END_HEADERS, stream, last),
        )
    )


def settings_frame(values: dict[Setting, int]) -> bytes:
    payload = b"".join(_SETTING.pack(name, value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """payload: of a length that is a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def window_update_frame(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(increment))


def reset_frame(stream: int, code: ErrorCode) -> bytes:
    return frame(RST_STREAM, 0, stream, _NUMBER.pack(code))


def goaway_frame(last_stream: int, code: ErrorCode, reason: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream, code) + reason.encode())


def read_number(payload: bytes) -> int:
    """31 bits; the highest is reserved."""
    number: int = _NUMBER.unpack_from(payload)[0]
    return number & MAX_WINDOW
