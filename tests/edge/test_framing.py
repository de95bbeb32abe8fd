"""Messages that mean two things, or nothing: refused with one answer, and nothing read behind it."""

import time
from collections.abc import Iterator

import pytest

from tests.edge.wire import Answer, Echo, Served, assert_problem, parse_answer, request

HIDDEN = request("GET", "/hidden")
START = "POST / HTTP/1.1\r\nHost: here\r\n"


class Listening:
    """A server of one test; `ask` says what became of some bytes."""

    def __init__(self, server: Served, echo: Echo) -> None:
        self.server = server
        self.echo = echo

    def ask(self, raw: bytes) -> tuple[Answer, bytes]:
        """The first answer, and everything behind it up to the end of the connection."""
        with self.server.connect() as client:
            client.send(raw)
            return parse_answer(client.rest())

    def refuses(self, raw: bytes, *statuses: int) -> Answer:
        """Whether `raw` gets one of `statuses`, the end, and never reaches the application."""
        answer, rest = self.ask(raw)
        assert answer.status in statuses
        assert_problem(answer, answer.status, answer.json()["code"])
        assert (rest, self.echo.seen) == (b"", [])
        return answer


@pytest.fixture
def listening() -> Iterator[Listening]:
    echo = Echo()
    with Served(echo, head_timeout_s=0.3, body_timeout_s=0.3, min_body_bytes_per_s=1) as server:
        yield Listening(server, echo)


def head(*lines: str) -> bytes:
    return (START + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode("latin-1")


def chunks(text: str) -> bytes:
    return head("Transfer-Encoding: chunked") + text.encode("latin-1")


@pytest.mark.parametrize("swapped", [False, True])
def test_ht_01_two_lengths_are_ambiguous(listening: Listening, swapped: bool) -> None:
    """Content-Length beside Transfer-Encoding is refused and the request hidden in it not served."""
    lengths = ["Content-Length: 4", "Transfer-Encoding: chunked"]
    raw = head(*(reversed(lengths) if swapped else lengths)) + b"0\r\n\r\n" + HIDDEN

    answer = listening.refuses(raw, 400)

    assert answer.json()["code"] == "ambiguous_length"


@pytest.mark.parametrize(
    "lines",
    [
        *(["Content-Length: 3", "Content-Length: 5"], ["Content-Length: 3", "Content-Length: 3"]),
        *(["Content-Length: 3, 3"], ["Content-Length: +3"], ["Content-Length: -1"]),
        *(["Content-Length: 0x3"], ["Content-Length:"], ["Content-Length: 3.0"]),
        *(["Content-Length: 3 3"], ["Content-Length: \u00b3"]),
    ],
    ids=str,
)
def test_ht_02_length_must_be_one_number(listening: Listening, lines: list[str]) -> None:
    """A length that is repeated, signed, listed or no decimal number is refused."""
    listening.refuses(head(*lines) + b"abc" + HIDDEN, 400)


@pytest.mark.parametrize("length", ["1" + "0" * 20, "1" + "0" * 19, "1" * 5000, "16777217"])
def test_ht_03_promised_length_is_bounded(listening: Listening, length: str) -> None:
    """A promise larger than a body may be is refused before any of it comes."""
    listening.refuses(head(f"Content-Length: {length}"), 400, 413)


def test_ht_03_body_that_stops_is_given_up(listening: Listening) -> None:
    """A body that stays shorter than promised is refused at its deadline; nothing was run."""
    answer = listening.refuses(head("Content-Length: 100") + b"abc", 408)

    assert answer.json()["code"] == "request_timeout"


@pytest.mark.parametrize(
    "line",
    [
        *("Transfer-Encoding: xchunked", "Transfer-Encoding: chunked, identity"),
        *("Transfer-Encoding : chunked", "Transfer-Encoding: identity", "Transfer-Encoding: gzip"),
        *("Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, chunked"),
        *("Transfer-Encoding: \x0bchunked", "Transfer-Encoding: chunked;a", "Transfer-Encoding:"),
    ],
)
def test_ht_04_only_one_transfer_coding_is_known(listening: Listening, line: str) -> None:
    """Any transfer coding but `chunked`, however it is disguised, is refused."""
    listening.refuses(head(line) + b"0\r\n\r\n" + HIDDEN, 400, 501)


def test_ht_04_http_1_0_has_no_transfer_coding(listening: Listening) -> None:
    """Chunks in HTTP/1.0 are a fault: an older proxy would not have seen them."""
    raw = chunks("0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")

    listening.refuses(raw + HIDDEN, 400)


@pytest.mark.parametrize(
    "text",
    [
        *("3\r\nabcXX0\r\n\r\n", "3\r\nabcXX", "-1\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\nabc\r\n"),
        *("3\nabc\r\n0\r\n\r\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabc\r\n0\n\r\n", "0\r\n\n"),
        *("\r\n", "g\r\n", "0x3\r\nabc\r\n", " 3\r\nabc\r\n", "3 \r\nabc\r\n", "3;\nabc\r\n"),
        *("3\r\nabc\r\n\r\n", "3\rabc\r\n", "0\r\nX\r\n\r\n", "0\r\n X: y\r\n\r\n"),
    ],
)
def test_ht_05_broken_chunks_are_refused(listening: Listening, text: str) -> None:
    """Chunks that do not keep to the grammar by the byte are refused."""
    listening.refuses(chunks(text) + HIDDEN, 400)


def test_ht_06_many_small_chunks_cost_little(listening: Listening) -> None:
    """A hundred thousand one-byte chunks are answered within half a second."""
    started = time.monotonic()
    answer, _ = listening.ask(chunks("1\r\na\r\n" * 100_000 + "0\r\n\r\n"))

    assert answer.status == 413
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "1;" + "a" * 1_000_000 + "\r\nb\r\n0\r\n\r\n",
        "0\r\nX: " + "a" * 1_000_000 + "\r\n\r\n",
        "0\r\n" + "X: a\r\n" * 200_000 + "\r\n",
    ],
    ids=["extension", "trailer", "trailers"],
)
def test_ht_06_framing_has_a_limit(listening: Listening, text: str) -> None:
    """A megabyte of chunk extensions or trailers is refused."""
    listening.refuses(chunks(text), 400, 431)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\nHost: here\n\n",
        b"GET / HTTP/1.1\r\nHost: here\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\n\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nX\xe9: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nX Y: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\n: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nX\r\n\r\n",
    ],
)
def test_ht_07_lines_of_the_head_are_strict(listening: Listening, raw: bytes) -> None:
    """Bare line feeds, folded lines, control bytes and odd names are refused."""
    listening.refuses(raw, 400)


