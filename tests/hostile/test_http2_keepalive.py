"""Pings of the gRPC port and at it: who gives no sign of life is cut off, and who gives too many."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.edge.grpc.wire import started
from tests.hostile.http2_cases import GONE_S, Http2Case, assert_answer, message
from tests.hostile.http2_wire import (
    ACK,
    END_HEADERS,
    Code,
    Http2Client,
    Kind,
    block,
    data,
    headers,
    ping,
)
from tests.places import InProcess

SHORT_S: Final = 0.5
WATCH: Final = block([
    *((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/grpc.health.v1.Health/Watch")),
    (b"content-type", b"application/grpc"),
])  # fmt: skip


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[InProcess]:
    """A worker that asks silent clients for a sign of life."""
    grpc = {"keepalive_s": SHORT_S, "keepalive_timeout_s": SHORT_S}
    async with started(tmp_path, grpc=grpc) as place:
        yield place


def watching(port: int, *, polite: bool) -> Http2Client:
    """A connection with a call that stays open."""
    client = Http2Client(port, polite=polite)
    return client.send(headers(WATCH, 1, END_HEADERS), data(message(b""), 1))


async def test_client_that_does_not_answer_is_cut_off(impatient: InProcess) -> None:
    """A PING, and the end, though a call is open: nobody is there to hear of it."""
    with watching(impatient.settings.grpc.port, polite=False) as client:
        await asyncio.to_thread(client.ending, within_s=2 * SHORT_S + GONE_S)

    assert [each.flags & ACK for each in client.control if each.kind == Kind.PING] == [0]


async def test_client_that_answers_is_kept(impatient: InProcess) -> None:
    """As long as its PINGs come back, a silent watcher may watch."""

    def asked_often() -> bool:
        return sum(each.kind == Kind.PING for each in client.control) >= 3

    with watching(impatient.settings.grpc.port, polite=True) as client:
        await asyncio.to_thread(client.read_until, asked_often)
        assert not client.has_ended
        assert client.goaways == []


def test_pings_without_a_call_have_to_be_rare(calls: Http2Case) -> None:
    """The third that comes too early ends an idle connection; those before were answered."""
    with calls.connect() as connection:
        assert_answer(connection.reply(calls.ask(connection, 1.0)), 1.0)
        for _ in range(6):
            connection.try_send(ping())
        ending = connection.ending(within_s=GONE_S)

    assert (ending.code, ending.reason) == (Code.ENHANCE_YOUR_CALM, b"too_many_pings")
