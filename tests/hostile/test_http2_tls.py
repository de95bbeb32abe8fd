"""Hostile HTTP/2 inside TLS: what hurts in plain text hurts no more here, nor does what only TLS has.

The same port, limits and invariants as in the other modules, on an instance of its own whose gRPC port
speaks TLS: ends of the stream that are records, handshakes that stop, records that hold half a frame.
"""

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from serving.core.predictions import Fate
from tests.catalogue import SLOW
from tests.edge.certificates import Authority
from tests.hostile.http2_cases import GONE_S, Http2Case, asking, assert_answer, message
from tests.hostile.http2_tls import Tunnel
from tests.hostile.http2_uploads import Careful, wide
from tests.hostile.http2_wire import (
    END_HEADERS,
    MAX_FRAME,
    Code,
    Http2Client,
    block,
    connected,
    continuation,
    data,
    greeting,
    headers,
    reset,
)
from tests.hostile.product import BODY_S, HEAD_S, SWEEPS_S, WRITE_S, Product, running_product
from tests.places import wait_until


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Product]:
    """In place of the one that the other modules share."""
    certificate, key = (str(file) for file in authority.issue("server"))
    folder = tmp_path_factory.mktemp("tls")
    with running_product(folder, certificate=certificate, key=key) as made:
        yield made


@pytest.fixture
def calls(calls: Http2Case, authority: Authority) -> Http2Case:
    calls.tls = context_of(authority, "h2")
    return calls


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    """That of a client which names no protocol."""
    return context_of(authority)


def context_of(authority: Authority, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def tunnel(calls: Http2Case) -> Tunnel:
    """A connection whose records are cut by hand."""
    assert calls.tls is not None
    made = connected(calls.port, tls=calls.tls)
    assert isinstance(made, Tunnel)
    return made


def plain(calls: Http2Case) -> socket.socket:
    made = connected(calls.port)
    assert isinstance(made, socket.socket)
    return made


def nobody_is_left(calls: Http2Case) -> None:
    """Waits until no connection and no call of the case remains."""
    wait_until(lambda: not calls.product.status()["grpc_connections"], within_s=GONE_S)
    wait_until(lambda: calls.product.status()["in_flight"] == 0)


# -- the handshake -----------------------------------------------------------------------------------


def test_no_alpn_is_h2_with_prior_knowledge(calls: Http2Case, trusting: ssl.SSLContext) -> None:
    """Who agrees on nothing is served like a client in plain text."""
    with calls.connect(tls=trusting) as connection:
        calls.serves(connection)


def test_other_alpn_gets_no_http_1(calls: Http2Case, authority: Authority) -> None:
    """A client that wants HTTP/1.1 is not answered in it, and its request is nobody's."""
    calls.tls = context_of(authority, "http/1.1")
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    with calls.connect(greets=False) as connection:
        connection.try_send(request)

        assert connection.ending(within_s=GONE_S).code in (Code.PROTOCOL_ERROR, None)
    assert connection.replies == {}


def test_both_protocols_offered_is_h2(calls: Http2Case, authority: Authority) -> None:
    """Whichever the client would rather have."""
    calls.tls = context_of(authority, "http/1.1", "h2")
    made = tunnel(calls)
    made.close()

    assert made.protocol == "h2"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0], ids=["0", "a byte", "half", "whole"])
def test_handshake_that_stops_ends_at_its_deadline(
    calls: Http2Case, trusting: ssl.SSLContext, share: float
) -> None:
    """Nothing, a byte, a part or the whole of the first word, and then silence: closed, not earlier."""
    with plain(calls) as connection:
        hello = Tunnel(connection, trusting).hello()
        started = time.monotonic()
        connection.sendall(hello[: round(len(hello) * share)])
        while connection.recv(1 << 16):
            continue
        lasted_s = time.monotonic() - started

    assert 0.5 * HEAD_S <= lasted_s < HEAD_S + SWEEPS_S


