"""Header blocks of HTTP/2: from HPACK (RFC 7541) to a request's head that is well-formed, and back.

Clients of RPCs send the same block again and again, once their table has settled: a block that left
the dynamic table as it was means the same until the table changes, and is remembered by its bytes. So
what a head means is worked out once, and whoever derives something from a head may keep it by the head's
identity. Our own blocks use no dynamic table: a block that never changes is made once.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from serving.edge.http2.frames import ConnectionFault, ErrorCode, StreamFault

Fields = tuple[tuple[bytes, bytes], ...]

FIELD_OVERHEAD_BYTES: Final = 32
"""What a field counts beyond its name and value: RFC 9113, 6.5.2."""
_HARD_TIMES: Final = 4
"""A list of so many times the limit is not read to its end: the connection is over."""
_MAX_KNOWN: Final = 64
"""Blocks that are remembered, as long as they and their fields are no more bytes than one list may be; a
client of RPCs has a block for each of its calls and credentials."""

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_METHOD: Final = re.compile(rb"(?!CONNECT$)[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A proxy is what CONNECT is for."""
_PATH: Final = re.compile(rb"/[!-~]*")
_VALUE: Final = re.compile(rb"[^\x00\r\n]*")
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_CONNECTION_FIELDS: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
_SEVEN_BITS: Final = 127
_NAME_BITS: Final = 15


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request without its body, well-formed. fields: in order, names in lower case.

    content_length: what the client says, None when it says nothing.
    """

    method: bytes
    path: bytes
    authority: bytes
    scheme: bytes
    fields: Fields
    content_length: int | None = None


class OversizedHead(Exception):
    """The fields are more than is taken, but were read: the connection can go on."""


Read = RequestHead | StreamFault | OversizedHead


class HeadReader:
    """The blocks of one connection, which have to come in their order."""

    def __init__(self, *, max_list_bytes: int, read: Callable[[int], None]) -> None:
        """read: is told how many fields had to be decoded, where a block was not known."""
        self._decoder = Decoder(max_header_list_size=_HARD_TIMES * max_list_bytes)
        self._max_list_bytes = max_list_bytes
        self._known: dict[bytes, Read] = {}
        self._known_bytes = 0
        self._has_read = read

    def read(self, block: bytes) -> RequestHead:
        """Raises ConnectionFault, StreamFault, OversizedHead."""
        found = self._known.get(block)
        if found is None:
            found = self._learn(block)
        if isinstance(found, RequestHead):
            return found
        # Anew: what is kept must not keep the frames that it was raised through.
        raise OversizedHead if isinstance(found, OversizedHead) else found.again()

    def read_trailers(self, block: bytes) -> None:
        """Takes a block that ends a request; what it says is nobody's business.

        Raises ConnectionFault, StreamFault.
        """
        for name, value in self.skip(block):
            check_field(name, value)

    def skip(self, block: bytes) -> Fields:
        """Takes a block that means nothing but to the table. Raises ConnectionFault."""
        before = self._mark()
        fields = self._decode(block)
        if self._has_changed(before):
            self._forget()
        return fields

    def _learn(self, block: bytes) -> Read:
        before = self._mark()
        fields = self._decode(block)
        size = sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in fields)
        read = self._understand(fields, size)
        if self._has_changed(before):
            self._forget()
        else:
            self._remember(block, read, size=size)
        return read

    def _remember(self, block: bytes, read: Read, *, size: int) -> None:
        """size: of the fields."""
        size += len(block)
        if len(self._known) >= _MAX_KNOWN or self._known_bytes + size > self._max_list_bytes:
            self._forget()
        if size <= self._max_list_bytes:
            self._known[block] = read
            self._known_bytes += size

    def _forget(self) -> None:
        self._known.clear()
        self._known_bytes = 0

    def _understand(self, fields: Fields, size: int) -> Read:
        if size > self._max_list_bytes:
            return OversizedHead()
        try:
            return head_of(fields)
        except StreamFault as fault:
            return fault.with_traceback(None)

    def _decode(self, block: bytes) -> Fields:
        try:
            found = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header list too large") from error
        except HPACKError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "header block unreadable") from error
        fields = tuple([(bytes(name), bytes(value)) for name, value in found])
        self._has_read(len(fields))
        return fields

    def _mark(self) -> tuple[int, object, int]:
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return len(entries), entries[0] if entries else None, table.maxsize

    def _has_changed(self, before: tuple[int, object, int]) -> bool:
        """Whether the dynamic table is another one. `before` keeps the entry that was the newest: one
        that is added is made anew, and stands first."""
        size, newest, most = self._mark()
        return newest is not before[1] or (size, most) != (before[0], before[2])


def head_of(fields: Fields) -> RequestHead:
    """The request that a list of fields is: RFC 9113, section 8. Raises StreamFault."""
    pseudo: dict[bytes, bytes] = {}
    rest: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if name.startswith(b":"):
            if rest or name not in _PSEUDO or name in pseudo or not _is_value(value):
                raise _malformed("pseudo fields come first, each once, and those of requests only")
            pseudo[name] = value
        else:
            check_field(name, value)
            rest.append((name, value))
    method, scheme, path = (pseudo.get(name, b"") for name in (b":method", b":scheme", b":path"))
    if _METHOD.fullmatch(method) is None or not scheme or _PATH.fullmatch(path) is None:
        raise _malformed("a request has a method, a scheme and a path")
    return RequestHead(
        method,
        path,
        _authority(pseudo.get(b":authority"), rest),
        scheme,
        tuple(rest),
        _content_length(rest),
    )


def check_field(name: bytes, value: bytes) -> None:
    """Raises StreamFault for what no request may have beside its pseudo fields."""
    if _NAME.fullmatch(name) is None or not _is_value(value):
        raise _malformed("a field that is none")
    if name in _CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
        raise _malformed("a field of HTTP/1.1 connections")


def encode_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block that no table has to remember: literals never indexed by us, without Huffman."""
    parts: list[bytes] = []
    for name, value in fields:
        found = HeaderTable.STATIC_TABLE_MAPPING.get(name)
        if found is not None and value in found[1] and value:
            parts.append(bytes((0x80 | found[1][value],)))
        else:
            parts += (field_prefix(name), _length(len(value)), value)
    return b"".join(parts)


