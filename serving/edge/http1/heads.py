"""What one request head means: parsed by llhttp once, then remembered by its bytes.

A head is everything up to and including the blank line. Its meaning is a pure function of its
bytes, and a client repeats the same head on every request of a connection, so the parse, the
checks and whatever the application derives from it (`Head.plan`) are done once per distinct head
and worker. The memory is bounded in entries and bytes: long heads are not remembered, and when it
is full it is emptied; either costs a new parse and nothing else.

llhttp refuses broken framing (both lengths, bad lengths, bare LF, folded lines, NUL, unknown
methods). What it lets through and RELIABILITY 2.1 forbids is refused here: no Host or two, a bad
Host, underscore names, duplicates of single-value headers, too many or too long headers, any
transfer coding but `chunked`, protocol versions other than 1.0 and 1.1. HTTP/1.0 gets one answer
per connection.
"""

import re
from typing import Any, Final

import httptools

from serving.errors import (
    AmbiguousLength,
    BodyTooLarge,
    HeadTooLarge,
    MessageInvalid,
    ProtocolUnsupported,
    ServingError,
    TargetTooLong,
)
from serving.port_settings import HttpSettings

SINGLE: Final = frozenset(
    {
        b"host",
        b"authorization",
        b"x-api-key",
        b"content-type",
        b"content-encoding",
        b"inference-header-content-length",
        b"traceparent",
        b"expect",
        b"accept",
        b"serving-timeout-ms",
        b"serving-subject",
        b"serving-version",
        b"serving-sticky-key",
    }
)
"""Headers that mean one thing or nothing; a second one is refused rather than chosen from."""

CERTIFICATE: Final = b":certificate"

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_MAX_HOST_BYTES: Final = 255
_MAX_METHOD_BYTES: Final = 32
_MAX_KEPT_BYTES: Final = 4096
_BLANK_LINE: Final = b"\r\n\r\n"
_LENGTH_HEADERS: Final = (b"content-length", b"transfer-encoding")


class Head:
    """One parsed request head. Immutable but for `plan`, the application's memory of it.

    content_length: bytes of the body, or None when it is chunked.
    """

    __slots__ = (
        "content_length",
        "expects_continue",
        "headers",
        "keep_alive",
        "method",
        "path",
        "plan",
        "query",
    )

    def __init__(self, parser: httptools.HttpRequestParser, parts: "_Parts") -> None:
        path, _, query = parts.target.partition(b"?")
        self.method: str = parser.get_method().decode("ascii")
        self.path: str = path.decode("latin-1")
        self.query: str = query.decode("latin-1")
        self.headers = parts.headers
        current = parser.get_http_version() == "1.1"
        # The answer to HEAD has no body, which only a closing connection makes unmistakable.
        self.keep_alive = current and self.method != "HEAD" and not _says_close(parts.headers)
        self.expects_continue = (
            current and parts.headers.get(b"expect", b"").lower() == b"100-continue"
        )
        self.content_length = _content_length(parts.headers)
        self.plan: Any = None


class _Parts:
    """Receives llhttp's callbacks for one head."""

    def __init__(self, limits: HttpSettings) -> None:
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self.refusal: ServingError | None = None
        self._limits = limits
        self._count = 0

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._count += 1
        self.refusal = self.refusal or self._refuse(name, value)
        if name in self.headers:
            value = self.headers[name] + b", " + value
        self.headers[name] = value

    def on_headers_complete(self) -> None:
        self.complete = True

    def _refuse(self, name: bytes, value: bytes) -> ServingError | None:
        limits = self._limits
        if self._count > limits.max_header_count:
            return HeadTooLarge(f"a request may have at most {limits.max_header_count} headers")
        if len(name) + len(value) > limits.max_header_bytes and name != b"authorization":
            return HeadTooLarge(f"one header may have at most {limits.max_header_bytes} bytes")
        if b"_" in name:
            return MessageInvalid("header names must not contain underscores")
        if name in SINGLE and name in self.headers:
            return MessageInvalid(f"header {name.decode('latin-1')} may be sent only once")
        return None