def test_crowd_in_the_handshake_keeps_nobody_out(
    calls: Http2Case, trusting: ssl.SSLContext
) -> None:
    """Two hundred that stop after their first word are closed; a caller beside them is served."""
    crowd = [plain(calls) for _ in range(200)]
    for each in crowd:
        each.sendall(Tunnel(each, trusting).hello())
    with calls.connect() as good:
        assert_answer(good.reply(calls.ask(good, 1.0)), 1.0)
    started = time.monotonic()
    for each in crowd:
        with each:
            while each.recv(1 << 16):
                continue

    assert time.monotonic() - started < HEAD_S + SWEEPS_S


@pytest.mark.parametrize("raw", [greeting(), b"\x16\x03\x01\xff\xff" + bytes(100), bytes(1_000)])
def test_bytes_that_are_no_handshake_end_it(calls: Http2Case, raw: bytes) -> None:
    """Plain HTTP/2, a record of nonsense, zeros: closed, and never an answer of HTTP/2."""
    with plain(calls) as connection:
        connection.sendall(raw)
        came = b""
        try:
            while received := connection.recv(1 << 16):
                came += received
        except ConnectionResetError:
            pass

    assert len(came) <= 7, "more than an alert"


def test_renegotiation_is_refused(calls: Http2Case, authority: Authority) -> None:
    """CVE-2011-1473: in TLS 1.2, a client that asks for another handshake gets none."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    done = subprocess.run(  # noqa: S603 - a program of the system
        [program, "s_client", "-connect", f"127.0.0.1:{calls.port}", "-tls1_2", "-alpn", "h2",
         "-CAfile", str(authority.file)],
        input=b"R\n", capture_output=True, timeout=30, check=False,
    )  # fmt: skip

    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"no renegotiation" in done.stdout + done.stderr
    nobody_is_left(calls)


# -- records that cut what HTTP/2 says -----------------------------------------------------------------


def conversation(calls: Http2Case) -> bytes:
    head = block(calls.fields())
    return b"".join(
        (
            greeting(),
            headers(head[:40], 1, 0) + continuation(head[40:], 1),
            data(asking(2.0)[:11], 1, 0),
            data(asking(2.0)[11:], 1),
        )
    )


@pytest.mark.parametrize("size", [1, 9, 100])
def test_preface_and_frames_in_records_of_any_size(calls: Http2Case, size: int) -> None:
    """A byte in each record is the same conversation as all in one."""
    raw = conversation(calls)
    with calls.connect(greets=False) as connection:
        for at in range(0, len(raw), size):
            connection.send(raw[at : at + size])

        assert_answer(connection.reply(1), 2.0)


def test_records_in_single_bytes_of_tcp(calls: Http2Case) -> None:
    """However TCP cuts the records, they are whole before anything is understood of them."""
    with calls.connect(greets=False) as connection:
        for byte in connection.tunnel.sealed(conversation(calls)):
            connection.tunnel.send_raw(bytes((byte,)))

        assert_answer(connection.reply(1), 2.0)


ENDS: Final[dict[str, Callable[[Tunnel], bytes]]] = {
    "close_notify": Tunnel.goodbye,
    "nothing": lambda _tunnel: b"",
    "half a record": lambda tunnel: tunnel.sealed(bytes(100))[:50],
    "a record that is wrong": lambda tunnel: tunnel.sealed(bytes(100))[:-1] + b"\0",
}


@pytest.mark.parametrize("how", ENDS)
def test_an_end_within_a_frame_leaves_nothing(calls: Http2Case, how: str) -> None:
    """In the preface, a block, a message or behind it: no place, no descriptor, a record at most."""
    raw = conversation(calls)
    cuts = range(0, len(raw), 7)
    for at in cuts:
        made = tunnel(calls)
        made.sendall(raw[:at])
        made.send_raw(ENDS[how](made))
        made.shutdown(socket.SHUT_WR)
        made.close()
    calls.ledger.unacknowledged = range(len(cuts) + 1)
    nobody_is_left(calls)
    calls.forget_answers()

    assert {record.fate for record in calls.new_records()} <= {Fate.OK, Fate.CLIENT_GONE}


def test_half_close_during_a_call_ends_it(calls: Http2Case) -> None:
    """close_notify while the model runs: the connection ends in time, and the record says what was."""
    with calls.connect() as connection:
        calls.ask(connection, SLOW, timeout=20_000_000)
        wait_until(lambda: calls.product.status()["in_flight"] == 1)
        connection.tunnel.send_raw(connection.tunnel.goodbye())
        nobody_is_left(calls)
    calls.ledger.unacknowledged = range(2)

    assert {record.fate for record in calls.new_records()} <= {Fate.OK, Fate.CLIENT_GONE}


# -- floods and stalls ---------------------------------------------------------------------------------


def flooded(
    connection: Http2Client, chunk: Callable[[int], bytes], *, chunks: int
) -> set[Code] | None:
    """Sends chunk after chunk until the server has enough of it; what it said then."""
    for number in range(chunks):
        if not connection.send_while_taken(chunk(number), times=1, within_s=2.0):
            break
        while connection.read_for(0):
            continue
        if connection.has_ended or connection.goaways:
            break
    else:
        return None
    return {each.code for each in connection.goaways if each.code is not None}


def test_rapid_reset_of_heads_is_cut(calls: Http2Case) -> None:
    """CVE-2023-44487 inside TLS: cut as in plain text, while a neighbour is served."""
    head = block(calls.fields())

    def chunk(number: int) -> bytes:
        streams = range(1 + 2_000 * number, 2_001 + 2_000 * number, 2)
        return b"".join(headers(head, each, END_HEADERS) + reset(each) for each in streams)

    with calls.connect() as neighbour, calls.connect() as connection:
        told = flooded(connection, chunk, chunks=100)
        calls.serves(neighbour)

    assert told is not None
    assert told <= {Code.ENHANCE_YOUR_CALM}


@pytest.mark.parametrize("piece", [b"", bytes(MAX_FRAME)], ids=["empty", "large"])
def test_flood_of_continuation_is_cut(calls: Http2Case, piece: bytes) -> None:
    """CVE-2024-27316 inside TLS: a block without an end is not kept."""
    before = calls.product.usage().resident_bytes
    with calls.connect() as connection:
        connection.send(headers(block(calls.fields()), 1, 0))
        told = flooded(connection, lambda _: continuation(piece, 1, 0) * 100, chunks=1_000)

    assert told is not None
    assert told <= {Code.PROTOCOL_ERROR, Code.ENHANCE_YOUR_CALM}
    assert calls.product.usage().resident_bytes - before < 32 << 20


def test_body_that_never_ends_is_given_up(calls: Http2Case) -> None:
    """A byte at a time, each in a record of its own, until the body's deadline and not beyond."""
    with calls.connect() as connection:
        connection.send(calls.head(1), data(b"\0\0\0\xff\xff", 1, 0))
        started = time.monotonic()
        while not connection.reply_is_over(1):
            assert time.monotonic() - started < BODY_S + SWEEPS_S
            connection.try_send(data(b"a", 1, 0))
            connection.read_for(0.05)
    calls.forget_answers()


