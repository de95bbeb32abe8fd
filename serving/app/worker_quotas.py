"""The quotas of a worker: its node's buckets, and what the nodes tell each other about them."""

import socket
from dataclasses import dataclass

from serving.access.keys import internal_secret
from serving.app.directory import DataDirectory
from serving.core.clock import Clock
from serving.gateway.buckets import Buckets
from serving.gateway.concurrency import Concurrency
from serving.gateway.quota_sharing import QuotaSharing, RedisStore, shared_salt
from serving.gateway.quotas import Quotas
from serving.settings import Settings


@dataclass(frozen=True, slots=True)
class WorkerQuotas:
    """quotas: None where nobody has one. sharing: None where every node is for itself."""

    quotas: Quotas | None = None
    sharing: QuotaSharing | None = None

    @classmethod
    def open(
        cls, settings: Settings, directory: DataDirectory, *, index: int, clock: Clock
    ) -> "WorkerQuotas":
        """Of the worker number `index`. Raises OSError when the password's file cannot be read."""
        if not settings.quotas:
            return cls()
        shared = settings.quota_sharing
        salt = shared_salt(internal_secret(directory.keys)) if shared.redis_url else None
        buckets = Buckets.open(directory.quotas, salt=salt)
        concurrency = Concurrency.open(
            directory.concurrency, workers=settings.http.workers, index=index, salt=salt
        )
        quotas = Quotas(settings.quotas, buckets, concurrency=concurrency, clock=clock)
        if shared.redis_url is None:
            # What was left by an earlier run that could not hear the others holds no longer.
            buckets.scale = 1
            concurrency.be_alone(1)
            return cls(quotas)
        sharing = QuotaSharing(
            buckets,
            RedisStore.connect(shared.redis_url, shared),
            concurrency=concurrency,
            node=f"{socket.gethostname()}/{directory.instance}",
            lock=directory.quota_lock,
            settings=shared,
            clock=clock,
        )
        return cls(quotas, sharing)
