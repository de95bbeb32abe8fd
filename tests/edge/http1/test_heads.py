import gc

import pytest
from hypothesis import given

from serving.edge.http1.heads import SINGLE, Head, HeadCache, check_unfinished, parse_head
from serving.errors import (
    AmbiguousLength,
    BodyTooLarge,
    CallerError,
    HeadTooLarge,
    MessageInvalid,
    ProtocolUnsupported,
    ServingError,
    TargetTooLong,
)
from serving.port_settings import HttpSettings
from tests.edge.wire import request
from tests.strategies import heads

LIMITS = HttpSettings()


def meaning(head: Head) -> tuple[object, ...]:
    """Everything that a head says."""
    headers = sorted(head.headers.items())
    body = (head.content_length, head.expects_continue)
    return (head.method, head.path, head.query, headers, head.keep_alive, body)


def judged(cache: HeadCache, block: bytes) -> tuple[object, ...]:
    try:
        return meaning(cache.parse(block))
    except CallerError as error:
        return (type(error), error.message)


def parsed(*headers: str, method: str = "GET", target: str = "/") -> Head:
    return parse_head(request(method, target, *headers), LIMITS)


@given(heads())
def test_a_head_always_means_the_same(block: bytes) -> None:
    """The meaning, or the refusal, depends on the bytes alone: remembered, parsed again, elsewhere."""
    cache = HeadCache(LIMITS)

    assert judged(cache, block) == judged(cache, block) == judged(HeadCache(LIMITS), block)


@given(heads())
def test_a_valid_head_is_strict(block: bytes) -> None:
    """What passes has one Host, a path, no doubled or underscored name and a known framing."""
    try:
        head = parse_head(block, LIMITS)
    except CallerError:
        return

    names = [line.partition(b":")[0].lower() for line in block[:-4].split(b"\r\n")[1:]]
    assert names.count(b"host") == 1
    assert head.path.startswith("/")
    assert all(names.count(name) < 2 for name in SINGLE)
    assert not any(b"_" in name for name in names)
    assert head.content_length is None or head.content_length <= LIMITS.max_body_bytes


def test_head_is_taken_apart() -> None:
    """Method, path and query as sent; header names in lower case; repeated lists joined."""
    head = parsed("X-A: 1", "x-a: 2", "Content-Length: 7", method="POST", target="/a%2Fb?c=d?e")

    assert (head.method, head.path, head.query) == ("POST", "/a%2Fb", "c=d?e")
    assert head.headers == {b"host": b"here", b"x-a": b"1, 2", b"content-length": b"7"}
    assert (head.content_length, head.keep_alive, head.expects_continue) == (7, True, False)


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        ("Connection: keep-alive", True),
        ("Connection: close", False),
        ("Connection: Upgrade,  CLOSE", False),
        ("Connection: closed", True),
    ],
)
@pytest.mark.parametrize("length", ["X: y", "Content-Length: 0", "Content-Length: 3"])
def test_close_is_understood(header: str, length: str, kept: bool) -> None:
    """`Connection: close` is heard with and without a body, in a list, in any case."""
    assert kept == parsed(header, length).keep_alive


def test_http_1_0_closes_and_expects_nothing() -> None:
    """HTTP/1.0 gets one answer per connection and no interim answer."""
    block = request("GET", "/", "Connection: keep-alive", "Expect: 100-continue")

    head = parse_head(block.replace(b"HTTP/1.1", b"HTTP/1.0"), LIMITS)

    assert (head.keep_alive, head.expects_continue) == (False, False)


def test_upgrade_is_declined_by_answering() -> None:
    """An offer to change the protocol is ignored."""
    head = parsed("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 2")

    assert (head.keep_alive, head.content_length) == (True, 2)