def test_body_beyond_every_window_is_not_kept(calls: Http2Case) -> None:
    """A client that ignores the windows is refused or cut; nothing of its 64 MiB stays."""
    before = calls.product.usage().resident_bytes
    with calls.connect() as connection:
        connection.send(calls.head(1) + data(message(b"", length=15 << 20), 1, 0))
        frame_of_zeros = data(bytes(MAX_FRAME), 1, 0)
        for _ in range(4_000):
            if not connection.send_while_taken(frame_of_zeros, times=1, within_s=2.0):
                break
        connection.read_until(lambda: connection.has_ended or bool(connection.replies))

    assert calls.product.usage().resident_bytes - before < 64 << 20


def test_client_that_never_reads_is_cut(calls: Http2Case) -> None:
    """Answers pile up in TLS no more than in plain text: cut at the write deadline, and forgotten."""
    with calls.connect(receive_buffer_bytes=4096) as connection:
        sender = Careful(connection)
        for stream in (1, 3, 5):
            connection.send(calls.head(stream))
            if not sender.send(wide(40), stream):
                break  # Nothing more is read from a client that does not read.
        wait_until(lambda: len(calls.new_records()) >= 1)
        wait_until(lambda: not calls.product.status()["grpc_connections"], within_s=WRITE_S + 4)
    calls.ledger.unacknowledged = range(4)
