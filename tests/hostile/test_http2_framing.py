"""RFC 9113 sections 3 to 6 at the gRPC port: what is no frame, or a frame out of place, is refused.

Behind each fatal one stands a good call, which must not be served; behind each one that concerns a
stream alone, or nobody, a good call that must be.
"""

import socket
import ssl
import struct
from typing import Final

import pytest

from tests.edge.wire import request
from tests.hostile.http2_cases import GONE_S, Http2Case, asking, assert_answer
from tests.hostile.http2_wire import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_FRAME,
    PADDED,
    PREFACE,
    PRIORITIZED,
    Code,
    Frame,
    Kind,
    Setting,
    block,
    continuation,
    data,
    first_frame,
    frame,
    goaway,
    greeting,
    headers,
    literal,
    padded,
    ping,
    priority,
    reset,
    settings,
    window_update,
)

PROTOCOL: Final = Code.PROTOCOL_ERROR
SIZE: Final = Code.FRAME_SIZE_ERROR
CLOSED: Final = Code.STREAM_CLOSED
FLOW: Final = Code.FLOW_CONTROL_ERROR
HEAD: Final = block([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"a")])  # fmt: skip
OPEN: Final = headers(HEAD, 1, END_HEADERS)
"""Begins a call of somebody unknown, which stays open until its message is there."""
UNFINISHED: Final = headers(HEAD, 1, END_STREAM)


def number(value: int) -> bytes:
    return struct.pack("!I", value)


