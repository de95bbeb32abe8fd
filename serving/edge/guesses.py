"""Who shows credentials that are refused, and how long the answer to the next one may take.

A refused credential costs the worker a signature check; whoever tries many would take time from
callers that are known. So each source, an address or the /64 of an IPv6 address, has a budget of
refusals that are answered at once. Beyond it the answer is held back: the connection, which takes
one request at a time, waits and costs nothing. Known callers behind the same address notice
nothing, for it is only refusals that wait.

The memory of sources is bounded; the one that has been quiet for longest is forgotten first.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final

MAX_SOURCES: Final = 10_000
BURST_S: Final = 5.0
"""How many seconds' worth of refusals are answered at once after a quiet time."""


class Guesses:
    """One server's memory of refused credentials by source."""

    def __init__(self, *, per_s: float, longest_s: float) -> None:
        """per_s: refusals of one source that are answered at once. longest_s: no answer waits longer."""
        self.held = 0
        self._interval_s = 1.0 / per_s
        self._longest_s = longest_s
        self._paid_until_s: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, source: str, now_s: float) -> float:
        """Counts one more refusal of `source`; how long its answer is to wait, 0.0 for not at all.

        now_s: monotonic time.
        """
        paid_until_s = max(self._paid_until_s.get(source, 0.0), now_s) + self._interval_s
        wait_s = min(max(paid_until_s - now_s - BURST_S, 0.0), self._longest_s)
        # Those who go on do not grow a debt that they would wait for after having stopped.
        self._paid_until_s[source] = min(paid_until_s, now_s + BURST_S + self._longest_s)
        self._paid_until_s.move_to_end(source)
        if len(self._paid_until_s) > MAX_SOURCES:
            self._paid_until_s.popitem(last=False)
        if wait_s:
            self.held += 1
        return wait_s


def source_of(peer: object) -> str:
    """The source behind the address of a socket's peer; one name for all Unix sockets."""
    if not isinstance(peer, tuple) or not peer:
        return ""
    try:
        address = ip_address(str(peer[0]).partition("%")[0])
    except ValueError:
        return ""
    if not isinstance(address, IPv6Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else f"{int(address) >> 64:x}/64"
