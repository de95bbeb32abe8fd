"""The gate: who gets to which call, and what the others are told, and when."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest

from serving.access.certificates import Certified, Credential
from serving.core.batches import Buffer
from serving.core.principals import Principal
from serving.edge.grpc.calls import UnaryCall
from serving.edge.grpc.framing import framed
from serving.edge.grpc.gate import Gate, step, unary
from serving.edge.grpc.refusals import RefusedCalls
from serving.edge.guesses import BURST_S, Guesses
from serving.errors import Unauthenticated
from tests.edge.grpc.streams import GRPC, Noted, NotedStream, fields_of, head_of, send
from tests.places import eventually

OPEN: Final = "/grpc.health.v1.Health/Check"
CLOSED: Final = "/inference.GRPCInferenceService/ModelInfer"
ADA: Final = Principal("ada", frozenset())
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAUTHENTICATED = 8, 12, 13, 16
INVALID_ARGUMENT: Final = 3


def who(message: Buffer, principal: Principal | None) -> bytes:
    return b"nobody" if principal is None else principal.subject.encode()


def known(credential: Credential) -> Principal:
    if credential not in (b"good", Certified(None, b"DER")):
        raise Unauthenticated("nobody is known by that")
    return ADA


class Door:
    """A gate before an open and a closed call."""

    def __init__(
        self, *, authenticate: Callable[[Credential], Principal] = known, most: int = 10
    ) -> None:
        self.noted = Noted(most)
        guesses = Guesses(per_s=1.0, longest_s=60.0)
        self.held = RefusedCalls(guesses, most=10, now_s=lambda: 0.0)
        self.gate = Gate(
            {OPEN: step(who, open=True), CLOSED: step(who)},
            authenticate=authenticate,
            calls=self.noted.calls,
            held=self.held,
        )

    def begin(
        self, path: str, *fields: tuple[bytes, bytes], certificate: bytes | None = None
    ) -> tuple[NotedStream, Any]:
        """A call of which nothing but the head came."""
        stream = NotedStream(head_of(GRPC, *fields, path=path.encode()))
        stream.certificate = certificate
        return stream, self.gate(stream.stream)

    def call(
        self, path: str, *fields: tuple[bytes, bytes], certificate: bytes | None = None
    ) -> NotedStream:
        """A whole call."""
        stream, receiver = self.begin(path, *fields, certificate=certificate)
        send(receiver, b"x")
        return stream


GOOD: Final = (b"authorization", b"good")


async def test_open_calls_need_no_credential_and_closed_ones_do() -> None:
    """Each call is told who calls it."""
    door = Door()

    assert door.call(OPEN).sent == [framed(b"nobody")]
    assert door.call(CLOSED, GOOD).sent == [framed(b"ada")]
    assert door.call(CLOSED, certificate=b"DER").sent == [framed(b"ada")]
    assert door.call(CLOSED).status == UNAUTHENTICATED
    assert door.noted.left == (0, 0)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ((), UNAUTHENTICATED),
        (((b"authorization", b"bad"),), UNAUTHENTICATED),
        ((GOOD, (b"x-api-key", b"good")), INVALID_ARGUMENT),
        ((GOOD,), UNIMPLEMENTED),
        ((GOOD, (b"grpc-timeout", b"x")), UNIMPLEMENTED),
    ],
)
async def test_whether_there_is_a_call_is_told_to_those_who_are_known(
    fields: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    """An unknown path is as good as any to strangers."""
    assert Door().call("/no.such/Call", *fields).status == status


@pytest.mark.parametrize(
    ("field", "status"),
    [((b"grpc-encoding", b"br"), UNIMPLEMENTED), ((b"grpc-timeout", b"soon"), INVALID_ARGUMENT)],
)
async def test_what_is_wrong_with_a_head_is_told_to_those_who_are_known(
    field: tuple[bytes, bytes], status: int
) -> None:
    """With what we do take; again and again without gathering tracebacks."""
    door = Door()
    stream, stranger = door.call(CLOSED, GOOD, field), door.call(CLOSED, field)

    assert (stream.status, stranger.status) == (status, UNAUTHENTICATED)
    assert stream.blocks[0]["grpc-accept-encoding"] == "identity,gzip,deflate"


async def test_refused_call_is_heard_out_for_a_moment() -> None:
    """Its answer comes with the end of its client's side, or soon; what comes is thrown away."""
    door = Door()
    stream, call = door.begin(CLOSED)
    call.received(bytes(100))
    assert (stream.blocks, stream.credit) == ([], 0)
    call.finished()
    assert stream.status == UNAUTHENTICATED

    slow, _ = door.begin(CLOSED)
    await eventually(lambda: slow.ended)
    assert slow.status == UNAUTHENTICATED