@pytest.mark.parametrize(
    "lines",
    [
        *(["Content_Length: 3"], ["X_Forwarded_User: root"]),
        ["Authorization: Bearer a", "Authorization: Bearer b"],
        ["Content-Type: application/json", "content-type: text/plain"],
        ["Serving-Timeout-Ms: 1", "Serving-Timeout-Ms: 2"],
        ["Inference-Header-Content-Length: 1", "Inference-Header-Content-Length: 2"],
    ],
    ids=str,
)
def test_ht_08_headers_cannot_be_doubled(listening: Listening, lines: list[str]) -> None:
    """Two values where one is meant, and names that a proxy may rewrite to another, are refused."""
    listening.refuses(head(*lines), 400)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        *(
            b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host
            for host in (b"", b"a b", b"a/b", b"a?b", b"u@a", b"a" * 300, b"a:b", b"[::1", b"a,b")
        ),
        b"GET /\r\n\r\n",
        b"GET /\r\n",
        b"GET / HTTP/3.7\r\nHost: here\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: here\r\n\r\n",
        b"GET / http/1.1\r\nHost: here\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_ht_10_host_and_version_are_required(listening: Listening, raw: bytes) -> None:
    """Exactly one valid Host and HTTP/1.0 or 1.1; anything else is refused."""
    listening.refuses(raw, 400, 505)


@pytest.mark.parametrize("host", ["a", "a.b-c_d:80", "127.0.0.1:8000", "[::1]:8000", "a" * 255])
def test_ht_10_valid_hosts_are_served(listening: Listening, host: str) -> None:
    """Names and addresses with or without a port are fine."""
    answer, _ = listening.ask(request("GET", "/", "Connection: close", host=host))

    assert answer.status == 200


@pytest.mark.parametrize("method", ["FOO", "post", "Get", "A" * 10_240, "GET\t", "(", ""])
def test_ht_11_unknown_methods_are_refused(listening: Listening, method: str) -> None:
    """A method that HTTP does not know is a broken message."""
    listening.refuses(request(method, "/") + HIDDEN, 400)


def test_ht_12_endless_target_is_refused(listening: Listening) -> None:
    """A target of a megabyte gets 414."""
    listening.refuses(request("GET", "/" + "a" * 1_000_000), 414)


def test_ht_12_target_is_ascii(listening: Listening) -> None:
    """Bytes beyond ASCII in a target, such as full-width dots, are refused."""
    listening.refuses("GET /\uff0e\uff0e/a HTTP/1.1\r\nHost: here\r\n\r\n".encode(), 400)


@pytest.mark.parametrize(
    "target",
    [
        *("http://other/path", "HTTP://here/", "here@evil", "@evil", "path", "*"),
        *("here:80", "?a=b", "\\path"),
    ],
)
def test_ht_14_ht_15_target_must_be_a_path(listening: Listening, target: str) -> None:
    """An absolute address, an authority, or anything without a leading slash is refused."""
    listening.refuses(request("GET", target) + HIDDEN, 400)


def test_ht_27_oversize_promise_gets_no_100(listening: Listening) -> None:
    """`Expect: 100-continue` with too large a length gets its 413 without being told to go on."""
    answer = listening.refuses(head("Expect: 100-continue", "Content-Length: 99999999"), 413)

    assert answer.json()["code"] == "body_too_large"
