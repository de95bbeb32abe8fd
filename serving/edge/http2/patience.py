"""How much a peer may do that costs us more than it: budgets of one connection, refilled with time.

Every flood of HTTP/2 is many cheap frames: pings and settings that want an answer, empty frames, windows
and priorities, streams that are opened and reset at once (CVE-2019-9511 to 9518, CVE-2023-44487).
Each such frame costs a unit of a budget. What a useful client does beside its requests is in proportion
to them, so what is sent to it gives units back.
"""

from typing import Final

from serving.edge.http2.frames import ConnectionFault, ErrorCode

TICKS_PER_S: Final = 4
MOST_EXTRAS: Final = 2_000
EXTRAS_PER_TICK: Final = 250
EXTRAS_PER_SENT: Final = 4
"""A client may tell of each frame of data that it has room again, for the stream and the connection."""
MOST_RESETS: Final = 1_024
"""A client may give up all that it has under way."""
RESETS_PER_TICK: Final = 25
MAX_STRIKES: Final = 2
"""Pings that came too early, between two things that we sent."""


class Patience:
    """What is left of it. Counts ticks of the server's sweep."""

    __slots__ = ("_extras", "_last_ping", "_resets", "_strikes", "_tick")

    def __init__(self, tick: int) -> None:
        self._extras = MOST_EXTRAS
        self._resets = MOST_RESETS
        self._strikes = 0
        self._last_ping = tick - 2**31
        self._tick = tick

    def spend(self, cost: int = 1) -> None:
        """A frame beside the requests. cost: in ordinary frames. Raises ConnectionFault."""
        self._extras -= cost
        if self._extras < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames beside requests")

    def reset(self) -> None:
        """The client gave up a request. Raises ConnectionFault."""
        self._resets -= 1
        if self._resets < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many resets")

    def ping(self, tick: int, *, least_ticks: float) -> None:
        """Raises ConnectionFault for a ping that comes too early again."""
        self.spend()
        early = tick - self._last_ping < least_ticks
        self._last_ping = tick
        if early:
            self._strikes += 1
            if self._strikes > MAX_STRIKES:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")

    def sent(self) -> None:
        """A head or data left: whoever gets something may ping to measure how fast."""
        self._strikes = 0
        self._last_ping = -(2**31)
        if self._extras < MOST_EXTRAS:
            self._extras += EXTRAS_PER_SENT

    def served(self) -> None:
        """A request has its answer."""
        if self._resets < MOST_RESETS:
            self._resets += 1
        self.sent()

    def sweep(self, tick: int) -> None:
        """Time heals."""
        passed, self._tick = tick - self._tick, tick
        self._extras = min(self._extras + passed * EXTRAS_PER_TICK, MOST_EXTRAS)
        self._resets = min(self._resets + passed * RESETS_PER_TICK, MOST_RESETS)
