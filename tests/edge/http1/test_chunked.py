import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.edge.http1.chunked import ChunkedBody
from serving.errors import BodyTooLarge, HeadTooLarge, MessageInvalid, ServingError
from serving.port_settings import HttpSettings
from tests.strategies import chunked, segmentations

HEAD = b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"


def a_body(**limits: int) -> ChunkedBody:
    return ChunkedBody(HttpSettings.model_validate(limits))


def decode(segments: list[bytes]) -> tuple[bytes, bytes] | None:
    """The content and what came behind the body; None when it is not complete."""
    body = a_body()
    for number, segment in enumerate(segments):
        rest = body.feed(segment)
        if rest is not None:
            return bytes(body.content()), rest + b"".join(segments[number + 1 :])
    return None


class Oracle:
    """What llhttp makes of a chunked body."""

    def __init__(self) -> None:
        self.content = b""
        self.complete = False

    def on_body(self, part: bytes) -> None:
        self.content += part

    def on_message_complete(self) -> None:
        self.complete = True

    @classmethod
    def decode(cls, encoded: bytes) -> bytes | None:
        """The content; None when the body is refused or not complete."""
        oracle = cls()
        try:
            httptools.HttpRequestParser(oracle).feed_data(HEAD + encoded)
        except httptools.HttpParserError:
            return None
        return oracle.content if oracle.complete else None


@st.composite
def sent(draw: st.DrawFn) -> tuple[bytes, bytes, list[bytes]]:
    """Some content, what follows it, and both as they arrive."""
    content, behind = draw(st.binary(max_size=300)), draw(st.binary(max_size=20))
    return content, behind, draw(segmentations(draw(chunked(content)) + behind))


@given(sent())
def test_any_chunking_decodes_to_its_content(drawn: tuple[bytes, bytes, list[bytes]]) -> None:
    """However content is chunked and cut, it comes out whole, and so does what is behind it."""
    content, behind, segments = drawn

    assert (content, behind) == decode(segments)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A chunked body with a few bytes changed, added or taken away."""
    encoded = bytearray(draw(chunked(draw(st.binary(max_size=30)))))
    junk = st.one_of(st.sampled_from(list(b'\r\n;=0 1aF-\x00"\t:x')), st.integers(0, 255))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(encoded)))
        encoded[at : at + draw(st.integers(0, 2))] = bytes(draw(st.lists(junk, max_size=2)))
    return bytes(encoded)


@given(damaged())
def test_nothing_is_accepted_that_llhttp_refuses(encoded: bytes) -> None:
    """Our decoder is at least as strict as llhttp, and where it decodes it decodes the same."""
    try:
        decoded = decode([encoded])
    except ServingError:
        return
    if decoded is None:
        return

    content, rest = decoded
    assert content == Oracle.decode(encoded[: len(encoded) - len(rest)])


def test_content_has_a_limit() -> None:
    """Content at the limit is taken; a chunk beyond it is refused by its size, before it comes."""
    encoded = b"8\r\n12345678\r\n2\r\n90\r\n0\r\n\r\n"

    assert a_body(max_body_bytes=10).feed(encoded) == b""
    body = a_body(max_body_bytes=9)
    with pytest.raises(BodyTooLarge):
        body.feed(encoded[: len(b"8\r\n12345678\r\n2\r\n")])


@pytest.mark.parametrize("end", [b"\r\n", b""], ids=["complete", "endless"])
def test_extensions_have_a_limit(end: bytes) -> None:
    """Extensions may take 32 KiB more than the content, whether their line ends or not."""
    assert a_body().feed(b"1;" + b"a" * 32_000 + end) is None
    with pytest.raises(HeadTooLarge):
        a_body().feed(b"1;" + b"a" * 33_000 + end)


def test_trailers_have_a_limit() -> None:
    """Trailers are bounded together, in any number of lines and segments."""
    body = a_body()
    trailer = b"X: aaaaaaaa\r\n"
    for part in [b"0\r\n", *[trailer] * 2000]:
        assert body.feed(part) is None

    with pytest.raises(HeadTooLarge):
        body.feed(trailer * 1000)


def test_framing_may_grow_with_the_content() -> None:
    """Small chunks pass as long as their framing is no more than what they carry."""
    chunk = b"8\r\n12345678\r\n"
    body = a_body()

    assert body.feed(chunk * 50_000 + b"0\r\n\r\n") == b""
    assert len(body.content()) == 400_000


def test_tiny_chunks_have_a_limit() -> None:
    """A body in one-byte chunks is refused as too large for what it is, soon."""
    body = a_body()
    with pytest.raises(BodyTooLarge):
        body.feed(b"1\r\na\r\n" * 10_000)


def test_wrong_end_of_a_chunk_is_refused_at_its_first_byte() -> None:
    """A chunk longer than its size is refused without waiting for a line end."""
    body = a_body()
    assert body.feed(b"3\r\nabc\r") is None
    body = a_body()
    with pytest.raises(MessageInvalid):
        body.feed(b"3\r\nabcX")
