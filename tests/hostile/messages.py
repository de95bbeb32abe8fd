"""Broken messages by the case of the catalogue that names them.

Each is harmless but for its framing: whatever took it for a message would answer it with 200.
"""

from dataclasses import dataclass
from typing import Final

START: Final = "GET /v2/health/live HTTP/1.1\r\n"


@dataclass(frozen=True, slots=True)
class Broken:
    """Bytes that are no message, and the statuses that say so. late: by a deadline."""

    raw: bytes
    statuses: tuple[int, ...] = (400,)
    late: bool = False


def head(*lines: str, host: str = "Host: here\r\n") -> bytes:
    return (START + host + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode("latin-1")


def chunked(text: str) -> bytes:
    return head("Transfer-Encoding: chunked") + text.encode("latin-1")


AMBIGUOUS: Final = [
    Broken(head("Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    Broken(head("Transfer-Encoding: chunked", "Content-Length: 4") + b"0\r\n\r\n"),
    Broken(head("Content-Length: 0", "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
]

LENGTHS: Final = [
    Broken(head(*lines) + b"abc")
    for lines in (
        *(["Content-Length: 3", "Content-Length: 5"], ["Content-Length: 3", "Content-Length: 3"]),
        *(["Content-Length: 3, 3"], ["Content-Length: +3"], ["Content-Length: -1"]),
        *(["Content-Length: 0x3"], ["Content-Length:"], ["Content-Length: 3.0"]),
        *(["Content-Length: 3 3"], ["Content-Length: \u00b3"]),
    )
]

PROMISES: Final = [
    *(
        Broken(head(f"Content-Length: {length}"), (400, 413))
        for length in ("1" + "0" * 20, "1" + "0" * 19, "1" * 5000, "16777217")
    ),
    Broken(head("Content-Length: 100") + b"abc", (408,), late=True),
]

CODINGS: Final = [
    *(
        Broken(head(line) + b"0\r\n\r\n", (400, 501))
        for line in (
            *("Transfer-Encoding: xchunked", "Transfer-Encoding: chunked, identity"),
            *("Transfer-Encoding : chunked", "Transfer-Encoding: identity"),
            *("Transfer-Encoding: gzip", "Transfer-Encoding: gzip, chunked"),
            *("Transfer-Encoding: chunked, chunked", "Transfer-Encoding: \x0bchunked"),
            *("Transfer-Encoding: chunked;a", "Transfer-Encoding:"),
        )
    ),
    Broken(chunked("0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")),
]

CHUNKS: Final = [
    Broken(chunked(text))
    for text in (
        *("3\r\nabcXX0\r\n\r\n", "3\r\nabcXX", "-1\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\nabc\r\n"),
        *("3\nabc\r\n0\r\n\r\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabc\r\n0\n\r\n", "0\r\n\n"),
        *("\r\n", "g\r\n", "0x3\r\nabc\r\n", " 3\r\nabc\r\n", "3 \r\nabc\r\n", "3;\nabc\r\n"),
        *("3\r\nabc\r\n\r\n", "3\rabc\r\n", "0\r\nX\r\n\r\n", "0\r\n X: y\r\n\r\n"),
    )
]

LARGE_FRAMING: Final = [
    Broken(chunked("1\r\na\r\n" * 100_000 + "0\r\n\r\n"), (413,)),
    Broken(chunked("1;" + "a" * 1_000_000 + "\r\nb\r\n0\r\n\r\n"), (400, 431)),
    Broken(chunked("0\r\nX: " + "a" * 1_000_000 + "\r\n\r\n"), (400, 431)),
    Broken(chunked("0\r\n" + "X: a\r\n" * 200_000 + "\r\n"), (400, 431)),
]

LINES: Final = [
    Broken(START.encode("ascii") + text)
    for text in (
        *(b"Host: here\n\n", b"Host: here\nX: y\r\n\r\n", b"Host: here\r\n\n"),
        *(b"Host: here\r\nX: a\r\n b\r\n\r\n", b"Host: here\r\nX: a\x00b\r\n\r\n"),
        *(b"Host: here\r\nX: a\rb\r\n\r\n", b"Host: here\r\nX\xe9: a\r\n\r\n"),
        *(
            b"Host: here\r\nX Y: a\r\n\r\n",
            b"Host: here\r\n: a\r\n\r\n",
            b"Host: here\r\nX\r\n\r\n",
        ),
    )
]

NAMES: Final = [
    Broken(head(*lines))
    for lines in (
        *(["Content_Length: 3"], ["X_Forwarded_User: root"]),
        ["Authorization: Bearer a", "Authorization: Bearer b"],
        ["Content-Type: application/json", "content-type: text/plain"],
        ["Serving-Timeout-Ms: 1", "Serving-Timeout-Ms: 2"],
        ["Inference-Header-Content-Length: 1", "Inference-Header-Content-Length: 2"],
    )
]

HOSTS: Final = [
    *(
        Broken(head(host=host), (400, 505))
        for host in (
            *("", "Host: a\r\nHost: b\r\n", "Host: a\r\nHost: a\r\n", "Host:\r\n", "Host: a b\r\n"),
            *("Host: a/b\r\n", "Host: a?b\r\n", "Host: u@a\r\n", f"Host: {'a' * 300}\r\n"),
            *("Host: a:b\r\n", "Host: [::1\r\n", "Host: a,b\r\n"),
        )
    ),
    *(
        Broken(raw, (400, 505))
        for raw in (
            b"GET /v2/health/live\r\n\r\n",
            b"GET /v2/health/live\r\n",
            head().replace(b"HTTP/1.1", b"HTTP/3.7"),
            head().replace(b"HTTP/1.1", b"HTTP/2.0"),
            head().replace(b"HTTP/1.1", b"http/1.1"),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        )
    ),
]

METHODS: Final = [
    *(
        Broken(head().replace(b"GET", method))
        for method in (b"FOO", b"post", b"Get", b"A" * 10_240, b"GET\t", b"(", b"")
    ),
    *(
        Broken(head("Connection: close").replace(b"GET", method), (405,))
        for method in (b"TRACE", b"CONNECT")
    ),
]

BY_CASE: Final = {
    "ht_01": AMBIGUOUS,
    "ht_02": LENGTHS,
    "ht_03": PROMISES,
    "ht_04": CODINGS,
    "ht_05": CHUNKS,
    "ht_06": LARGE_FRAMING,
    "ht_07": LINES,
    "ht_08": NAMES,
}
"""Those that concern whoever frames messages: proxies too."""