def field_prefix(name: bytes) -> bytes:
    """What stands before the length of the value: a block, this, a length and a value are a block."""
    found = HeaderTable.STATIC_TABLE_MAPPING.get(name)
    if found is None:
        return b"\x00" + _length(len(name)) + name
    return _integer(found[0], _NAME_BITS)


def _length(size: int) -> bytes:
    return _integer(size, _SEVEN_BITS)


def _integer(number: int, most: int) -> bytes:
    """RFC 7541, 5.1, in a byte whose upper bits are 0. most: what fits into the lower ones."""
    if number < most:
        return bytes((number,))
    encoded = bytearray((most,))
    number -= most
    while number > _SEVEN_BITS:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _is_value(value: bytes) -> bool:
    return _VALUE.fullmatch(value) is not None and value == value.strip(b" \t")


def _authority(said: bytes | None, fields: list[tuple[bytes, bytes]]) -> bytes:
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) > 1 or (hosts and said is not None and hosts[0] != said):
        raise _malformed("two hosts")
    return said if said is not None else b"".join(hosts)


def _content_length(fields: list[tuple[bytes, bytes]]) -> int | None:
    values = {value for name, value in fields if name == b"content-length"}
    if not values:
        return None
    (value, *others) = values
    if others or not value.isdigit() or len(value) > 18:  # noqa: PLR2004 - fits 64 bits
        raise _malformed("content-length is one number")
    return int(value)


def _malformed(reason: str) -> StreamFault:
    return StreamFault(ErrorCode.PROTOCOL_ERROR, reason)