async def test_guesses_wait_and_give_their_place_back() -> None:
    """Beyond the budget the answer is held; a client that leaves is forgotten, a drain ends it."""
    door = Door()
    for _ in range(round(BURST_S)):
        assert door.call(CLOSED).ended
    left, leaving = door.begin(CLOSED)
    leaving.finished()
    stays = door.call(CLOSED)
    assert (door.held.waiting, door.noted.left) == (2, (2, 0))
    leaving.gone()
    assert (door.held.waiting, door.noted.left) == (1, (1, 0))
    door.held.drain()

    assert (stays.status, left.blocks, door.noted.left) == (UNAUTHENTICATED, [], (0, 0))


async def test_client_that_leaves_before_its_refusal_is_not_counted() -> None:
    """Nothing is sent to it later."""
    door = Door()
    stream, call = door.begin(CLOSED)
    call.gone()
    await asyncio.sleep(0)

    assert (stream.blocks, door.noted.left, door.noted.codes) == ([], (0, 0), [])


async def test_one_call_too_many_is_refused() -> None:
    """When another has ended there is room again."""
    door = Door(most=1)
    _, running = door.begin(CLOSED, GOOD)
    refused = door.call(CLOSED, GOOD)
    running.gone()

    assert (refused.status, door.noted.codes) == (RESOURCE_EXHAUSTED, ["caller_limit"])
    assert door.call(CLOSED, GOOD).status == 0


async def test_who_is_not_known_takes_no_place_of_those_who_are() -> None:
    """Open calls that do not end, and refused ones that wait, leave inference alone."""
    door = Door(most=4)
    for _ in range(10):
        door.begin(OPEN)
        door.begin(CLOSED)

    assert door.call(OPEN).status == RESOURCE_EXHAUSTED
    assert door.call(CLOSED, GOOD).status == 0


async def test_refused_calls_that_are_heard_out_are_bounded() -> None:
    """Beyond that they are answered at once."""
    door = Door(most=4)
    streams = [door.begin(CLOSED)[0] for _ in range(3)]

    assert [stream.ended for stream in streams] == [False, True, True]


async def test_check_that_fails_lets_nobody_through() -> None:
    """INTERNAL, without a word of why."""

    def broken(_credential: Credential) -> Principal:
        raise RuntimeError("secret")

    stream = Door(authenticate=broken).call(CLOSED, GOOD)

    assert stream.status == INTERNAL
    assert "secret" not in str(stream.blocks)


@pytest.mark.parametrize(
    ("method", "media", "status"),
    [(b"GET", b"application/grpc", "405"), (b"POST", b"application/json", "415")],
)
async def test_what_is_no_grpc_call_is_turned_away(
    method: bytes, media: bytes, status: str
) -> None:
    """With a status of HTTP, whoever asks; what it still sends disturbs nothing."""
    door = Door()
    stream = NotedStream(head_of((b"content-type", media), path=CLOSED.encode(), method=method))
    receiver = door.gate(stream.stream)
    receiver.received(b"{}")
    receiver.finished()
    receiver.gone()

    assert stream.blocks[0][":status"] == status
    assert door.noted.left == (0, 0)


async def test_oversized_heads_have_an_answer() -> None:
    """Each of them is counted, though nobody kept it."""
    door = Door()
    said = fields_of(door.gate.oversized)

    assert (said[":status"], said["grpc-status"]) == ("200", str(RESOURCE_EXHAUSTED))
    assert door.noted.codes == ["headers_too_large"]


async def test_a_method_that_fails_does_not_end_the_gate() -> None:
    """The next call is served."""
    noted = Noted()

    def fail(_call: UnaryCall, _message: Buffer) -> None:
        raise ZeroDivisionError

    held = RefusedCalls(Guesses(per_s=1.0, longest_s=1.0), most=1, now_s=lambda: 0.0)
    gate = Gate({OPEN: unary(fail, open=True)}, authenticate=known, calls=noted.calls, held=held)
    statuses = []
    for _ in range(2):
        stream = NotedStream(head_of(GRPC, path=OPEN.encode()))
        send(gate(stream.stream), b"x")
        statuses.append(stream.status)

    assert (statuses, noted.left) == ([INTERNAL, INTERNAL], (0, 0))
