"""A chunked request body: decoded by llhttp, bounded in bytes and in framing overhead."""

from typing import Final

import httptools

from serving.errors import BodyTooLarge, HeadTooLarge, MessageInvalid
from serving.settings import HttpSettings

_HEAD: Final = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
_FEED_BYTES: Final = 64 * 1024
_FRAMING_BYTES: Final = 32 * 1024
"""Allowed for chunk sizes, extensions and trailers, plus as much again as the content."""


class ChunkedBody:
    """Collects the content of one chunked body.

    The framing (sizes, extensions, trailers) may take 32 KiB more than the content itself, so that
    neither a megabyte of extensions nor a hundred thousand one-byte chunks cost more than they send.
    """

    def __init__(self, limits: HttpSettings) -> None:
        self._limit_bytes = limits.max_body_bytes
        self._parts: list[bytes] = []
        self._content_bytes = 0
        self._fed_bytes = 0
        self._messages = 0
        self._complete = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_HEAD)

    def on_message_begin(self) -> None:
        self._messages += 1

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)
        self._content_bytes += len(part)

    def on_message_complete(self) -> None:
        self._complete = True

    def feed(self, data: bytes | memoryview) -> bool:
        """Takes the next bytes; whether the body is complete.

        Raises MessageInvalid, BodyTooLarge or HeadTooLarge (framing). A request pipelined into the
        same segment is refused: llhttp does not say where the body ended in it, and guessing is how
        requests are smuggled.
        """
        for start in range(0, len(data), _FEED_BYTES):
            part = data[start : start + _FEED_BYTES]
            try:
                self._parser.feed_data(part)
            except httptools.HttpParserError as error:
                raise MessageInvalid("the chunked body is not valid HTTP/1.1") from error
            self._fed_bytes += len(part)
            self._check()
        return self._complete

    def content(self) -> bytes:
        return b"".join(self._parts)

    def _check(self) -> None:
        if self._messages > 1:
            raise MessageInvalid("nothing may follow a chunked body in the same segment")
        if self._content_bytes > self._limit_bytes:
            raise BodyTooLarge(f"a request body may have at most {self._limit_bytes} bytes")
        if self._fed_bytes > 2 * self._content_bytes + _FRAMING_BYTES:
            raise HeadTooLarge("chunk extensions, trailers or chunk count out of proportion")
