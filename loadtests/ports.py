"""Ports of loopback for servers that are told where to listen.

The kernel gives its own range (from 32768, by default) to connections that go out, so that a port
from there may be taken between the moment it is found free and the moment the server binds it, or
while a server that was killed is about to come back. These are below that range, and above the ports
of Ray's workers (10002 to 19999).
"""

import os
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle
from random import SystemRandom
from typing import Final

FIRST: Final = 20_000
LAST: Final = 32_767


def free_ports(count: int) -> list[int]:
    """Different ports that nobody uses now, and that this process gave nobody for a long time."""
    found: list[int] = []
    candidates = _candidates()
    for _ in range(FIRST, LAST + 1):
        port = next(candidates)
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} ports from {FIRST} to {LAST} are free")


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


@cache
def _candidates() -> Iterator[int]:
    """One port after the other, from a random one on: others may run beside us. The processes of
    one pytest-xdist share none."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = range(FIRST + worker, LAST + 1, workers)
    start = SystemRandom().randrange(len(ports))
    return cycle([*ports[start:], *ports[:start]])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
