"""Messages in a byte stream: any cut of it gives the same ones, and none is larger than allowed."""

import gzip
import tracemalloc
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.batches import Buffer
from serving.edge.compression import MAX_PACKED_BYTES, MIN_PACKED_BYTES
from serving.edge.grpc.framing import ENCODINGS, MessageReader, framed, only_message, unpacked
from serving.errors import BodyTooLarge, EncodingInvalid, MessageInvalid, ServingError

MOST = 4096


def messages_of(
    content: bytes, encoding: str | None = None, cuts: tuple[int, ...] = ()
) -> list[bytes]:
    """What a reader makes of `content`, cut at `cuts`."""
    reader = MessageReader(encoding, max_bytes=MOST)
    found: list[bytes] = []
    for start, end in pairwise((0, *sorted(cuts), len(content))):
        found += [bytes(message) for message in reader.feed(memoryview(content)[start:end])]
    assert reader.held_bytes == 0
    return found


@given(st.lists(st.binary(max_size=200), max_size=8), st.data())
def test_any_cut_gives_the_same_messages(messages: list[bytes], data: st.DataObject) -> None:
    """Messages come out as they went in, however their bytes arrive."""
    content = b"".join(map(framed, messages))
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=8).map(tuple))

    assert messages_of(content, cuts=cuts) == messages


def test_a_message_in_pieces_is_copied_once() -> None:
    """Receiving a long one takes little more memory than it has bytes."""
    message = bytes(4 * 1024 * 1024)
    content, step = memoryview(framed(message)), 16 * 1024
    reader, found = MessageReader(None, max_bytes=len(message)), list[Buffer]()

    tracemalloc.start()
    try:
        for at in range(0, len(content), step):
            found += reader.feed(content[at : at + step])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert found == [message]
    assert peak < 1.5 * len(message)


@given(st.binary(max_size=100), st.booleans())
def test_one_plain_message_is_recognised(message: bytes, cut: bool) -> None:
    """What is exactly one message is taken as it is; one byte more or less is not."""
    content = framed(message)

    assert only_message(content) == message
    assert only_message(content[:-1] if cut else content + b"\0") is None
    assert only_message(b"\1" + content[1:]) is None


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [0, MIN_PACKED_BYTES - 1, MIN_PACKED_BYTES, MOST])
def test_what_is_packed_is_unpacked(encoding: str, size: int) -> None:
    """Between its bounds a message is packed, and comes out again."""
    message = bytes(size)
    content = framed(message, encoding)

    assert messages_of(content, encoding) == [message]
    assert (content[0] == 1) is (size >= MIN_PACKED_BYTES)
    assert framed(bytes(MAX_PACKED_BYTES + 1), encoding)[0] == 0


def test_size_is_refused_before_the_message_comes() -> None:
    """The length in front of a message is enough."""
    reader = MessageReader(None, max_bytes=MOST)
    assert list(reader.feed(framed(bytes(MOST))[:-1])) == []

    with pytest.raises(BodyTooLarge):
        list(MessageReader(None, max_bytes=MOST).feed(b"\0" + (MOST + 1).to_bytes(4)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_message_that_unpacks_to_too_much_is_refused(encoding: str) -> None:
    """However small it is packed; at the limit it is taken."""
    pack = gzip.compress if encoding == "gzip" else zlib.compress

    assert unpacked(pack(bytes(MOST)), encoding, max_bytes=MOST) == bytes(MOST)
    with pytest.raises(BodyTooLarge):
        unpacked(pack(bytes(MOST + 1)), encoding, max_bytes=MOST)
    with pytest.raises(BodyTooLarge):
        unpacked(pack(bytes(10_000_000)), encoding, max_bytes=MOST)


WHOLE = gzip.compress(b"whole")
BROKEN: dict[str, tuple[bytes, type[ServingError]]] = {
    "flag": (b"\x02\0\0\0\0", MessageInvalid),
    "not gzip": (b"\x01\0\0\0\x04abcd", EncodingInvalid),
    "cut": (b"\x01" + (len(WHOLE) - 1).to_bytes(4) + WHOLE[:-1], EncodingInvalid),
    "more": (b"\x01" + (2 * len(WHOLE)).to_bytes(4) + WHOLE * 2, EncodingInvalid),
    "empty": (b"\x01\0\0\0\0", EncodingInvalid),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_messages_are_refused(name: str) -> None:
    """A flag that means nothing, and packed bytes that are none, too few, or too many."""
    content, kind = BROKEN[name]
    with pytest.raises(kind):
        messages_of(content, "gzip")


def test_packed_message_needs_a_name_for_its_packing() -> None:
    """Nobody guesses how it was packed."""
    with pytest.raises(MessageInvalid, match="grpc-encoding"):
        messages_of(b"\x01" + len(WHOLE).to_bytes(4) + WHOLE)
