"""Header blocks: what is a request, what is remembered, and blocks of ours that need no table."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.edge.http2.fields import (
    HeadReader,
    OversizedHead,
    RequestHead,
    encode_fields,
    field_prefix,
    head_of,
)
from serving.edge.http2.frames import ConnectionFault, ErrorCode, StreamFault
from tests.edge.http2.stand import REQUEST
from tests.hostile.http2_wire import block, integer, literal

Fields = list[tuple[bytes, bytes]]

NAMES = st.from_regex(rb"[a-z0-9-]{1,40}", fullmatch=True).filter(
    lambda name: (
        name not in (b"te", b"host", b"content-length", b"upgrade", b"connection", b"keep-alive")
    )
)
VALUES = st.binary(max_size=200).map(
    lambda value: bytes(byte for byte in value if byte not in b"\0\r\n").strip(b" \t")
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def a_reader(most: int = 32 * 1024) -> HeadReader:
    return HeadReader(max_list_bytes=most, read=lambda _fields: None)


def with_fields(*more: tuple[bytes, bytes]) -> Fields:
    return [*REQUEST, *more]


def without(name: bytes) -> Fields:
    return [each for each in REQUEST if each[0] != name]


@given(st.lists(st.tuples(NAMES | st.just(b":status"), VALUES | st.just(b"200")), max_size=8))
def test_blocks_of_ours_mean_what_they_were_made_of(made: Fields) -> None:
    """Any decoder reads back the fields, in order, and its table is as empty as before."""
    decoder = hpack.Decoder()

    assert made == list(decoder.decode(encode_fields(made), raw=True))
    assert len(decoder.header_table.dynamic_entries) == 0


@given(FIELDS, NAMES, st.binary(max_size=126).map(lambda value: value.replace(b"\0", b"-")))
def test_a_block_grows_by_a_prefix_a_length_and_a_value(
    made: Fields, name: bytes, value: bytes
) -> None:
    """A field whose value is new each time can be appended to a block that was made once."""
    grown = encode_fields(made) + field_prefix(name) + bytes((len(value),)) + value

    assert [*made, (name, value)] == list(hpack.Decoder().decode(grown, raw=True))


@given(st.lists(FIELDS, min_size=1, max_size=6), st.lists(st.integers(0, 5), max_size=20))
def test_what_is_remembered_is_what_would_be_read(kinds: list[Fields], order: list[int]) -> None:
    """Whatever a client's table does, each block means what its encoder was given."""
    reader, encoder = a_reader(), hpack.Encoder()

    for which in order:
        fields = kinds[which % len(kinds)]
        head = reader.read(encoder.encode(with_fields(*fields), huffman=which % 2 == 0))

        assert (
            head.method,
            head.path,
            head.authority,
            head.scheme,
        ) == (b"POST", b"/answer", b"here", b"http")
        assert tuple(fields) == head.fields


def test_the_same_block_is_the_same_head() -> None:
    """Once the table has settled, nothing is made anew: whoever keeps something by identity finds it."""
    reader, encoder = a_reader(), hpack.Encoder()
    fields = with_fields((b"authorization", b"Bearer x"))
    reader.read(encoder.encode(fields))

    first = reader.read(encoder.encode(fields))

    assert first is reader.read(encoder.encode(fields))


def test_a_head_is_forgotten_when_the_table_changes() -> None:
    """The same bytes mean something else after an entry was added: here, the newest entry."""
    reader = a_reader()
    newest = integer(62, 7, 0x80)
    plain = block(REQUEST)
    reader.skip(literal(b"one", b"1", 0x40))
    before = reader.read(plain + newest)

    assert before is reader.read(plain + newest)
    reader.read(plain + literal(b"two", b"2", 0x40))
    assert reader.read(plain + newest).fields == ((b"two", b"2"),)


def test_a_head_is_forgotten_when_the_table_shrinks() -> None:
    """A smaller table has lost entries: a reference to one is not answered from memory."""
    reader, plain = a_reader(), block(REQUEST)
    newest = plain + integer(62, 7, 0x80)
    reader.skip(literal(b"one", b"1", 0x40))
    reader.read(newest)
    reader.skip(integer(0, 5, 0x20))

    with pytest.raises(ConnectionFault) as caught:
        reader.read(newest)

    assert caught.value.code == ErrorCode.COMPRESSION_ERROR


def test_what_is_remembered_is_bounded() -> None:
    """Long blocks push each other out: a connection keeps no more than one list of fields may be."""
    reader = a_reader(2000)
    blocks = [block([*REQUEST, (b"which", b"%d" % which * 300)]) for which in range(9)]

    first = [reader.read(each) for each in blocks]

    assert reader.read(blocks[-1]) is first[-1]
    assert reader.read(blocks[0]) is not first[0]


def test_a_malformed_block_is_malformed_again() -> None:
    """Also when it is remembered."""
    reader, bad = a_reader(), block(without(b":path"))

    for _ in range(3):
        with pytest.raises(StreamFault):
            reader.read(bad)