FATAL: Final[dict[str, tuple[bytes, tuple[Code, ...]]]] = {
    # 4.2: sizes.
    "frame one byte too large": (frame(Kind.DATA, bytes(MAX_FRAME + 1)), (SIZE, PROTOCOL)),
    "block one byte too large": (headers(bytes(MAX_FRAME + 1), 1), (SIZE,)),
    "SETTINGS too large": (frame(Kind.SETTINGS, bytes(MAX_FRAME + 2)), (SIZE,)),
    "largest length there is": (frame(Kind.HEADERS, b"", stream=1, length=2**24 - 1), (SIZE,)),
    "unknown kind too large": (frame(99, bytes(MAX_FRAME + 1)), (SIZE,)),
    # 5.1: frames on streams that nobody opened.
    "DATA on an idle stream": (data(b"a", 1), (PROTOCOL,)),
    "RST_STREAM on an idle stream": (reset(1), (PROTOCOL,)),
    "WINDOW_UPDATE on an idle stream": (window_update(1, 1), (PROTOCOL,)),
    "CONTINUATION on an idle stream": (continuation(HEAD, 1), (PROTOCOL,)),
    # 5.1.1: ids.
    "HEADERS on an even stream": (headers(HEAD, 2), (PROTOCOL,)),
    "DATA on an even stream": (data(b"a", 2), (PROTOCOL,)),
    "WINDOW_UPDATE on an even stream": (window_update(1, 2), (PROTOCOL,)),
    "RST_STREAM on an even stream": (reset(2), (PROTOCOL,)),
    "a lower stream after a higher": (headers(HEAD, 7) + headers(HEAD, 5), (PROTOCOL, CLOSED)),
    # 6.1: DATA.
    "DATA on no stream": (data(b"a", 0), (PROTOCOL,)),
    "DATA all padding and more": (OPEN + frame(Kind.DATA, b"\5aaaa", stream=1, flags=PADDED), (PROTOCOL,)),
    "DATA padded without a length": (OPEN + frame(Kind.DATA, b"", stream=1, flags=PADDED), (PROTOCOL, SIZE)),
    # 6.2: HEADERS.
    "HEADERS on no stream": (headers(HEAD, 0), (PROTOCOL,)),
    "HEADERS all padding and more": (frame(Kind.HEADERS, b"\5aaaa", stream=1, flags=PADDED | END_HEADERS), (PROTOCOL,)),
    "HEADERS padded without a length": (frame(Kind.HEADERS, b"", stream=1, flags=PADDED | END_HEADERS), (PROTOCOL, SIZE)),
    "HEADERS with half a priority": (headers(b"\0\0\0\0", 1, END_HEADERS | PRIORITIZED), (SIZE, PROTOCOL)),
    "HEADERS padded over its priority": (
        frame(Kind.HEADERS, b"\4" + bytes(8), stream=1, flags=PADDED | PRIORITIZED | END_HEADERS),
        (PROTOCOL, SIZE),
    ),
    # 6.3: PRIORITY.
    "PRIORITY on no stream": (priority(0), (PROTOCOL,)),
    # 6.4: RST_STREAM.
    "RST_STREAM on no stream": (reset(0), (PROTOCOL,)),
    "RST_STREAM of three bytes": (OPEN + frame(Kind.RST_STREAM, b"aaa", stream=1), (SIZE,)),
    "RST_STREAM of five bytes": (OPEN + frame(Kind.RST_STREAM, b"aaaaa", stream=1), (SIZE,)),
    # 6.5: SETTINGS.
    "SETTINGS on a stream": (frame(Kind.SETTINGS, stream=1), (PROTOCOL,)),
    "SETTINGS acknowledged with something": (frame(Kind.SETTINGS, bytes(6), flags=ACK), (SIZE,)),
    "SETTINGS of five bytes": (frame(Kind.SETTINGS, bytes(5)), (SIZE,)),
    "SETTINGS of seven bytes": (frame(Kind.SETTINGS, bytes(7)), (SIZE,)),
    "ENABLE_PUSH of two": (settings({Setting.ENABLE_PUSH: 2}), (PROTOCOL,)),
    "INITIAL_WINDOW_SIZE too large": (settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), (FLOW,)),
    "INITIAL_WINDOW_SIZE largest": (settings({Setting.INITIAL_WINDOW_SIZE: 2**32 - 1}), (FLOW,)),
    "MAX_FRAME_SIZE too small": (settings({Setting.MAX_FRAME_SIZE: 16_383}), (PROTOCOL,)),
    "MAX_FRAME_SIZE of zero": (settings({Setting.MAX_FRAME_SIZE: 0}), (PROTOCOL,)),
    "MAX_FRAME_SIZE too large": (settings({Setting.MAX_FRAME_SIZE: 2**24}), (PROTOCOL,)),
    # 6.6: PUSH_PROMISE.
    "PUSH_PROMISE": (OPEN + frame(Kind.PUSH_PROMISE, number(2) + HEAD, stream=1, flags=END_HEADERS), (PROTOCOL,)),
    # 6.7: PING.
    "PING on a stream": (frame(Kind.PING, bytes(8), stream=1), (PROTOCOL,)),
    "PING of seven bytes": (frame(Kind.PING, bytes(7)), (SIZE,)),
    "PING of nine bytes": (frame(Kind.PING, bytes(9)), (SIZE,)),
    "PING of nothing": (frame(Kind.PING), (SIZE,)),
    # 6.8: GOAWAY.
    "GOAWAY on a stream": (frame(Kind.GOAWAY, bytes(8), stream=1), (PROTOCOL,)),
    "GOAWAY of seven bytes": (frame(Kind.GOAWAY, bytes(7)), (SIZE,)),
    # 6.9: WINDOW_UPDATE.
    "WINDOW_UPDATE by zero": (window_update(0), (PROTOCOL,)),
    "WINDOW_UPDATE by zero and a bit": (window_update(2**31), (PROTOCOL,)),
    "WINDOW_UPDATE of three bytes": (frame(Kind.WINDOW_UPDATE, b"aaa"), (SIZE,)),
    "WINDOW_UPDATE of five bytes": (frame(Kind.WINDOW_UPDATE, b"aaaaa"), (SIZE,)),
    "WINDOW_UPDATE of three bytes on a stream": (OPEN + frame(Kind.WINDOW_UPDATE, b"aaa", stream=1), (SIZE,)),
    # 6.10 and 4.3: CONTINUATION.
    "CONTINUATION on no stream": (UNFINISHED + continuation(b"", 0), (PROTOCOL,)),
    "CONTINUATION of another stream": (UNFINISHED + continuation(b"", 3), (PROTOCOL,)),
    "CONTINUATION after the end of a block": (OPEN + continuation(b"", 1), (PROTOCOL,)),
    "CONTINUATION after DATA": (OPEN + data(b"a", 1, 0) + continuation(b"", 1), (PROTOCOL,)),
    "PING within a block": (UNFINISHED + ping(), (PROTOCOL,)),
    "DATA within a block": (UNFINISHED + data(b"a", 1), (PROTOCOL,)),
    "HEADERS within a block": (UNFINISHED + headers(HEAD, 3), (PROTOCOL,)),
    "SETTINGS within a block": (UNFINISHED + settings(), (PROTOCOL,)),
    "RST_STREAM within a block": (UNFINISHED + reset(1), (PROTOCOL,)),
    "WINDOW_UPDATE within a block": (UNFINISHED + window_update(1), (PROTOCOL,)),
    "PRIORITY within a block": (UNFINISHED + priority(1), (PROTOCOL,)),
    "GOAWAY within a block": (UNFINISHED + goaway(), (PROTOCOL,)),
    "unknown kind within a block": (UNFINISHED + frame(99), (PROTOCOL,)),
}  # fmt: skip


