"""A chunked request body (RFC 9112 7.1), bounded in bytes and in framing overhead.

Decoded here and not by llhttp, which does not tell where in a segment the body ended: the next
request may stand right behind it, and guessing is how requests are smuggled. The grammar is narrow:
CR LF only, no space around a size, extensions and trailers well-formed and ignored. Nothing that
llhttp refuses is accepted; a property test compares the two.
"""

import re
from enum import Enum, auto
from typing import Final

from serving.errors import BodyTooLarge, HeadTooLarge, MessageInvalid
from serving.port_settings import HttpSettings

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_EXTENSION: Final = rb";%b(?:=(?:%b|\"[\t \x21\x23-\x5b\x5d-\x7e]*\"))?" % (_TOKEN, _TOKEN)
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:%b)*\r\n" % _EXTENSION)
_TRAILER: Final = re.compile(rb"%b:[\t\x20-\x7e\x80-\xff]*\r\n" % _TOKEN)
_CRLF: Final = b"\r\n"

_FRAMING_BYTES: Final = 32 * 1024
"""Allowed for chunk sizes, extensions and trailers, plus as much again as the content."""
_MANY_CHUNKS: Final = 1000


class _Line(Enum):
    """What the next line of framing is."""

    SIZE = auto()
    END_OF_CHUNK = auto()
    TRAILER = auto()


class ChunkedBody:
    """Collects the content of one chunked body.

    The framing (sizes, extensions, trailers) may take 32 KiB more than the content itself, so that
    neither a megabyte of extensions nor a hundred thousand one-byte chunks cost more than they send.
    """

    def __init__(self, limits: HttpSettings) -> None:
        self._limit_bytes = limits.max_body_bytes
        self._content = bytearray()
        self._framing_bytes = 0
        self._chunks = 0
        self._missing = 0
        self._unfinished = b""
        self._expected = _Line.SIZE

    def feed(self, data: bytes) -> bytes | None:
        """Takes the next bytes; what follows the body once it is complete, None until then.

        Raises MessageInvalid, BodyTooLarge or HeadTooLarge (framing).
        """
        data = self._unfinished + data
        self._unfinished = b""
        at = 0
        while at < len(data):
            if self._missing:
                part = data[at : at + self._missing]
                self._content += part
                self._missing -= len(part)
                at += len(part)
                continue
            end = data.find(b"\n", at) + 1
            if not end:
                self._keep(data[at:])
                break
            line, at = data[at:end], end
            if self._take(line):
                return data[at:]
        return None

    def content(self) -> bytearray:
        return self._content

    def _keep(self, start: bytes) -> None:
        """Remembers the start of a line whose end has not come."""
        self._check_framing(len(start))
        if self._expected is _Line.END_OF_CHUNK and start != _CRLF[:1]:
            raise MessageInvalid("a chunk is longer than its size says")
        self._unfinished = start

    def _take(self, line: bytes) -> bool:
        """Takes one line of framing; whether it was the last."""
        self._check_framing(len(line))
        self._framing_bytes += len(line)
        if self._expected is _Line.SIZE:
            self._begin_chunk(line)
        elif self._expected is _Line.TRAILER:
            if line != _CRLF and not _TRAILER.fullmatch(line):
                raise MessageInvalid("the trailers of the body are not valid")
            return line == _CRLF
        elif line != _CRLF:
            raise MessageInvalid("a chunk is longer than its size says")
        else:
            self._expected = _Line.SIZE
        return False

    def _begin_chunk(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise MessageInvalid("a chunk of the body does not begin with its size")
        self._missing = int(match[1], 16)
        self._chunks += 1
        self._expected = _Line.END_OF_CHUNK if self._missing else _Line.TRAILER
        if len(self._content) + self._missing > self._limit_bytes:
            raise BodyTooLarge(f"a request body may have at most {self._limit_bytes} bytes")

    def _check_framing(self, more_bytes: int) -> None:
        if self._framing_bytes + more_bytes <= len(self._content) + _FRAMING_BYTES:
            return
        if self._chunks > _MANY_CHUNKS:
            raise BodyTooLarge("send the body in fewer, larger chunks")
        raise HeadTooLarge("chunk extensions or trailers are too long")
