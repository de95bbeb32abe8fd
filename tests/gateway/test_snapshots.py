import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from pathlib import Path

import msgspec
import pytest

from serving.core.traffic import Snapshot
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Reply, Request, Route, Router
from serving.gateway.snapshots import WAIT_S, Follower
from serving.port_settings import ControlSettings, HttpSettings
from tests.gateway.stand import a_snapshot

SECRET = "a" * 64
PATIENCE_S = 10.0


class Control:
    """The control port, as far as followers see it: answers with `reply`, or waits while None."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.reply: Reply | None = None
        self.port = 0
        self.moved = asyncio.Event()
        """Something happened here or in the follower."""
        self._replied = asyncio.Event()
        self._server: HttpServer | None = None

    async def start(self) -> None:
        router = Router([Route("GET", "/internal/snapshot", self._snapshot)])
        self._server = HttpServer(router, limits=HttpSettings())
        self.port = await self._server.listen(host="127.0.0.1", port=self.port)

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.aclose()

    def publish(self, snapshot: Snapshot) -> None:
        self.answer(Reply(200, msgspec.json.encode(snapshot)))

    def answer(self, reply: Reply) -> None:
        self.reply = reply
        self._replied.set()

    async def _snapshot(self, request: Request) -> Reply:
        """One reply is given once; the next poll waits, as long polls do."""
        self.requests.append(request)
        self.moved.set()
        while self.reply is None:
            self._replied.clear()
            await self._replied.wait()
        reply, self.reply = self.reply, None
        return reply


class Worker:
    """Who follows: keeps what was applied, counts the pauses."""

    def __init__(self, control: Control, copy: Path) -> None:
        self.applied: list[Snapshot] = []
        self.pauses: list[float] = []
        self._moved = control.moved
        self.follower = Follower(
            Snapshot,
            port=ControlSettings(port=control.port or 1),
            path="/internal/snapshot",
            secret=SECRET,
            copy=copy,
            apply=self._apply,
            pause=self._pause,
        )

    def _apply(self, snapshot: Snapshot) -> None:
        self.applied.append(snapshot)
        self._moved.set()

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._moved.set()
        await asyncio.sleep(0.005)

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                self._moved.clear()
                await self._moved.wait()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.json"


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    control = Control()
    await control.start()
    yield control
    await control.stop()


@pytest.fixture
async def worker(control: Control, copy: Path) -> AsyncIterator[Worker]:
    """A worker whose follower runs."""
    worker = Worker(control, copy)
    task = asyncio.create_task(worker.follower.run())
    yield worker
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_control_publishes_is_applied(control: Control, worker: Worker) -> None:
    """The answer to a poll is applied, and the next poll asks for anything newer."""
    control.publish(a_snapshot(epoch=5))
    await worker.until(lambda: len(control.requests) == 2)

    assert worker.applied == [a_snapshot(epoch=5)]
    assert [request.query["after"] for request in control.requests] == ["0", "5"]


async def test_polls_are_long_and_carry_the_secret(control: Control, worker: Worker) -> None:
    """Control is asked to wait, and knows that one of our own processes asks."""
    await worker.until(lambda: len(control.requests) == 1)
    [request] = control.requests

    assert request.query["wait_s"] == str(WAIT_S)
    assert request.headers[b"authorization"] == f"Bearer {SECRET}".encode()


def kept(copy: Path) -> tuple[Snapshot, int]:
    """The copy and its permissions."""
    snapshot = msgspec.json.decode(copy.read_bytes(), type=Snapshot)
    return snapshot, stat.S_IMODE(copy.stat().st_mode)


async def test_copy_on_disk_is_what_was_applied(
    control: Control, worker: Worker, copy: Path
) -> None:
    """The last snapshot is kept, for this user only."""
    control.publish(a_snapshot(epoch=5))
    await worker.until(lambda: len(control.requests) == 2)

    assert kept(copy) == (a_snapshot(epoch=5), 0o600)


def test_worker_starts_from_its_copy(copy: Path) -> None:
    """Without control the last snapshot is in force, and what is asked for is newer than it."""
    copy.write_bytes(msgspec.json.encode(a_snapshot(epoch=5)))
    worker = Worker(Control(), copy)

    worker.follower.restore()

    assert (worker.applied, worker.follower.epoch) == ([a_snapshot(epoch=5)], 5)


@pytest.mark.parametrize(
    "prepare",
    [
        lambda _copy: None,
        lambda copy: copy.write_bytes(b'{"epoch": 3, "vers'),
        lambda copy: copy.write_bytes(b'{"epoch": "three"}'),
        lambda copy: copy.mkdir(),
    ],
    ids=["no copy", "cut off", "something else", "a folder"],
)
def test_copy_that_cannot_be_read_stops_nothing(
    copy: Path, prepare: Callable[[Path], None]
) -> None:
    """The worker starts empty and waits for control."""
    prepare(copy)
    worker = Worker(Control(), copy)

    worker.follower.restore()

    assert (worker.applied, worker.follower.epoch) == ([], 0)


async def test_end_of_a_wait_without_news_is_no_change(control: Control, worker: Worker) -> None:
    """204 is followed by the next poll, at once and without a pause."""
    control.answer(Reply(204))
    await worker.until(lambda: len(control.requests) == 2)

    assert (worker.applied, worker.pauses) == ([], [])


@pytest.mark.parametrize(
    "reply",
    [
        Reply(HTTPStatus.UNAUTHORIZED, b"{}"),
        Reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"{}"),
        Reply(HTTPStatus.OK, b"<html>"),
        Reply(HTTPStatus.OK, b'{"epoch": 9, "versions": [{"model": 1}]}'),
    ],
    ids=["refused", "broken", "no JSON", "no snapshot"],
)
async def test_wrong_answer_is_a_pause_and_another_try(
    control: Control, worker: Worker, reply: Reply
) -> None:
    """Whatever control says, the snapshot in force stays and the next one is taken."""
    control.answer(reply)
    await worker.until(lambda: len(worker.pauses) == 1)
    control.publish(a_snapshot(epoch=6))
    await worker.until(lambda: len(worker.applied) == 1)

    assert worker.applied == [a_snapshot(epoch=6)]


async def test_control_that_goes_away_is_awaited(control: Control, worker: Worker) -> None:
    """While control is down the worker tries and pauses; when it is back, news arrives."""
    control.publish(a_snapshot(epoch=5))
    await worker.until(lambda: len(control.requests) == 2)
    await control.stop()
    await worker.until(lambda: len(worker.pauses) >= 2)
    assert [snapshot.epoch for snapshot in worker.applied] == [5]

    await control.start()
    control.publish(a_snapshot(epoch=6))
    await worker.until(lambda: len(worker.applied) == 2)

    assert [snapshot.epoch for snapshot in worker.applied] == [5, 6]


async def test_disk_that_cannot_be_written_does_not_stop_routing(
    control: Control, copy: Path
) -> None:
    """The snapshot is in force although no copy can be kept."""
    worker = Worker(control, copy.parent / "no such folder" / "snapshot.json")
    task = asyncio.create_task(worker.follower.run())
    control.publish(a_snapshot(epoch=5))
    await worker.until(lambda: len(worker.pauses) == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert (worker.applied, worker.follower.epoch) == ([a_snapshot(epoch=5)], 5)
