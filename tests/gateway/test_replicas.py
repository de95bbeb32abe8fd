import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from serving.core.batches import RowFailure
from serving.core.clock import SystemClock
from serving.core.models import BatchLimits, ModelVersion
from serving.core.traffic import ReplicaEndpoint
from serving.gateway.batching import VersionQueue
from serving.gateway.replicas import FIRST_PAUSE_S, LAST_PAUSE_S, OpenLink, ReplicaLinks
from serving.gateway_settings import ChannelSettings
from serving.inference.channel import Channel
from serving.inference.listener import ReplicaListener
from serving.inference.places import UnixPlace
from tests.gateway.stand import DOUBLER, Client, MemoryLink, Stand, a_snapshot
from tests.inference.runners import FunctionRunner
from tests.plans import an_endpoint

ENDPOINT = an_endpoint("r1")
OTHER = an_endpoint("r2")
PATIENCE_S = 10.0

Changed = Callable[[OpenLink], None]


class MemoryOpenLink(MemoryLink):
    """A link that opens by calling `opening`, which may raise; greeted when told."""

    def __init__(self, changed: Changed, opening: Callable[["MemoryOpenLink"], None]) -> None:
        super().__init__()
        self.ready = False
        self.retired = False
        self._changed = changed
        self._opening = opening

    async def connect(self) -> None:
        self._opening(self)

    def greet(self) -> None:
        self.ready = True
        self._changed(self)

    def retire(self) -> None:
        self.retired, self.ready = True, False
        if not self.frames:
            self.abort()

    def answer(self, failures: dict[int, RowFailure] | None = None) -> None:
        super().answer(failures)
        if self.retired and not self.frames:
            self.abort()

    def abort(self) -> None:
        super().abort()
        self._changed(self)


