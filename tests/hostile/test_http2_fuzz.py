"""Conversations at random with the gRPC port: nothing that frames can say is a surprise to it."""

import random
from typing import Final

import pytest

from serving.core.predictions import Fate
from tests.edge.grpc.wire import INFER, STREAM
from tests.hostile.http2_cases import Http2Case, asking
from tests.hostile.http2_wire import (
    Http2Client,
    Kind,
    block,
    continuation,
    data,
    frame,
    greeting,
    headers,
    literal,
    padded,
    ping,
    reset,
    settings,
    window_update,
)
from tests.places import wait_until

CONVERSATIONS: Final = 120
FRAMES: Final = 40
PATHS: Final = (INFER, STREAM, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/a")


def piece(calls: Http2Case, chance: random.Random) -> bytes:
    """A frame, or a few: mostly those of a call, some with a fault."""
    stream = chance.choice((1, 1, 3, 3, 5, 7, 9, 2, 0))
    fields = block(calls.fields(path=chance.choice(PATHS)))
    text, cut = asking(float(chance.randrange(9))), chance.randrange(60)
    makers = (
        lambda: calls.call(stream, 1.0),
        lambda: headers(fields, stream, chance.randrange(256)),
        lambda: headers(fields[:cut], stream, 0) + continuation(fields[cut:], stream),
        lambda: headers(literal(b"x-a", b"b", chance.choice((0, 0x10, 0x40))), stream),
        lambda: data(text, stream, chance.randrange(2)),
        lambda: data(text[:cut], stream, 0) + data(text[cut:], stream),
        lambda: padded(text, chance.randrange(256), kind=Kind.DATA, stream=stream, flags=0),
        lambda: window_update(chance.choice((0, 1, 65_535, 2**31 - 1)), stream),
        lambda: settings({chance.randrange(9): chance.choice((0, 1, 100_000, 2**31 - 1))}),
        lambda: reset(stream, chance.randrange(20)),
        ping,
        lambda: frame(
            chance.randrange(12),
            chance.randbytes(chance.randrange(40)),
            stream=stream,
            flags=chance.randrange(256),
        ),
    )
    return chance.choices(makers, (6, 2, 4, 1, 4, 4, 1, 2, 1, 2, 1, 1))[0]()


def converse(connection: Http2Client, said: bytes, chance: random.Random) -> None:
    """Says it in segments of any size; leaves in any way, perhaps before."""
    while said and not connection.has_ended:
        size = chance.choice((1, 9, 50, 400, 4_000, 100_000))
        if not connection.try_send(said[:size]):
            break
        said = said[size:]
        if chance.random() < 0.1:
            connection.read_for(0)
    chance.choice((connection.close, connection.shut, connection.abort))()


@pytest.mark.parametrize("seed", range(4))
def test_any_conversation_leaves_nothing(calls: Http2Case, seed: int) -> None:
    """Whatever was said, the invariants hold: no exception in the log, no place, no memory, no lie."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(CONVERSATIONS):
        connection = calls.connect(greets=False, polite=False)
        said = b"".join(piece(calls, chance) for _ in range(FRAMES))
        converse(connection, greeting() + said, chance)
        connection.close()
    wait_until(lambda: calls.product.status()["grpc_connections"] == 0)
    wait_until(lambda: calls.product.status()["in_flight"] == 0)
    calls.forget_answers()
    calls.ledger.unacknowledged = range(CONVERSATIONS * FRAMES)

    assert {record.fate for record in calls.new_records()} <= {Fate.OK, Fate.CLIENT_GONE}
