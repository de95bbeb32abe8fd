"""Refusals of a worker are told to the control plane, summed up, and kept while it is away."""

import secrets
from collections.abc import AsyncIterator

import msgspec
import pytest

from serving.access.tallies import MOST_GROUPS, OTHERS, Denial, Tally
from serving.core.clock import ManualClock
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Reply, Request, Route, Router
from serving.gateway.denialreports import PATH, DenialReports
from serving.port_settings import ControlSettings, HttpSettings

SECRET = secrets.token_hex(32)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Control:
    """A control port that takes reports, or is away."""

    def __init__(self) -> None:
        self.told: list[Denial] = []
        self.status = 200
        self.port = 0

    def take(self, request: Request) -> Reply:
        assert request.headers[b"authorization"] == f"Bearer {SECRET}".encode()
        if self.status == 200:
            self.told += msgspec.json.decode(request.body, type=list[Denial])
        return Reply(self.status)


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    control = Control()
    routes = [Route("POST", PATH, control.take)]
    server = HttpServer(Router(routes), limits=HttpSettings())
    control.port = await server.listen(host="127.0.0.1", port=0)
    yield control
    await server.aclose()


async def test_equal_refusals_are_one_entry_with_a_count(
    control: Control, clock: ManualClock
) -> None:
    """With the first and the last time; what was told is not told again."""
    tally = Tally(clock)
    reports = DenialReports(tally, port=ControlSettings(port=control.port), secret=SECRET)
    began_ns = clock.wall_ns()
    for _ in range(3):
        tally.note("denied", subject="bob", action="infer", model="fraud", rule="r1")
        clock.advance(1)
    tally.note("expired")

    await reports.tell()
    await reports.tell()

    first, second = control.told
    assert (first.subject, first.count, first.first_ns) == ("bob", 3, began_ns)
    assert first.last_ns - first.first_ns == 2_000_000_000
    assert (second.subject, second.ground, second.count) == ("", "expired", 1)


async def test_what_could_not_be_told_is_told_later(control: Control, clock: ManualClock) -> None:
    """A control plane that is away, or refuses, costs nothing but time."""
    tally = Tally(clock)
    reports = DenialReports(tally, port=ControlSettings(port=control.port), secret=SECRET)
    tally.note("expired")
    control.status = 503
    await reports.tell()
    tally.note("expired")
    control.status = 200

    await reports.tell()

    assert [each.count for each in control.told] == [2]


def test_memory_of_refusals_is_bounded(clock: ManualClock) -> None:
    """Beyond so many kinds the rest is counted without names."""
    tally = Tally(clock)
    for number in range(5 * MOST_GROUPS):
        tally.note("denied", subject=str(number))

    taken = tally.take()

    assert len(taken) == MOST_GROUPS + 1
    assert sum(each.count for each in taken) == 5 * MOST_GROUPS
    assert (taken[-1].ground, taken[-1].subject) == (OTHERS, "")
