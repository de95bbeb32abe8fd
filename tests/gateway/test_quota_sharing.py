"""Quotas over several nodes, against a real Redis that comes and goes."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from loadtests.ports import free_port
from serving.core.clock import SystemClock
from serving.core.principals import Principal, Role
from serving.errors import QuotaExceeded
from serving.gateway.buckets import Buckets
from serving.gateway.concurrency import Concurrency
from serving.gateway.quota_sharing import NODE_S, QuotaSharing, RedisStore, shared_salt
from serving.gateway.quotas import Quotas
from serving.gateway_settings import QuotaRule, QuotaSharingSettings
from serving.settings import load
from tests.redis_server import redis_server

ANN = Principal("ann", frozenset({Role.CALLER}))


class Node:
    """One node with one worker, on the clock of this machine."""

    def __init__(self, folder: Path, rule: QuotaRule, settings: QuotaSharingSettings) -> None:
        folder.mkdir()
        self.clock = SystemClock()
        self.buckets = Buckets.open(folder / "b", salt=shared_salt("ours"))
        concurrency = Concurrency.open(folder / "c", workers=1, index=0, salt=shared_salt("ours"))
        self.concurrency = concurrency
        self.quotas = Quotas([rule], self.buckets, concurrency=concurrency, clock=self.clock)
        assert settings.redis_url is not None
        self.store = RedisStore.connect(settings.redis_url, settings)
        self.sharing = QuotaSharing(
            self.buckets,
            self.store,
            concurrency=concurrency,
            node=folder.name,
            lock=folder / "lock",
            settings=settings,
            clock=self.clock,
        )

    def leaves(self, requests: int) -> None:
        """So many that were admitted have their answers."""
        account = self.quotas.of(ANN)
        assert account is not None
        for _ in range(requests):
            account.leave()

    def admits(self) -> bool:
        account = self.quotas.of(ANN)
        assert account is not None
        try:
            account.admit(self.clock.monotonic_ns())
        except QuotaExceeded:
            return False
        return True


@pytest.fixture
def port() -> Iterator[int]:
    number = free_port()
    with redis_server(number):
        yield number


def settings_of(port: int, **more: object) -> QuotaSharingSettings:
    return QuotaSharingSettings.model_validate(
        {"redis_url": f"redis://127.0.0.1:{port}", "interval_s": 0.02, "timeout_s": 10.0, **more}
    )


async def test_a_limit_holds_over_two_nodes(tmp_path: Path, port: int) -> None:
    """200 a second over two greedy nodes for 2 s: no more than that, the bursts, and one interval; and
    hardly less, but for what was lost while the machine let nobody ask for longer than a burst lasts."""
    rule = QuotaRule(requests_per_s=200, burst_s=0.05)
    nodes = [Node(tmp_path / name, rule, settings_of(port)) for name in ("one", "two")]
    tasks = [asyncio.create_task(node.sharing.run()) for node in nodes]
    admitted, silent_s = 0, 0.0
    loop = asyncio.get_running_loop()
    began = asked = loop.time()
    while asked < began + 2.0:
        admitted += sum(node.admits() for node in nodes)
        await asyncio.sleep(0.001)
        silent_s += max(0.0, loop.time() - asked - 0.025)
        asked = loop.time()
    asked_s = asked - began
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for node in nodes:
        await node.store.aclose()

    assert admitted <= 200 * asked_s + 2 * 10 + 200 * 0.1
    assert admitted >= 190 * (asked_s - silent_s)
    assert [node.sharing.nodes for node in nodes] == [2, 2]


async def test_what_one_node_used_another_learns(tmp_path: Path, port: int) -> None:
    """A bucket emptied on one node is empty on the other after one turn of each."""
    rule = QuotaRule(requests_per_day=50)
    one, two = (Node(tmp_path / name, rule, settings_of(port)) for name in ("one", "two"))
    assert sum(one.admits() for _ in range(60)) == 50

    await one.sharing.meet()
    assert two.admits()
    await two.sharing.meet()

    assert not two.admits()
    await one.store.aclose()
    await two.store.aclose()


@pytest.mark.parametrize(("when_down", "expected"), [("share", 25), ("local", 50), ("refuse", 0)])
async def test_rl_02_without_redis_the_setting_decides(
    tmp_path: Path, when_down: str, expected: int
) -> None:
    """Each of two nodes gives out its part, the whole or nothing; never more than it was told."""
    rule = QuotaRule(requests_per_day=50)
    settings = settings_of(free_port(), when_down=when_down, nodes=2)
    node = Node(tmp_path / "one", rule, settings)

    await node.sharing.meet()

    assert sum(node.admits() for _ in range(100)) == expected
    assert not node.sharing.shared
    await node.store.aclose()


async def turn(*nodes: Node) -> None:
    """Each says what it has, and then again, so that all have heard all."""
    for node in (*nodes, *nodes):
        await node.sharing.meet()


async def test_who_is_inside_one_node_counts_on_the_other(tmp_path: Path, port: int) -> None:
    """Of ten at once, seven are inside one node: the other lets three in, and more when some leave."""
    nodes = [Node(tmp_path / name, QuotaRule(concurrent=10), settings_of(port)) for name in "ab"]
    one, two = nodes
    assert sum(one.admits() for _ in range(7)) == 7
    assert two.admits()
    await turn(one, two)
    assert sum(two.admits() for _ in range(20)) == 2
    await turn(one, two)
    assert not one.admits()
    one.leaves(4)
    await turn(one, two)

    assert sum(two.admits() for _ in range(20)) == 4
    for node in nodes:
        await node.store.aclose()


async def test_too_many_inside_several_nodes_come_down_to_the_limit(
    tmp_path: Path, port: int
) -> None:
    """All nodes fill at once, each not knowing of the others: at the next turn each keeps its part,
    and goes on with that."""
    nodes = [Node(tmp_path / name, QuotaRule(concurrent=10), settings_of(port)) for name in "ab"]
    assert [sum(node.admits() for _ in range(20)) for node in nodes] == [10, 10]
    await turn(*nodes)
    for node in nodes:
        node.leaves(10)

    assert [sum(node.admits() for _ in range(20)) for node in nodes] == [5, 5]
    await turn(*nodes)
    assert [node.admits() for node in nodes] == [False, False]
    for node in nodes:
        await node.store.aclose()


async def test_what_a_dead_node_had_said_counts_no_longer(tmp_path: Path, port: int) -> None:
    """A node that told of ten inside is gone: the others forget them when its time is over."""
    nodes = [Node(tmp_path / name, QuotaRule(concurrent=10), settings_of(port)) for name in "ab"]
    gone, here = nodes
    assert sum(gone.admits() for _ in range(10)) == 10
    assert here.admits()
    await turn(gone, here)
    assert not here.admits()
    redis = Redis(port=port)
    (key,) = await redis.keys("*inside*")
    assert 0 < await redis.ttl(key) <= NODE_S
    await redis.hset(key, "a", f"{10**9}:10")
    await here.sharing.meet()

    assert sum(here.admits() for _ in range(20)) == 9
    assert await redis.hkeys(key) == [b"b"]
    for store in (redis, gone.store, here.store):
        await store.aclose()


@pytest.mark.parametrize(("when_down", "expected"), [("share", 5), ("local", 10), ("refuse", 0)])
async def test_rl_02_without_redis_the_setting_decides_who_comes_in(
    tmp_path: Path, when_down: str, expected: int
) -> None:
    """Of ten at once each of two nodes lets in its part, all or none."""
    settings = settings_of(free_port(), when_down=when_down, nodes=2)
    node = Node(tmp_path / "one", QuotaRule(concurrent=10), settings)

    await node.sharing.meet()

    assert sum(node.admits() for _ in range(20)) == expected
    await node.store.aclose()


async def test_rl_02_what_was_used_meanwhile_is_told_afterwards(tmp_path: Path) -> None:
    """Redis dies and comes back: the other node learns what was used without it."""
    port = free_port()
    rule = QuotaRule(requests_per_day=50)
    settings = settings_of(port, when_down="local")
    one, two = (Node(tmp_path / name, rule, settings) for name in ("one", "two"))
    with redis_server(port) as server:
        await one.sharing.meet()
        assert one.sharing.shared
        server.kill()
        server.wait()
        assert sum(one.admits() for _ in range(40)) == 40
        await one.sharing.meet()
        outage = one.sharing.shared
    with redis_server(port):
        await one.sharing.meet()
        assert two.admits()
        await two.sharing.meet()

        assert (outage, one.sharing.shared) == (False, True)
        assert sum(two.admits() for _ in range(40)) == 9
        await one.store.aclose()
        await two.store.aclose()


def test_a_password_in_the_address_is_refused(tmp_path: Path) -> None:
    """Addresses are shown in status and logs; a password has its own file."""
    config = tmp_path / "c.yaml"
    config.write_text("quota_sharing: {redis_url: 'redis://:secret@127.0.0.1:6379'}")
    with pytest.raises(Exception, match="password_file"):
        load(config=config, environment={})