@pytest.mark.parametrize("case", FATAL)
def test_what_breaks_the_framing_ends_the_connection(calls: Http2Case, case: str) -> None:
    """GOAWAY with the code that the RFC names, the end, and nothing behind it is served."""
    raw, codes = FATAL[case]

    ending = calls.is_fatal(raw, *codes)

    assert len(ending.reason) < 100


HARMLESS: Final = {
    "unknown kind": frame(99, b"abc"),
    "unknown kind on a stream": frame(0xFF, b"abc", stream=1, flags=0xFF),
    "unknown kind on an even stream": frame(0x0A, b"", stream=8, flags=0xFF),
    "flags that SETTINGS does not have": frame(Kind.SETTINGS, flags=0xFE),
    "flags that PING does not have": ping(flags=0xFE),
    "unknown setting": settings({0x99: 7, 0xFFFF: 2**32 - 1}),
    "a setting twice": frame(Kind.SETTINGS, struct.pack("!HIHI", 4, 0, 4, 2**31 - 1)),
    "every setting": settings({1: 4096, 2: 0, 3: 0, 4: 2**31 - 1, 5: 2**24 - 1, 6: 1_000}),
    "no push": settings({Setting.ENABLE_PUSH: 0}),
    "the smallest frames": settings({Setting.MAX_FRAME_SIZE: MAX_FRAME}),
    "no table": settings({Setting.HEADER_TABLE_SIZE: 0}),
    "a huge table": settings({Setting.HEADER_TABLE_SIZE: 2**32 - 1}),
    "PRIORITY on an idle stream": priority(5) + priority(2),
    "PRIORITY on an idle stream that waits for another": priority(7, depends_on=2**31 + 9),
    "answer to a PING that nobody sent": ping(b"nobody's", ACK),
    "PING": ping(b"anybody?"),
    "reserved bit on no stream": frame(Kind.PING, bytes(8), stream=2**31),
    "reserved bit of WINDOW_UPDATE": window_update(2**31 + 1),
    "a large unknown frame": frame(99, bytes(MAX_FRAME)),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_means_nothing_is_ignored(calls: Http2Case, case: str) -> None:
    """Unknown kinds, flags and settings, and hints that nobody takes, change nothing."""
    with calls.connect(connection_window=2**31 - 10) as connection:
        connection.send(HARMLESS[case])

        calls.serves(connection)
        assert connection.goaways == []


STREAM: Final[dict[str, tuple[bytes, tuple[Code, ...]]]] = {
    "DATA after the end": (data(b"", 1) + data(b"a", 1), (CLOSED,)),
    "WINDOW_UPDATE by zero": (window_update(0, 1), (PROTOCOL,)),
    "window beyond the largest": (window_update(2**31 - 1, 1), (FLOW,)),
    "trailers that do not end it": (headers(literal(b"a", b"b"), 1, END_HEADERS), (PROTOCOL,)),
    "trailers with a pseudo field": (headers(literal(b":path", b"/"), 1), (PROTOCOL,)),
    "trailers with upper case": (headers(literal(b"A", b"b"), 1), (PROTOCOL,)),
    "trailers of a connection": (headers(literal(b"connection", b"close"), 1), (PROTOCOL,)),
}


@pytest.mark.parametrize("case", STREAM)
def test_what_breaks_a_stream_ends_it_alone(calls: Http2Case, case: str) -> None:
    """RST_STREAM with the code that the RFC names; the connection goes on and so do its neighbours."""
    raw, codes = STREAM[case]
    with calls.connect() as connection:
        connection.send(calls.head(1) + calls.head(3) + raw)

        assert connection.reply(1).reset in codes
        assert_answer(connection.send(data(asking(4.0), 3)).reply(3), 4.0)
        calls.serves(connection)
        assert connection.goaways == []


@pytest.mark.parametrize("length", [0, 4, 6])
def test_priority_of_another_length_ends_its_stream(calls: Http2Case, length: int) -> None:
    """6.3: FRAME_SIZE_ERROR, which concerns the stream alone; the connection at most."""
    with calls.connect() as connection:
        raw = calls.head(1) + frame(Kind.PRIORITY, bytes(length), stream=1) + data(asking(), 1)
        connection.send(raw)
        connection.read_until(lambda: bool(connection.goaways or connection.replies.get(1)))

    told = [ending.code for ending in connection.goaways]
    assert told == [SIZE] or connection.replies[1].reset == SIZE


PADDINGS: Final = [0, 1, 255]


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_is_taken_off_everywhere(calls: Http2Case, padding: int) -> None:
    """HEADERS, with a priority too, and DATA may be padded, up to a frame of padding alone."""
    head, text = block(calls.fields()), asking(5.0)
    hint = bytes(4) + b"\x0f"
    with calls.connect() as connection:
        connection.send(
            padded(hint + head, padding, kind=Kind.HEADERS, stream=1, flags=PRIORITIZED | END_HEADERS),
            padded(text[:3], padding, kind=Kind.DATA, stream=1, flags=0),
            padded(b"", padding, kind=Kind.DATA, stream=1, flags=0),
            padded(text[3:], padding, kind=Kind.DATA, stream=1, flags=END_STREAM),
        )  # fmt: skip

        assert_answer(connection.reply(1), 5.0)


@pytest.mark.parametrize("size", [0, 80, 300])
def test_blocks_may_come_in_pieces(calls: Http2Case, size: int) -> None:
    """A head in CONTINUATION frames of any size, empty ones among them, is one head."""
    head = block(calls.fields())
    pieces = (
        [head[at : at + size] for at in range(0, len(head), size)] if size else [b"", head, b""]
    )
    parts = [headers(pieces[0], 1, 0), *(continuation(each, 1, 0) for each in pieces[1:])]
    with calls.connect() as connection:
        connection.send(b"".join(parts), continuation(b"", 1), data(asking(6.0), 1))

        assert_answer(connection.reply(1), 6.0)


def test_settings_come_first_and_are_acknowledged(calls: Http2Case) -> None:
    """3.4 and 6.5.3: the server's first frame is SETTINGS, and each of the client's gets one ACK."""
    with calls.connect() as connection:
        connection.send(settings(), settings({Setting.MAX_FRAME_SIZE: MAX_FRAME}))
        assert connection.pong()

    assert (connection.control[0].kind, connection.control[0].flags) == (Kind.SETTINGS, 0)
    assert connection.control.count(Frame(Kind.SETTINGS, ACK, 0, b"")) == 3
    assert connection.settings[Setting.MAX_CONCURRENT_STREAMS] >= 100
    assert connection.settings.get(Setting.ENABLE_PUSH, 0) == 0


def test_ping_comes_back_as_it_was(calls: Http2Case) -> None:
    """6.7: the same eight bytes, while a call runs too, and no answer to an answer."""
    with calls.connect() as connection:
        stream = calls.ask(connection, 2.0)
        connection.send(ping(b"unasked.", ACK))
        assert connection.pong(bytes(range(8)))
        assert_answer(connection.reply(stream), 2.0)

    answers = [each for each in connection.control if each.kind == Kind.PING and each.flags & ACK]
    assert answers == []


NO_PREFACES: Final = {
    "HTTP/1.1": request("GET", "/v2/health/live"),
    "HTTP/1.1 that asks for HTTP/2": request("GET", "/", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "another PRI": b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings(),
    "preface in lower case": PREFACE.lower() + settings(),
    "preface twice": PREFACE + PREFACE,
    "frames without a preface": settings() + ping(),
    "zeros": bytes(100),
    "a line feed": b"\n" * 100,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n" * 5,
    "a length of gRPC": b"\0\0\0\0\5abcde" * 5,
    "preface, then HEADERS": PREFACE + headers(HEAD, 1),
    "preface, then PING": PREFACE + ping(),
    "preface, then an acknowledgement": PREFACE + frame(Kind.SETTINGS, flags=ACK),
    "preface, then an unknown kind": PREFACE + frame(99),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_PREFACES)
def test_what_is_not_http2_is_turned_away(calls: Http2Case, case: str) -> None:
    """3.4: anything but the preface and SETTINGS ends the connection, at most with GOAWAY."""
    with calls.connect(greets=False) as connection:
        connection.try_send(NO_PREFACES[case] + greeting() + calls.call(1))
        ending = connection.ending(within_s=GONE_S)

    assert 1 not in connection.replies
    assert ending.code in (None, PROTOCOL, SIZE)


def test_tls_at_a_port_in_plain_text_is_turned_away(calls: Http2Case) -> None:
    """The handshake fails at once, and does not wait for a deadline."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", calls.port), GONE_S) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_answers_are_whole_frames(calls: Http2Case) -> None:
    """The bytes of an answer are HEADERS, DATA and HEADERS that end, of the one stream."""
    with calls.connect(polite=False) as connection:
        connection.send(calls.call(1, 8.0))
        raw = bytearray()
        seen: list[Frame] = []
        while not seen or not seen[-1].flags & END_STREAM:
            raw += connection.read_raw(1 << 16)
            while (found := first_frame(raw)) is not None:
                seen += [found] if found.stream == 1 else []
                del raw[: 9 + len(found.payload)]

    assert [each.kind for each in seen] == [Kind.HEADERS, Kind.DATA, Kind.HEADERS]
    calls.ledger.unacknowledged = range(1, 2)
