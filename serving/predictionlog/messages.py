"""What a gateway worker and its log process say to each other, over one Unix stream socket.

Worker to log process, all little-endian: kind u8, records u32, payload bytes u64, number u64, then

    1 APPEND  number: the last sequence given; `records` lengths u32; the payload is the records
    2 DEFINE  number: of the definition; the payload is its JSON
    3 CLOSE   nothing; everything before it is committed, the segment sealed

Log process to worker: kind u8, code u8, appends u32, text bytes u32, then the text:

    1 OPENED   once, first: the log is open (text: JSON of `Opened`), or why it is not (code, text)
    2 SETTLED  the oldest `appends` are recorded, or are not and never will be (code, text)
    3 STATE    text: JSON of `State`; twice a second and whenever the refusal changes

`code` is 0 when all is well, else the place of the error's class in `ERRORS`. Both ends are one
program in one version; the payload is never interpreted here.
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

import msgspec

from serving.errors import DataDirectoryInUse, LogDamaged, LogStorageFull, LogUnavailable
from serving.errors import ServingError as AnyError

APPEND: Final = 1
DEFINE: Final = 2
CLOSE: Final = 3

OPENED: Final = 1
SETTLED: Final = 2
STATE: Final = 3

ERRORS: Final = (LogUnavailable, LogStorageFull, DataDirectoryInUse, LogDamaged)

_ORDER: Final = Struct("<BIQQ")
_REPLY: Final = Struct("<BBII")


class Opened(msgspec.Struct, frozen=True):
    """sequence: the highest one that the directory holds."""

    sequence: int


class State(msgspec.Struct, frozen=True):
    """What the committer counted, and the code and text of its refusal (0 and empty: none)."""

    code: int = 0
    text: str = ""
    commits: int = 0
    bytes: int = 0
    elapsed_ns: int = 0
    failed_commits: int = 0
    segments: int = 0
    suspect_segments: int = 0
    times: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()


class Order(NamedTuple):
    """One message of the worker."""

    kind: int
    number: int
    records: list[bytes]


class Reply(NamedTuple):
    """One message of the log process."""

    kind: int
    error: AnyError | None
    appends: int
    text: bytes


def encode_append(records: Sequence[bytes], sequence: int, size_bytes: int) -> bytes:
    lengths = Struct(f"<{len(records)}I").pack(*map(len, records))
    head = _ORDER.pack(APPEND, len(records), size_bytes, sequence)
    return b"".join((head, lengths, *records))


def encode_definition(number: int, text: bytes) -> bytes:
    return _ORDER.pack(DEFINE, 0, len(text), number) + text


def encode_close() -> bytes:
    return _ORDER.pack(CLOSE, 0, 0, 0)


def encode_reply(
    kind: int, *, error: AnyError | None = None, appends: int = 0, text: bytes = b""
) -> bytes:
    code, text = describe(error) if error is not None else (0, text)
    return _REPLY.pack(kind, code, appends, len(text)) + text


def describe(error: AnyError) -> tuple[int, bytes]:
    """Code and text of an error of `ERRORS`."""
    return ERRORS.index(type(error)) + 1, error.message.encode()


def error_of(code: int, text: str) -> AnyError | None:
    """The error that `describe` described; None for code 0."""
    return ERRORS[code - 1](text) if code else None


class _Stream:
    """Bytes that came and were not yet understood."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def add(self, data: bytes) -> None:
        self._rest += data

    def take(self, start: int, stop: int) -> bytes | None:
        """These bytes, or None while they are not all here."""
        return bytes(memoryview(self._rest)[start:stop]) if len(self._rest) >= stop else None

    def drop(self, count: int) -> None:
        del self._rest[:count]


class OrderReader:
    """Cuts the worker's stream into orders."""

    def __init__(self) -> None:
        self._stream = _Stream()

    def feed(self, data: bytes) -> Iterator[Order]:
        self._stream.add(data)
        while (order := self._next()) is not None:
            yield order

    def _next(self) -> Order | None:
        head = self._stream.take(0, _ORDER.size)
        if head is None:
            return None
        kind, count, size_bytes, number = _ORDER.unpack(head)
        lengths = Struct(f"<{count}I")
        start = _ORDER.size + lengths.size
        content = self._stream.take(_ORDER.size, start + size_bytes)
        if content is None:
            return None
        self._stream.drop(start + size_bytes)
        if kind != APPEND:
            return Order(kind, number, [content])
        records = []
        position = lengths.size
        for length in lengths.unpack_from(content):
            records.append(content[position : position + length])
            position += length
        return Order(kind, number, records)


class ReplyReader:
    """Cuts the log process's stream into replies."""

    def __init__(self) -> None:
        self._stream = _Stream()

    def feed(self, data: bytes) -> Iterator[Reply]:
        self._stream.add(data)
        while (head := self._stream.take(0, _REPLY.size)) is not None:
            kind, code, appends, length = _REPLY.unpack(head)
            text = self._stream.take(_REPLY.size, _REPLY.size + length)
            if text is None:
                return
            self._stream.drop(_REPLY.size + length)
            error = error_of(code, text.decode()) if code else None
            yield Reply(kind, error, appends, text)
