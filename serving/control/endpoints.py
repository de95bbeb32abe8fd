"""The leases of replicas: who is there, until when, and what each one told last.

A replica renews every `control.renew_s`; a lease that is not renewed for `control.lease_s` ends. A
replica that is about to be stopped is withdrawn: it gets no lease any more, however often it asks.
All calls are made on the event loop; each says whether the set of endpoints changed by it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from serving.core.clock import Clock
from serving.core.traffic import ReplicaEndpoint
from serving.inference.registration import Renewal

WITHDRAWN_NS: Final = 600 * 1_000_000_000
"""So long a withdrawn replica is remembered; by then it has been stopped."""


@dataclass(frozen=True, slots=True)
class Lease:
    """renewal: None for a replica known only from the snapshot before a restart."""

    endpoint: ReplicaEndpoint
    renewed_ns: int
    renewal: Renewal | None = None


class Leases:
    """Live replicas by name. Starts empty, or from what was published before a restart."""

    def __init__(
        self, *, lease_s: float, clock: Clock, restored: Iterable[ReplicaEndpoint] = ()
    ) -> None:
        self._lease_ns = round(lease_s * 1e9)
        self._clock = clock
        now_ns = clock.monotonic_ns()
        self._leases = {each.replica: Lease(each, now_ns) for each in restored}
        self._withdrawn_ns: dict[str, int] = {}

    def renew(self, renewal: Renewal) -> bool:
        """Grants or prolongs the lease of the replica that `renewal` names."""
        endpoint = renewal.endpoint
        if endpoint.replica in self._withdrawn_ns:
            return False
        before = self._leases.get(endpoint.replica)
        self._leases[endpoint.replica] = Lease(endpoint, self._clock.monotonic_ns(), renewal)
        return before is None or before.endpoint != endpoint

    def leave(self, replica: str) -> bool:
        """Ends a lease at once. Unknown replicas have left already."""
        return self._leases.pop(replica, None) is not None

    def withdraw(self, key: str) -> None:
        """Ends the leases of a `model@version` for good: its replicas are about to be stopped."""
        now_ns = self._clock.monotonic_ns()
        for replica, lease in list(self._leases.items()):
            if f"{lease.endpoint.model}@{lease.endpoint.version}" == key:
                del self._leases[replica]
                self._withdrawn_ns[replica] = now_ns

    def expire(self) -> list[ReplicaEndpoint]:
        """Ends the leases that were not renewed in time and returns their endpoints."""
        now_ns = self._clock.monotonic_ns()
        self._withdrawn_ns = {
            replica: since_ns
            for replica, since_ns in self._withdrawn_ns.items()
            if since_ns > now_ns - WITHDRAWN_NS
        }
        oldest_ns = now_ns - self._lease_ns
        gone = [each for each in self._leases.values() if each.renewed_ns < oldest_ns]
        for lease in gone:
            del self._leases[lease.endpoint.replica]
        return [lease.endpoint for lease in gone]

    def live(self) -> tuple[Lease, ...]:
        """In the order of the replicas' names, so that equal sets are equal values."""
        return tuple(self._leases[replica] for replica in sorted(self._leases))
