"""How long a gRPC call with a refused credential waits for its answer (`serving.edge.guesses`).

A connection carries many calls at once, so what waits is bounded: by `most` of all sources together.
Beyond that calls are answered at once, as holding them would take the places of calls that are fine.
A server that drains holds nobody.
"""

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import unquote

from serving.edge.guesses import Guesses, source_of


class RefusedCalls:
    """Those of one server that wait. guesses: its memory of sources; `guesses.held` counts."""

    def __init__(self, guesses: Guesses, *, most: int, now_s: Callable[[], float]) -> None:
        """now_s: monotonic time."""
        self.guesses = guesses
        self.waiting = 0
        self._most = most
        self._now_s = now_s
        self._draining = asyncio.Event()

    async def hold(self, peer: str) -> None:
        """Returns when a refused call of this peer may be answered."""
        if self.waiting >= self._most or self._draining.is_set():
            return
        wait_s = self.guesses.wait_s(source_of(socket_name(peer)), self._now_s())
        if not wait_s:
            return
        self.waiting += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._draining.wait()
        finally:
            self.waiting -= 1

    def drain(self) -> None:
        """Those that wait are answered now."""
        self._draining.set()


def socket_name(peer: str) -> object:
    """The name of a socket's peer as the library writes it: `ipv4:192.0.2.1:5000`,
    `ipv6:%5B2001:db8::1%5D:5000`; the empty text for a Unix socket, which has none."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return ""
    host, _, port = unquote(rest).rpartition(":")
    return host.strip("[]"), port