def parse_head(block: bytes, limits: HttpSettings) -> Head:
    """The meaning of one complete head. Raises a `CallerError` naming what is wrong with it."""
    _check_size(block, len(block) - len(_BLANK_LINE), limits)
    parts = _Parts(limits)
    parser = httptools.HttpRequestParser(parts)
    try:
        parser.feed_data(block)
    except httptools.HttpParserUpgrade:
        pass  # An offer that may be declined: the request is answered as plain HTTP/1.1.
    except httptools.HttpParserError as error:
        raise _framing_error(block) from error
    if parts.refusal is not None:
        raise parts.refusal
    if not parts.complete:
        raise MessageInvalid("the request head is not a valid HTTP/1.1 message")
    _check(parts, parser)
    head = Head(parser, parts)
    if head.content_length is not None and head.content_length > limits.max_body_bytes:
        raise BodyTooLarge(f"a request body may have at most {limits.max_body_bytes} bytes")
    return head


def check_unfinished(start: bytes, limits: HttpSettings) -> None:
    """Refuses the beginning of a head when no further byte can mend it."""
    _check_size(start, len(start) - len(_BLANK_LINE) + 1, limits)
    line, ended, _ = start.partition(b"\r\n")
    if ended and not line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
        raise ProtocolUnsupported("use HTTP/1.1")
    if start.count(b"\n") != start.count(b"\r\n"):
        raise MessageInvalid("lines of the head must end with CR LF")


def _check_size(start: bytes, size: int, limits: HttpSettings) -> None:
    """size: of the head without its blank line, as far as it is known."""
    most = limits.max_request_line_bytes
    if start.find(b"\r\n", 0, most + 2) < 0 and len(start) >= most + 2:
        if start.find(b" ", 0, _MAX_METHOD_BYTES) < 0:
            raise MessageInvalid("the request begins with no known method")
        raise TargetTooLong(f"the request line may have at most {most} bytes")
    if size > limits.max_head_bytes:
        raise HeadTooLarge(f"a request head may have at most {limits.max_head_bytes} bytes")


def _check(parts: _Parts, parser: httptools.HttpRequestParser) -> None:
    if parser.get_http_version() not in ("1.0", "1.1"):
        raise ProtocolUnsupported("use HTTP/1.1")
    if not parts.target.startswith(b"/"):
        raise MessageInvalid("the request target must be a path starting with /")
    host = parts.headers.get(b"host")
    if host is None or len(host) > _MAX_HOST_BYTES or not _HOST.fullmatch(host):
        raise MessageInvalid("exactly one valid Host header is required")
    coding = parts.headers.get(b"transfer-encoding")
    if coding is not None and (coding.lower() != b"chunked" or parser.get_http_version() == "1.0"):
        raise MessageInvalid("the only transfer coding understood is chunked, in HTTP/1.1")
    if coding is not None and b"content-length" in parts.headers:
        raise AmbiguousLength("send Content-Length or Transfer-Encoding, not both")


def _framing_error(block: bytes) -> ServingError:
    """llhttp's refusal in our words; its text goes no further, it may quote the input."""
    names = [line.partition(b":")[0].strip().lower() for line in block.split(b"\r\n")[1:]]
    if all(name in names for name in _LENGTH_HEADERS):
        return AmbiguousLength("send Content-Length or Transfer-Encoding, not both")
    return MessageInvalid("the request head is not a valid HTTP/1.1 message")


def _says_close(headers: dict[bytes, bytes]) -> bool:
    # llhttp could be asked too, but has forgotten it once a message without a body is complete.
    options = headers.get(b"connection", b"").lower().split(b",")
    return b"close" in [option.strip() for option in options]


def _content_length(headers: dict[bytes, bytes]) -> int | None:
    if b"transfer-encoding" in headers:
        return None
    return int(headers.get(b"content-length", b"0"))


class HeadCache:
    """Parsed heads by their bytes, at most `limits.head_cache_entries` of them."""

    def __init__(self, limits: HttpSettings, certificate: bytes | None = None) -> None:
        """certificate: of the clients whose heads these are, verified, in DER; the heads have it as
        the header CERTIFICATE, which is no name that a client could send."""
        self._limits = limits
        self._certificate = certificate
        self._heads: dict[bytes, Head] = {}
        self.known = self._heads.get
        """The head that these bytes were parsed to, or None."""

    def parse(self, block: bytes) -> Head:
        """The head of `block`, parsed now or earlier. Raises as `parse_head`."""
        head = self._heads.get(block)
        if head is None:
            head = parse_head(block, self._limits)
            if self._certificate is not None:
                head.headers[CERTIFICATE] = self._certificate
            if len(block) <= _MAX_KEPT_BYTES:
                if len(self._heads) >= self._limits.head_cache_entries:
                    self._heads.clear()
                self._heads[block] = head
        return head
