"""Quotas that hold over several nodes: their buckets are told to each other through Redis.

Nothing here is on the path of a request. Each node hands out tokens from its own file of buckets
(`buckets`). One worker of each node, whoever holds the lock, tells Redis every `interval_s` how much
of each bucket its node has used and hears how much all nodes have used together, in one script for
all buckets. What a node hands out between two such turns the others learn afterwards and then wait
for: over any time a limit is exceeded by at most what the other nodes hand out in one interval, and
in the long run not at all. In the same turn it says how many requests of each caller with a limit on
them are inside its node, and hears how many are inside the others (`concurrency`).

While Redis does not answer, what happens is a setting. `share`: each node gives out its part, the
limits divided by the number of nodes there were. `local`: each node gives out the whole. `refuse`:
nobody with a quota gets anything. What was used meanwhile is told when Redis is back.

A bucket in Redis is one number, when it is full by Redis' own clock, and expires when it is. Who is
inside is a hash, a count and its time for each node; what a node that is gone had said counts no
longer after `NODE_S`. All keys share a hash tag, so a cluster keeps them in one place.
"""

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from serving.core.clock import Clock
from serving.gateway.buckets import REFUSE, Buckets, Use
from serving.gateway.concurrency import Concurrency
from serving.gateway_settings import QuotaSharingSettings

logger = structlog.get_logger()

MAX_AT_ONCE: Final = 1000
"""Buckets told in one script: Redis does nothing else meanwhile."""
NODE_S: Final = 10
"""A node that was not heard of for so long does not count."""
_PREFIX: Final = b"{serving-quota}:"