REFUSED: dict[str, tuple[bytes, type[ServingError]]] = {
    "two lengths": (
        request("GET", "/", "Content-Length: 3", "Transfer-Encoding: chunked"),
        AmbiguousLength,
    ),
    "unknown coding": (request("GET", "/", "Transfer-Encoding: gzip"), MessageInvalid),
    "underscore": (request("GET", "/", "A_b: c"), MessageInvalid),
    "bad host": (request("GET", "/", host="a b"), MessageInvalid),
    "absolute target": (request("GET", "http://here/"), MessageInvalid),
    "large body": (request("GET", "/", "Content-Length: 16777217"), BodyTooLarge),
    "long target": (request("GET", "/" + "a" * 8192), TargetTooLong),
    "long method": (request("A" * 9000, "/"), MessageInvalid),
    "long header": (request("GET", "/", "A: " + "b" * 8192), HeadTooLarge),
    "many headers": (request("GET", "/", *["A: b"] * 100), HeadTooLarge),
    "long head": (request("GET", "/", *["A: " + "b" * 8000] * 5), HeadTooLarge),
    "unfinished": (b"GET / HTTP/1.1\r\nHost: here", MessageInvalid),
}


@pytest.mark.parametrize(("block", "error"), REFUSED.values(), ids=REFUSED)
def test_refusal_says_what_is_wrong(block: bytes, error: type[ServingError]) -> None:
    """Each kind of fault has its error, whose words repeat nothing of the input."""
    with pytest.raises(error) as caught:
        parse_head(block, LIMITS)

    assert type(caught.value) is error
    assert "bbbb" not in caught.value.message


@pytest.mark.parametrize(
    ("start", "error"),
    [
        (b"GET /" + b"a" * 9000, TargetTooLong),
        (b"A" * 9000, MessageInvalid),
        (b"GET / HTTP/1.1\r\nHost: here\n", MessageInvalid),
        (b"GET /\r\n", ProtocolUnsupported),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 7000, HeadTooLarge),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_beginning_that_cannot_be_mended_is_refused(
    start: bytes, error: type[ServingError]
) -> None:
    """What is wrong for ever is refused before the head is complete."""
    with pytest.raises(error):
        check_unfinished(start, LIMITS)


@given(heads())
def test_beginning_of_a_valid_head_is_never_refused(block: bytes) -> None:
    """No prefix of a head that would be served is refused."""
    try:
        parse_head(block, LIMITS)
    except CallerError:
        return

    for end in range(1, len(block)):
        check_unfinished(block[:end], LIMITS)


def test_beginning_of_a_head_at_its_limits_is_not_refused() -> None:
    """The limits count to the byte while a head comes in as when it is complete."""
    block = request("GET", "/" + "a" * 36, "A: " + "b" * 131)
    size = len(block) - len(b"\r\n\r\n")
    limits = HttpSettings(max_request_line_bytes=50, max_head_bytes=size)

    assert block.index(b"\r\n") == 50
    assert parse_head(block, limits).path == "/" + "a" * 36
    for end in range(1, len(block)):
        check_unfinished(block[:end], limits)
    for tighter in ({"max_request_line_bytes": 49}, {"max_head_bytes": size - 1}):
        with pytest.raises((HeadTooLarge, TargetTooLong)):
            check_unfinished(block[:-1], limits.model_copy(update=tighter))


def test_cache_returns_the_same_head() -> None:
    """A head seen before is not parsed again, so what was derived from it is kept."""
    cache = HeadCache(LIMITS)
    block = request("GET", "/")

    assert cache.known(block) is None
    assert cache.parse(block) is cache.parse(block) is cache.known(block)


def test_cache_is_bounded_in_entries() -> None:
    """The memory never holds more heads than it may."""
    cache = HeadCache(HttpSettings(head_cache_entries=8))
    blocks = [request("GET", f"/{number}") for number in range(30)]

    for block in blocks:
        cache.parse(block)

    assert 0 < sum(cache.known(block) is not None for block in blocks) <= 8


def test_cache_is_bounded_in_bytes() -> None:
    """Long heads are parsed each time: nobody can fill the memory with them."""
    cache = HeadCache(LIMITS)
    block = request("GET", "/", "A: " + "b" * 5000)

    cache.parse(block)

    assert cache.known(block) is None


def test_parsing_leaves_nothing_for_the_collector() -> None:
    """A head that nobody holds is gone at once: its parse makes no cycles."""
    parsed("X: y")
    gc.collect()
    gc.disable()
    try:
        for number in range(50):
            parse_head(request("GET", f"/{number}"), LIMITS)

        assert gc.collect() == 0
    finally:
        gc.enable()
