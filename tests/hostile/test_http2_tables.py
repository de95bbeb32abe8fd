"""RFC 7541 at the gRPC port: field blocks that are broken, that lie about the table, or that are bombs."""

import time
from typing import Final

import hpack
import pytest

from serving.port_settings import GrpcSettings
from tests.hostile.http2_cases import GONE_S, Http2Case, asking, assert_answer
from tests.hostile.http2_wire import (
    END_HEADERS,
    MAX_FRAME,
    Code,
    Http2Client,
    block,
    continuation,
    data,
    headers,
    integer,
    literal,
)

BROKEN: Final = Code.COMPRESSION_ERROR
TABLE_BYTES: Final = 4096
ENTRY_BYTES: Final = 32
"""What RFC 7541 counts for an entry beside its name and value."""
FIRST: Final = 62
"""The index of the newest entry of the dynamic table."""
QUICK_S: Final = 0.5
LIST_BYTES: Final = GrpcSettings().max_metadata_bytes


def indexed(number: int) -> bytes:
    return integer(number, 7, 0x80)


def resized(size: int) -> bytes:
    """Says how large the table is from now on."""
    return integer(size, 5, 0x20)


BLOCKS: Final = {
    "index zero": indexed(0),
    "index beyond the tables": indexed(FIRST),
    "index far beyond the tables": indexed(2**31),
    "name beyond the tables": integer(FIRST, 6, 0x40) + b"\1a",
    "name far beyond the tables, not kept": integer(2**40, 4) + b"\1a",
    "number without an end": b"\xff" * 100,
    "number of many zeros": b"\xff" + b"\x80" * 1_000 + b"\1",
    "a frame of number": b"\xff" * MAX_FRAME,
    "name longer than the block": b"\0\5abcd",
    "value longer than the block": b"\0\1a\5abcd",
    "value of a terabyte": b"\0\1a" + integer(2**40, 7) + b"abcd",
    "no value": b"\0\1a",
    "no name": b"\0",
    "Huffman with its end": b"\0\1a\x84\xff\xff\xff\xff",
    "Huffman padded with zeros": b"\0\1a\x81\x00",
    "Huffman padded with a byte": b"\0\1a\x82\x1f\xff",
    "name with a broken Huffman": b"\0\x81\x00\1a",
    "table larger than was allowed": resized(TABLE_BYTES + 1),
    "a huge table": resized(2**32),
    "size after a field": indexed(2) + resized(0),
    "size at the end": block([(b"a", b"b")]) + resized(100),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_block_that_cannot_be_read_ends_the_connection(calls: Http2Case, case: str) -> None:
    """4.3: COMPRESSION_ERROR, as nobody knows what the table holds now; quickly."""
    used_s = calls.product.cpu_s()

    calls.is_fatal(headers(BLOCKS[case], 1), BROKEN)

    assert calls.product.cpu_s() - used_s < QUICK_S


@pytest.mark.parametrize("size", range(1, 12))
def test_block_that_is_cut_ends_the_connection(calls: Http2Case, size: int) -> None:
    """A field that is cut at any of its bytes is no field, in a CONTINUATION frame neither."""
    whole = literal(b"abcd", b"efghij")

    calls.is_fatal(headers(whole[:size], 1), BROKEN)
    calls.is_fatal(headers(whole[:1], 1, 0) + continuation(whole[1:size], 1), BROKEN)


def head_with(calls: Http2Case, token: bytes) -> bytes:
    """A good head whose credential is said by `token`, a piece of a block."""
    fields = [pair for pair in calls.fields() if pair[0] != b"authorization"]
    return block(fields) + token


def ask(connection: Http2Client, stream: int, head: bytes) -> int | None:
    """The status of gRPC that a call with this head gets."""
    connection.send(headers(head, stream, END_HEADERS), data(asking(), stream))
    return connection.reply(stream).grpc_status


def test_the_same_block_means_another_thing_when_the_table_has_changed(calls: Http2Case) -> None:
    """A remembered head never outlives the table it was read with: its token would be another's."""
    token = dict(calls.fields())[b"authorization"]
    newest = head_with(calls, indexed(FIRST))
    with calls.connect() as connection:
        assert ask(connection, 1, head_with(calls, literal(b"authorization", token, 0x40))) == 0
        assert [ask(connection, stream, newest) for stream in (3, 5)] == [0, 0]
        assert (
            ask(connection, 7, head_with(calls, literal(b"authorization", b"Bearer a", 0x40))) == 16
        )
        assert [ask(connection, stream, newest) for stream in (9, 11)] == [16, 16]
        older = head_with(calls, indexed(FIRST + 1))
        assert [ask(connection, stream, older) for stream in (13, 15)] == [0, 0]


def test_a_remembered_block_that_adds_to_the_table_adds_each_time(calls: Http2Case) -> None:
    """Three times the same block makes three entries, and not a fourth."""
    token = dict(calls.fields())[b"authorization"]
    adding = head_with(calls, literal(b"authorization", token, 0x40))
    with calls.connect() as connection:
        assert [ask(connection, stream, adding) for stream in (1, 3, 5)] == [0] * 3
        assert ask(connection, 7, head_with(calls, indexed(FIRST + 2))) == 0
        connection.send(headers(head_with(calls, indexed(FIRST + 3)), 9, END_HEADERS))

        assert connection.ending(within_s=GONE_S).code == BROKEN


def test_a_table_that_was_emptied_is_empty(calls: Http2Case) -> None:
    """A size of zero drops what a remembered block refers to."""
    token = dict(calls.fields())[b"authorization"]
    newest = head_with(calls, indexed(FIRST))
    with calls.connect() as connection:
        assert ask(connection, 1, head_with(calls, literal(b"authorization", token, 0x40))) == 0
        assert ask(connection, 3, newest) == 0
        assert ask(connection, 5, resized(0) + block(calls.fields())) == 0
        connection.send(headers(newest, 7, END_HEADERS))

        assert connection.ending(within_s=GONE_S).code == BROKEN


def test_tables_of_connections_are_their_own(calls: Http2Case) -> None:
    """What one connection put into its table, token and all, no other can refer to."""
    token = dict(calls.fields())[b"authorization"]
    newest = head_with(calls, indexed(FIRST))
    with calls.connect() as known, calls.connect() as stranger:
        assert ask(known, 1, head_with(calls, literal(b"authorization", token, 0x40))) == 0
        assert ask(known, 3, newest) == 0
        stranger.send(headers(newest, 1, END_HEADERS))

        assert stranger.ending(within_s=GONE_S).code == BROKEN
        assert ask(known, 5, newest) == 0


def test_a_table_that_changes_its_size_all_the_time_is_served(calls: Http2Case) -> None:
    """Sizes at the start of a block, two of them too, are followed; entries come and go."""
    with calls.connect() as connection:
        for turn in range(20):
            sizes = resized(0) + resized(TABLE_BYTES - turn)
            large = literal(b"x-thing", bytes([97 + turn]) * (TABLE_BYTES - 7 - ENTRY_BYTES), 0x40)
            head = sizes + block(calls.fields()) + large
            assert ask(connection, 1 + 4 * turn, head) == 0
            whole = block(calls.fields()) + (indexed(FIRST) if not turn else b"")
            assert ask(connection, 3 + 4 * turn, whole) == 0


def test_blocks_of_the_library_are_read(calls: Http2Case) -> None:
    """Huffman, both tables and all, as an encoder makes them that was not written here."""
    encoder = hpack.Encoder()
    with calls.connect() as connection:
        for stream in range(1, 41, 2):
            number = (b"x-number", str(stream % 7).encode())
            fields = [*calls.fields(number), (b"x-secret", b"never")]
            head = encoder.encode(fields, huffman=bool(stream % 3))

            assert ask(connection, stream, head) == 0


def bomb(calls: Http2Case) -> bytes:
    """A block of one frame that unpacks to some 60 MiB: one large entry, over and over."""
    entry = literal(b"a", b"b" * (TABLE_BYTES - 1 - ENTRY_BYTES), 0x40)
    head = block(calls.fields()) + entry
    return head + indexed(FIRST) * (MAX_FRAME - len(head))


def test_bomb_costs_nothing(calls: Http2Case) -> None:
    """It is refused, with its stream or its connection, before it is unpacked."""
    used_s = calls.product.cpu_s()
    with calls.connect() as connection:
        connection.send(headers(bomb(calls), 1, END_HEADERS) + data(asking(), 1))
        connection.read_until(lambda: bool(connection.goaways) or connection.reply(1).is_over)

        refused = connection.replies.get(1)
        if refused is not None and refused.complete:
            assert refused.grpc_status == 8
            calls.serves(connection)
        else:
            assert connection.goaways[-1].code in (Code.ENHANCE_YOUR_CALM, BROKEN)
    assert calls.product.cpu_s() - used_s < QUICK_S


def test_bombs_in_a_row_cost_little(calls: Http2Case) -> None:
    """A hundred of them, on as many connections as it takes, cost less than two seconds."""
    raw, used_s = bomb(calls), calls.product.cpu_s()
    for _ in range(10):
        with calls.connect() as connection:
            for stream in range(1, 21, 2):
                connection.try_send(headers(raw, stream, END_HEADERS))
            connection.pong()
    used_s = calls.product.cpu_s() - used_s

    calls.forget_refusals("metadata_too_large", most=100)
    assert used_s < 2


@pytest.mark.parametrize("shape", ["one", "many"])
@pytest.mark.parametrize("share", [0.9, 1.1, 10])
def test_metadata_have_a_limit(calls: Http2Case, shape: str, share: float) -> None:
    """Below the limit they are fine; above it RESOURCE_EXHAUSTED, ten times above at least the end."""
    size = round(LIST_BYTES * share) - sum(len(a) + len(b) + ENTRY_BYTES for a, b in calls.fields())
    each = size if shape == "one" else 100
    more = [(b"x-a", b"a" * (each - 3 - ENTRY_BYTES))] * (size // each)
    head = block(calls.fields(*more))
    pieces = [head[at : at + MAX_FRAME] for at in range(0, len(head), MAX_FRAME)]
    with calls.connect() as connection:
        connection.try_send(
            headers(pieces[0], 1, 0 if len(pieces) > 1 else END_HEADERS)
            + b"".join(continuation(piece, 1, 0) for piece in pieces[1:-1])
            + (continuation(pieces[-1], 1) if len(pieces) > 1 else b"")
            + data(asking(), 1)
        )
        reply = connection.reply(1)

        if share < 1:
            assert_answer(reply, 1.0)
        elif reply.complete:
            assert reply.grpc_status == 8
            calls.serves(connection)
        else:
            assert share > 1.1
            assert connection.ending().code in (Code.ENHANCE_YOUR_CALM, BROKEN)


def test_table_is_in_step_after_too_large_a_head(calls: Http2Case) -> None:
    """What a refused head put into the table is there for the next one, or the connection ends."""
    token = dict(calls.fields())[b"authorization"]
    huge = block([(b"x-a", b"a" * 300)] * (LIST_BYTES // 300 + 1))
    head = huge + literal(b"authorization", token, 0x40)
    pieces = [head[at : at + MAX_FRAME] for at in range(0, len(head), MAX_FRAME)]
    with calls.connect() as connection:
        connection.send(headers(pieces[0], 1, 0), *(continuation(p, 1, 0) for p in pieces[1:]))
        connection.send(continuation(block(calls.fields()), 1))
        assert connection.reply(1).reset is not None or connection.reply(1).grpc_status == 8
        if connection.has_ended:
            return

        assert ask(connection, 3, head_with(calls, indexed(FIRST))) == 0


@pytest.mark.parametrize("size", [0, 1, MAX_FRAME])
def test_block_without_an_end_is_cut(calls: Http2Case, size: int) -> None:
    """CVE-2024-27316 and its kin: CONTINUATION frames for ever end the connection, soon."""
    piece = continuation(b"\0" * size, 1, 0)
    chunk = piece * max(1, 65_536 // len(piece))
    used_s, started = calls.product.cpu_s(), time.monotonic()
    with calls.connect() as connection:
        connection.send(headers(block(calls.fields()), 1, 0))
        connection.send_while_taken(chunk, times=200)
        ending = connection.ending(within_s=GONE_S)

    assert ending.code in (Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR)
    assert calls.product.cpu_s() - used_s < QUICK_S
    assert time.monotonic() - started < GONE_S
