"""Frames that are few and small, and make much work or keep much memory where it is done badly.

Each test keeps as many streams open as one connection may have, and then says something about all.
"""

import struct
import threading
import time
from collections.abc import Iterator
from typing import Final

import pytest

from serving.core.predictions import Fate
from serving.port_settings import GrpcSettings
from tests.hostile.http2_cases import GONE_S, Http2Case, assert_answer
from tests.hostile.http2_uploads import WIDE_ROW_BYTES, Careful, wide
from tests.hostile.http2_wire import (
    MAX_FRAME,
    WINDOW,
    Code,
    Http2Client,
    Kind,
    Setting,
    block,
    frame,
    headers,
    settings,
)
from tests.hostile.product import SHORT_CALLS
from tests.places import wait_until

MOST: Final = GrpcSettings().max_streams_per_connection
CPU_S: Final = 1.5


@pytest.fixture
def crowded(calls: Http2Case) -> Iterator[Http2Client]:
    """A connection with almost as many open calls as it may have, none of which has its message."""
    with calls.connect(windows=WINDOW) as connection:
        streams = range(1, 2 * (MOST - 10), 2)
        connection.send(b"".join(calls.head(stream) for stream in streams))
        connection.next_stream = streams[-1] + 2
        assert connection.pong()
        yield connection
    calls.forget_answers()


def turned(times: int) -> bytes:
    """One SETTINGS frame that changes every window so many times."""
    sizes = (WINDOW, WINDOW + 1)
    pairs = (struct.pack("!HI", Setting.INITIAL_WINDOW_SIZE, sizes[n % 2]) for n in range(times))
    return frame(Kind.SETTINGS, b"".join(pairs))


def test_one_frame_that_turns_all_windows_often(calls: Http2Case, crowded: Http2Client) -> None:
    """2,730 changes of the windows of a thousand streams are one change: the last."""
    used_s = calls.product.cpu_s()
    for _ in range(20):
        crowded.try_send(turned(MAX_FRAME // 6))
    crowded.pong()

    assert calls.product.cpu_s() - used_s < CPU_S


def test_many_frames_that_turn_all_windows(calls: Http2Case, crowded: Http2Client) -> None:
    """Thousands of SETTINGS in a row are cut, whatever each of them costs."""
    used_s = calls.product.cpu_s()
    both = settings({Setting.INITIAL_WINDOW_SIZE: WINDOW + 1}) + settings(
        {Setting.INITIAL_WINDOW_SIZE: WINDOW}
    )
    crowded.send_while_taken(both * 500, times=10)
    assert crowded.ending(within_s=GONE_S).code == Code.ENHANCE_YOUR_CALM

    assert calls.product.cpu_s() - used_s < CPU_S


def test_window_that_opens_by_a_byte_for_many_answers(calls: Http2Case) -> None:
    """Many answers wait for the connection's window: a byte more is work for one of them."""
    with calls.connect(connection_window=WINDOW) as connection:
        sender = Careful(connection)
        for stream in range(1, 61, 2):
            connection.send(calls.head(stream))
            assert sender.send(wide(), stream)
        wait_until(lambda: len(calls.new_records()) == 30)
        assert connection.pong()
        used_s = calls.product.cpu_s()
        for _ in range(500):
            connection.grant(1)
            connection.read_for(0)
        used_s = calls.product.cpu_s() - used_s
    calls.ledger.unacknowledged = range(31)

    assert used_s < CPU_S


def test_answer_that_is_taken_byte_by_byte_is_cut(calls: Http2Case) -> None:
    """A window that grows now and then by a byte does not keep an answer for ever."""
    with calls.connect(windows=0) as connection:
        connection.send(calls.head(1))
        assert Careful(connection).send(wide(), 1)
        connection.read_until(lambda: bool(connection.replies.get(1)))
        started, pause = time.monotonic(), threading.Event()
        while not connection.reply_is_over(1):
            assert time.monotonic() - started < SHORT_CALLS["write_timeout_s"] + GONE_S
            connection.grant(1, 1)
            pause.wait(0.05)
            connection.read_for(0)
    assert len(connection.replies[1].body) < WIDE_ROW_BYTES
    assert [record.fate for record in calls.new_records()] == [Fate.OK]
    calls.ledger.unacknowledged = range(2)


def test_answers_that_wait_are_bounded(calls: Http2Case) -> None:
    """Windows of nothing, and calls for 8 MiB each: what waits stays within what a worker can bear."""
    before = calls.product.usage().resident_bytes
    with calls.connect(windows=0) as connection:
        sender = Careful(connection)
        for stream in range(1, 31, 2):
            connection.send(calls.head(stream))
            sender.send(wide(31), stream)
        connection.read_for(0)
        grown = calls.product.usage().resident_bytes - before
    calls.ledger.unacknowledged = range(16)
    calls.forget_answers()

    assert grown < 256 << 20


def test_blocks_of_many_tiny_fields_cost_little(calls: Http2Case) -> None:
    """Thousands of fields in each block, refused or not, again and again: cut, or cheap."""
    used_s = calls.product.cpu_s()
    with calls.connect() as connection:
        for stream in range(1, 1_001, 2):
            tiny = b"\x90" * 12_000 + bytes((0, 1, 97, 1, 48 + stream % 64))
            if not connection.send_while_taken(headers(tiny, stream), times=1, within_s=1.0):
                break
            while connection.read_for(0):
                continue
            if connection.has_ended:
                break
        connection.close()
    used_s = calls.product.cpu_s() - used_s
    calls.forget_answers()

    assert used_s < 2 * CPU_S


def test_neighbour_of_a_crowd_is_served(calls: Http2Case, crowded: Http2Client) -> None:
    """A thousand open calls on one connection keep nobody else from anything."""
    with calls.connect() as other:
        for _ in range(20):
            assert_answer(other.reply(calls.ask(other, 2.0)), 2.0)
    assert crowded.goaways == []


def test_trailers_without_end_are_cut(calls: Http2Case) -> None:
    """Blocks on streams that are over are read for the table's sake, and paid for."""
    used_s = calls.product.cpu_s()
    with calls.connect() as connection:
        connection.send(calls.head(1, path="/no/such"))
        assert connection.reply(1).grpc_status == 12
        late = headers(block([(b"x-a", b"b")] * 300), 1)
        connection.send_while_taken(late * 20, times=300)
        connection.close()
    calls.forget_answers()

    assert calls.product.cpu_s() - used_s < 2 * CPU_S