_MEET: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local answers = {}
for i, key in ipairs(KEYS) do
  local full = math.max(tonumber(redis.call('GET', key) or '0'), now) + tonumber(ARGV[i])
  if full > now then
    redis.call('SET', key, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
  else
    redis.call('DEL', key)
    full = now
  end
  answers[i] = full - now
end
return answers
"""
"""KEYS: buckets. ARGV: microseconds of each used since. Answers in how many microseconds it is full."""

_COUNT: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""
"""KEYS: the nodes. ARGV: this node, and after how many seconds one is forgotten. Answers how many."""

_ENTER: Final = """
local now = tonumber(redis.call('TIME')[1])
local node, life = ARGV[1], tonumber(ARGV[2])
local answers = {}
for i, key in ipairs(KEYS) do
  if tonumber(ARGV[i + 2]) > 0 then
    redis.call('HSET', key, node, now .. ':' .. ARGV[i + 2])
    redis.call('EXPIRE', key, life)
  else
    redis.call('HDEL', key, node)
  end
  local said, others = redis.call('HGETALL', key), 0
  for j = 1, #said, 2 do
    local at, count = string.match(said[j + 1], '(%d+):(%d+)')
    if now - tonumber(at) > life then
      redis.call('HDEL', key, said[j])
    elseif said[j] ~= node then
      others = others + tonumber(count)
    end
  end
  answers[i] = others
end
return answers
"""
"""KEYS: callers. ARGV: this node, after how many seconds a count is forgotten, and how many of each
caller are inside this node. Answers how many are inside the others."""

Pause = Callable[[float], Coroutine[Any, Any, None]]


class Store(Protocol):
    """What all nodes can reach; `RedisStore` in the product."""

    async def count(self, node: str) -> int:
        """Says that `node` is here; how many are."""

    async def meet(self, uses: Sequence[Use]) -> list[int]:
        """Tells what was used; in how many nanoseconds each bucket is full."""

    async def enter(self, node: str, insides: Mapping[bytes, int]) -> list[int]:
        """Tells how many of each caller are inside `node`; how many are inside the others."""


class RedisStore:
    """Buckets in Redis. Raises RedisError or OSError when it does not answer in time."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._meet = redis.register_script(_MEET)
        self._count = redis.register_script(_COUNT)
        self._enter = redis.register_script(_ENTER)

    @classmethod
    def connect(cls, url: str, settings: QuotaSharingSettings) -> "RedisStore":
        """Connects with the first call. Raises OSError when the password's file cannot be read."""
        file = settings.password_file
        password = file.read_text().strip() if file is not None else None
        return cls(
            Redis.from_url(
                url,
                password=password,
                socket_timeout=settings.timeout_s,
                socket_connect_timeout=settings.timeout_s,
                retry=None,
            )
        )

    async def count(self, node: str) -> int:
        return int(await self._count(keys=[_PREFIX + b"nodes"], args=[node, NODE_S]))

    async def meet(self, uses: Sequence[Use]) -> list[int]:
        answers: list[int] = await self._meet(
            keys=[_PREFIX + use.key for use in uses], args=[use.untold_ns // 1000 for use in uses]
        )
        return [full_in_us * 1000 for full_in_us in answers]

    async def enter(self, node: str, insides: Mapping[bytes, int]) -> list[int]:
        answers: list[int] = await self._enter(
            keys=[_PREFIX + b"inside:" + key for key in insides],
            args=[node, NODE_S, *insides.values()],
        )
        return answers

    async def aclose(self) -> None:
        await self._redis.aclose()


class QuotaSharing:
    """One of the workers of a node tells and learns; the others wait to take its place."""

    def __init__(
        self,
        buckets: Buckets,
        store: Store,
        *,
        concurrency: Concurrency,
        node: str,
        lock: Path,
        settings: QuotaSharingSettings,
        clock: Clock,
        pause: Pause = asyncio.sleep,
    ) -> None:
        """node: a name that no other node has. lock: a file that the workers of this node share."""
        self.shared = False
        self.nodes = 1
        self._buckets = buckets
        self._concurrency = concurrency
        self._told: list[bytes] = []
        self._store = store
        self._node = node
        self._lock = lock
        self._settings = settings
        self._clock = clock
        self._pause = pause

    async def run(self) -> None:
        """Until cancelled."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _locked(descriptor):
                await self._pause(1.0)
            # The client of Redis may take a cancellation for its own timeout when both come at once.
            while not _is_cancelled():
                await self.meet()
                await self._pause(self._settings.interval_s)
        finally:
            os.close(descriptor)

    async def meet(self) -> None:
        """One turn: tells what was used here and learns what was used everywhere."""
        try:
            self.nodes = await self._store.count(self._node)
            await self._meet_uses()
            await self._meet_insides()
        except (RedisError, OSError) as error:
            self._alone(error)
        else:
            if not self.shared:
                logger.info("quotas are shared", nodes=self.nodes)
            self.shared = True
            self._buckets.scale = 1
            self._concurrency.share()

    async def _meet_uses(self) -> None:
        uses = self._buckets.take_uses(self._clock.monotonic_ns())
        try:
            while uses:
                told = uses[:MAX_AT_ONCE]
                full_in = await self._store.meet(told)
                uses = uses[MAX_AT_ONCE:]
                now_ns = self._clock.monotonic_ns()
                for use, full_in_ns in zip(told, full_in, strict=True):
                    self._buckets.learn(use.key, full_in_ns=full_in_ns, now_ns=now_ns)
        finally:
            self._buckets.return_uses(uses, self._clock.monotonic_ns())

    async def _meet_insides(self) -> None:
        # Who was inside at the last turn and is no longer is told too, as nobody.
        insides = dict.fromkeys(self._told, 0) | self._concurrency.insides()
        keys = list(insides)
        for start in range(0, len(keys), MAX_AT_ONCE):
            told = {key: insides[key] for key in keys[start : start + MAX_AT_ONCE]}
            elsewhere = await self._store.enter(self._node, told)
            for key, others in zip(told, elsewhere, strict=True):
                self._concurrency.learn(key, here=told[key], elsewhere=others)
        self._told = [key for key, here in insides.items() if here]

    def _alone(self, error: Exception) -> None:
        if self.shared or self._buckets.scale == 1:
            logger.warning(
                "quotas are not shared", when_down=self._settings.when_down, error=repr(error)
            )
        self.shared = False
        scales = {"share": max(self.nodes, self._settings.nodes), "local": 1, "refuse": REFUSE}
        scale = scales[self._settings.when_down]
        self._buckets.scale = scale
        self._concurrency.be_alone(scale)


def shared_salt(secret: str) -> bytes:
    """What the nodes of one installation, which share `secret`, know their callers by."""
    return hashlib.blake2b(secret.encode(), digest_size=16, person=b"serving-quota").digest()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _locked(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
