"""Any bytes, and valid requests with a few bytes changed, in any segments: the inference port holds.

Not only its framing: the whole way through routes, tokens, codec and pipeline, in memory.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.edge.http1.connection import Connection
from tests.edge.port import INFER, InferencePort, message
from tests.edge.wire import MemoryTransport, request
from tests.strategies import http_requests, http_streams, segmentations

STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
LATER: Final = 1_000_000
"""Ticks after which every deadline has passed."""
WAITS: Final = 5
OURS: Final = {500, 502, 503, 504}
TELLING: Final = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b",", b";", b"%00", b"\xff", b"0", b"-1", b"99"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: other\r\n", b"_", b"{"),
    *(
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"Upgrade: h2c\r\n",
        b"[",
        b'"',
        b"e9",
    ),
]

Change = tuple[float, int, bytes]


def changed(raw: bytes, changes: Sequence[Change]) -> bytes:
    """Each change: where, as a share of the whole; how many bytes go; what comes instead."""
    for share, gone, instead in changes:
        at = int(share * len(raw))
        raw = raw[:at] + instead + raw[at + gone :]
    return raw


changes = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from([0, 0, 1, 1, 2, 20]),
        st.one_of(st.sampled_from(TELLING), st.binary(max_size=4)),
    ),
    max_size=4,
)


@st.composite
def conversations(draw: st.DrawFn, port: InferencePort) -> list[bytes]:
    """Requests to the port, most of them almost right, in segments."""
    token = port.token()
    valid = [
        port.inference(message()),
        request("POST", INFER, token, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        request("GET", "/v2/models/echo", token),
        request("GET", "/v2/health/live"),
    ]
    pieces = draw(
        st.lists(
            st.one_of(st.sampled_from(valid), http_requests().map(lambda drawn: drawn.raw)),
            min_size=1,
            max_size=3,
        )
    )
    return draw(segmentations(changed(b"".join(pieces), draw(changes))))


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> InferencePort:
    """One for all examples: nothing may be left of any of them."""
    return InferencePort(tmp_path_factory.mktemp("port"))


async def play(port: InferencePort, segments: Sequence[bytes]) -> MemoryTransport:
    """The whole life of a connection: these bytes, then silence until it ends by itself."""
    connection, transport = Connection(port.server), MemoryTransport()
    transport.serve(connection)
    for segment in segments:
        transport.receive(segment)
        await work(port)
    await work(port)
    for wait in range(1, WAITS):
        if not transport.closed:
            connection.sweep(port.server.port.tick + wait * LATER)
            await work(port)
    connection.connection_lost(None)
    await work(port)
    return transport


async def work(port: InferencePort) -> None:
    """Lets everything that can happen now happen."""
    for _ in range(3):
        await asyncio.sleep(0)
        port.stand.turns.run()
        port.replica.answer()


def assert_held(port: InferencePort, transport: MemoryTransport) -> None:
    """No failure of ours was told, the connection ended, and nothing of it is left."""
    statuses = {int(status) for status in STATUS.findall(transport.written)}
    assert not statuses & OURS, transport.written
    assert transport.closed
    assert port.server.connections == 0
    assert port.stand.pipeline.admission.in_flight == 0


@given(data=st.data())
def test_almost_valid_requests_are_answered_or_refused(
    port: InferencePort, data: st.DataObject
) -> None:
    """A request with a few bytes changed is served or refused, and its connection ends."""
    segments = data.draw(conversations(port))

    assert_held(port, asyncio.run(play(port, segments)))


@given(segments=http_streams())
def test_any_bytes_are_answered_or_refused(port: InferencePort, segments: list[bytes]) -> None:
    """Whatever bytes come, no answer is a failure of ours, and the connection ends."""
    assert_held(port, asyncio.run(play(port, segments)))


def test_valid_requests_are_served_in_any_segments(port: InferencePort) -> None:
    """The port of these examples does serve: what is right gets its answer."""
    transport = asyncio.run(play(port, [port.inference(message())]))

    assert [int(status) for status in STATUS.findall(transport.written)] == [200]
    assert_held(port, transport)