class Net:
    """The replicas of a test and what their gateway does: links made, pauses taken."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.made: list[MemoryOpenLink] = []
        self.versions: list[ModelVersion] = []
        self.pauses: list[float] = []
        self.opening: Callable[[MemoryOpenLink], None] = MemoryOpenLink.greet
        self.links = ReplicaLinks(self.make_link, pause=self.pause)
        self._moved = asyncio.Event()

    def make_link(
        self, _endpoint: ReplicaEndpoint, version: ModelVersion, changed: Changed
    ) -> MemoryOpenLink:
        link = MemoryOpenLink(changed, self.opening)
        self.made.append(link)
        self.versions.append(version)
        self._moved.set()
        return link

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._moved.set()
        await asyncio.sleep(0)

    def apply(self, *endpoints: ReplicaEndpoint, version: ModelVersion = DOUBLER) -> None:
        snapshot = replace(a_snapshot(version, shadows=()), endpoints=endpoints)
        self.stand.pipeline.apply(snapshot)
        self.links.apply(snapshot, self.stand.pipeline.table.queues)

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                self._moved.clear()
                await self._moved.wait()

    async def settle(self) -> None:
        """Lets everything run that can run now."""
        for _ in range(20):
            await asyncio.sleep(0)

    @property
    def queue(self) -> VersionQueue:
        return self.stand.queue()


@pytest.fixture
async def net(stand: Stand) -> AsyncIterator[Net]:
    net = Net(stand)
    yield net
    await net.links.aclose()


def refuse(_link: MemoryOpenLink) -> None:
    raise ConnectionRefusedError


async def test_each_endpoint_gets_one_link(net: Net) -> None:
    """Every named replica is connected once, however often the snapshot names it."""
    net.apply(ENDPOINT, OTHER)
    await net.settle()
    net.apply(ENDPOINT, OTHER)
    await net.settle()

    assert net.queue.links == net.made
    assert (len(net.made), net.queue.ready) == (2, True)


async def test_unreachable_replica_is_tried_with_growing_pauses(net: Net) -> None:
    """Tried again and again, soon at first and then every two seconds."""
    net.opening = refuse
    net.apply(ENDPOINT)

    await net.until(lambda: len(net.pauses) == 10)

    assert net.pauses[:4] == [FIRST_PAUSE_S * 2**n for n in range(4)]
    assert (max(net.pauses), net.pauses[-1]) == (LAST_PAUSE_S, LAST_PAUSE_S)
    assert net.queue.links == []


async def test_closed_link_is_gone_at_once_and_opened_again(net: Net) -> None:
    """A connection that closes takes no more frames; the replica is tried after a short pause."""
    net.apply(ENDPOINT)
    await net.settle()

    net.made[0].abort()
    assert net.queue.links == []
    await net.settle()

    assert (net.queue.links, net.pauses) == ([net.made[1]], [FIRST_PAUSE_S])


async def test_replica_that_never_greets_is_not_tried_in_a_loop(net: Net) -> None:
    """Another artifact behind the socket: each attempt ends at once, so the pauses must grow."""
    net.opening = MemoryOpenLink.abort
    net.apply(ENDPOINT)

    await net.until(lambda: len(net.pauses) == 4)

    assert net.pauses[:4] == [FIRST_PAUSE_S * 2**n for n in range(4)]


async def test_pauses_start_over_after_a_greeting(net: Net) -> None:
    """Trouble long past does not slow the next reconnection down."""
    net.opening = refuse
    net.apply(ENDPOINT)
    await net.until(lambda: len(net.pauses) >= 4)
    net.opening = MemoryOpenLink.greet
    await net.until(lambda: net.queue.ready)
    before = len(net.pauses)

    net.made[-1].abort()
    await net.until(lambda: len(net.pauses) > before)

    assert net.pauses[before] == FIRST_PAUSE_S


async def test_greeting_during_connect_wakes_the_queue(net: Net) -> None:
    """Calls that wait leave with the first replica, however early it greets."""
    client = net.stand.client(2)
    net.apply()
    net.stand.send(client)

    def greet_early(link: MemoryOpenLink) -> None:
        link.greet()
        net.stand.turns.run()

    net.opening = greet_early
    net.apply(ENDPOINT)
    await net.settle()
    net.stand.turns.run()
    net.made[0].answer()

    assert client.answers == [[4, 4]]


async def test_idle_link_of_a_replica_that_left_is_closed(net: Net) -> None:
    """A replica that is no longer named is let go when nothing is in flight."""
    net.apply(ENDPOINT, OTHER)
    await net.settle()

    net.apply(OTHER)
    await net.settle()

    assert [link.closed for link in net.made] == [True, False]
    assert (net.queue.links, net.pauses) == ([net.made[1]], [])


async def test_frames_of_a_replica_that_left_are_answered_first(net: Net) -> None:
    """It takes no new frames, answers those it has, and then its link closes; nothing is left."""
    client, later = net.stand.client(2), net.stand.client(3)
    net.apply(ENDPOINT)
    await net.settle()
    net.stand.send(client)

    net.apply()
    await net.settle()
    net.stand.send(later)
    link = net.made[0]
    assert (link.closed, len(link.sent), net.queue.links) == (False, 1, [link])
    link.answer()

    assert client.answers == [[4, 4]]
    assert (link.closed, net.queue.links, len(net.made)) == (True, [], 1)


async def test_replica_that_left_and_hangs_is_still_watched(net: Net) -> None:
    """A link with frames in flight is looked at by every sweep, named or not."""
    net.apply(ENDPOINT)
    await net.settle()
    net.stand.send(net.stand.client())
    net.apply()
    await net.settle()

    net.queue.sweep(99)

    assert net.made[0].checks == [99]


async def test_changed_version_gets_links_of_its_own(net: Net) -> None:
    """A version with other limits has another queue: the replica is connected to that one."""
    net.apply(ENDPOINT)
    await net.settle()
    old = net.queue
    changed = replace(DOUBLER, batching=BatchLimits(max_batch_size=4))

    net.apply(ENDPOINT, version=changed)
    await net.settle()

    assert (old.links, net.queue.links) == ([], [net.made[1]])
    assert net.versions == [DOUBLER, changed]


async def test_moved_endpoint_is_connected_anew(net: Net) -> None:
    """The same replica at another address is reached there."""
    net.apply(ENDPOINT)
    await net.settle()

    net.apply(replace(ENDPOINT, address="unix:/elsewhere.sock"))
    await net.settle()

    assert (net.made[0].closed, net.queue.links) == (True, [net.made[1]])


async def test_endpoint_of_an_unknown_version_waits_for_it(net: Net) -> None:
    """A replica that registered before its version was published is connected afterwards."""
    endpoint = an_endpoint("r1", version="2")
    net.apply(endpoint)
    await net.settle()
    assert net.made == []

    net.apply(endpoint, version=replace(DOUBLER, version=endpoint.version))
    await net.settle()

    assert len(net.made) == 1


async def test_closing_loses_what_is_in_flight_and_leaves_nothing(net: Net) -> None:
    """At the end every link is closed and every keeper has ended."""
    net.apply(ENDPOINT, OTHER)
    await net.settle()
    net.stand.send(net.stand.client())

    await net.links.aclose()

    assert all(link.closed for link in net.made)
    assert (net.queue.links, len(asyncio.all_tasks())) == ([], 1)


# -- real sockets ----------------------------------------------------------------------------------


def a_listener(path: Path) -> ReplicaListener:
    listener = ReplicaListener(
        FunctionRunner(DOUBLER),
        replica="r1",
        place=UnixPlace(path),
        channel=ChannelSettings(),
        run_timeout_s=5,
        clock=SystemClock(),
    )
    listener.start()
    return listener


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def has_heard(client: Client) -> bool:
    return client.heard == 1


async def stop(listener: ReplicaListener) -> None:
    await asyncio.to_thread(partial(listener.stop, drain_s=2))


async def test_replica_that_comes_back_is_used_again(stand: Stand, tmp_path: Path) -> None:
    """Over real sockets, ten lives of a replica: requests are answered, descriptors are not lost."""
    settings = ChannelSettings()
    moved = asyncio.Event()

    def make_link(
        endpoint: ReplicaEndpoint, version: ModelVersion, changed: Callable[[OpenLink], None]
    ) -> Channel:
        def told(channel: Channel) -> None:
            changed(channel)
            moved.set()

        return Channel(endpoint, version, settings=settings, clock=SystemClock(), changed=told)

    async def until(what: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                moved.clear()
                stand.turns.run()
                await moved.wait()

    path = tmp_path / "r1.sock"
    endpoint = replace(ENDPOINT, address=f"unix:{path}")
    snapshot = replace(a_snapshot(DOUBLER, shadows=()), endpoints=(endpoint,))
    stand.pipeline.apply(snapshot)
    links = ReplicaLinks(make_link)
    links.apply(snapshot, stand.pipeline.table.queues)
    descriptors = []
    for life in range(10):
        listener = await asyncio.to_thread(a_listener, path)
        client = stand.client(life)
        stand.pipeline.infer(client)
        await until(partial(has_heard, client))
        assert client.answers == [[2.0 * life] * 2]
        await stop(listener)
        await until(lambda: not stand.queue().links)
        descriptors.append(open_descriptors())
    await links.aclose()

    assert descriptors[-1] <= descriptors[1]