@pytest.mark.parametrize(
    "fields",
    [
        *(without(name) for name in (b":method", b":scheme", b":path")),
        with_fields((b":path", b"/late")),
        with_fields((b"a", b"1"), (b":authority", b"late")),
        with_fields((b":status", b"200")),
        with_fields((b":protocol", b"websocket")),
        [*REQUEST, REQUEST[0]],
        with_fields((b"Upper", b"1")),
        with_fields((b"", b"1")),
        with_fields((b"a b", b"1")),
        with_fields((b"a", b"1\r\nb: 2")),
        with_fields((b"a", b"\0")),
        with_fields((b"a", b" padded")),
        with_fields((b"a", b"padded\t")),
        with_fields((b"connection", b"close")),
        with_fields((b"transfer-encoding", b"chunked")),
        with_fields((b"upgrade", b"h2c")),
        with_fields((b"te", b"gzip")),
        with_fields((b"content-length", b"1"), (b"content-length", b"2")),
        with_fields((b"content-length", b"-1")),
        with_fields((b"content-length", b"")),
        with_fields((b"host", b"elsewhere")),
        [*without(b":path"), (b":path", b"")],
        [*without(b":path"), (b":path", b"*")],
        [*without(b":path"), (b":path", b"/a b")],
        [*without(b":method"), (b":method", b"CONNECT")],
        [*without(b":method"), (b":method", b"PO ST")],
    ],
    ids=str,
)
def test_what_is_no_request(fields: Fields) -> None:
    """RFC 9113, 8.2 and 8.3: such a request is malformed and ends its stream, not the connection."""
    with pytest.raises(StreamFault) as caught:
        head_of(tuple(fields))

    assert caught.value.code == ErrorCode.PROTOCOL_ERROR


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=12)), max_size=6))
def test_any_fields_are_a_request_or_malformed(more: Fields) -> None:
    """Nothing else comes of them, and what passes has no name that HTTP/1.1 would have to refuse."""
    try:
        head = head_of(tuple(with_fields(*more)))
    except StreamFault:
        return

    assert isinstance(head, RequestHead)
    assert all(name == name.lower() and not name.startswith(b":") for name, _ in head.fields)
    assert not any(byte in value for _, value in head.fields for byte in b"\0\r\n")


@pytest.mark.parametrize(
    ("more", "expected"),
    [((), b"here"), (((b"host", b"here"),), b"here")],
)
def test_a_host_may_repeat_the_authority(
    more: tuple[tuple[bytes, bytes], ...], expected: bytes
) -> None:
    """RFC 9113, 8.3.1: the same name twice is no contradiction."""
    assert expected == head_of(tuple(with_fields(*more))).authority


def test_a_host_stands_for_a_missing_authority() -> None:
    """As requests that were translated from HTTP/1.1 have it."""
    assert head_of((*without(b":authority"), (b"host", b"there"))).authority == b"there"


def test_a_content_length_is_read() -> None:
    """Said twice the same, it is one."""
    twice = with_fields((b"content-length", b"12"), (b"content-length", b"12"))

    assert head_of(tuple(twice)).content_length == 12
    assert head_of(REQUEST).content_length is None


def test_a_list_above_the_limit_keeps_the_table_in_step() -> None:
    """It is refused alone: what it added to the table is there for the blocks behind it."""
    reader = a_reader(400)

    with pytest.raises(OversizedHead):
        reader.read(block(REQUEST) + literal(b"long", b"x" * 400, 0x40))
    with pytest.raises(OversizedHead):
        reader.read(block(REQUEST) + integer(62, 7, 0x80))
    assert reader.read(block(REQUEST)).path == b"/answer"


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (integer(0, 7, 0x80), ErrorCode.COMPRESSION_ERROR),
        (integer(99, 7, 0x80), ErrorCode.COMPRESSION_ERROR),
        (integer(5000, 5, 0x20), ErrorCode.COMPRESSION_ERROR),
        (b"\x40\x05abc", ErrorCode.COMPRESSION_ERROR),
        (b"\x40\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ErrorCode.COMPRESSION_ERROR),
        (b"\x00\x81\xff\x01a", ErrorCode.COMPRESSION_ERROR),
        (literal(b"long", b"x" * 4000, 0x40) + integer(62, 7, 0x80) * 1000,
         ErrorCode.ENHANCE_YOUR_CALM),
    ],
    ids=["zero", "beyond", "size", "cut", "endless", "huffman", "bomb"],
)  # fmt: skip
def test_a_block_that_cannot_be_read_ends_the_connection(bad: bytes, code: ErrorCode) -> None:
    """The tables are not in step any more, or it would be too much to read."""
    with pytest.raises(ConnectionFault) as caught:
        a_reader().read(bad)

    assert caught.value.code == code


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_are_a_head_or_a_fault(blocks: list[bytes]) -> None:
    """Nothing that a client can send raises anything else."""
    reader = a_reader(1000)

    for each in blocks:
        try:
            reader.read(each)
        except (StreamFault, OversizedHead):
            continue
        except ConnectionFault:
            return
