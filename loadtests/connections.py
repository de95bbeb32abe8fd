"""Many connections, and large bodies: what each costs.

    python -m loadtests.connections              both, three minutes
    python -m loadtests.connections --quick      seconds instead: for CI, not for reporting

    connections    the product with M1, one-row JSON, 1,000 requests a second spread over 1 to 5,000
                   connections that stay open: CPU per request, latency, resident memory of each
    payload        our HTTP server alone (`loadtests.fixed_answer`), bodies of 256 bytes to 16 MiB from
                   four connections in a closed loop: bytes per second of CPU, and resident memory
                   over the bytes that can be under way

The payload case says what receiving costs, without a model. Exit status as for
`loadtests.benchmark`. Needs as many open files as connections.
"""

import argparse
import contextlib
import resource
import socket
import sys
import threading
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from loadtests import facts
from loadtests.children import ChildFailed
from loadtests.goals import Figures, conclusion, judge, save
from loadtests.openloop import OpenLoad, OpenOutcome, Step, render, run
from loadtests.report import RESULTS, private_folder, tell
from loadtests.servers import Server, floor
from loadtests.targets import Target, product_target
from loadtests.watching import Watch, resident_bytes
from serving.core.clock import SystemClock

CONNECTIONS: Final = (1, 16, 256, 1_000, 5_000)
USUAL: Final = 16
RATE_PER_S: Final = 1_000.0
PAYLOAD_BYTES: Final = (256, 4_096, 65_536, 1 << 20, 4 << 20, 16 << 20)
SENDERS: Final = 4
SPARE_DESCRIPTORS: Final = 500
MISSED, IMPOSSIBLE = 1, 2

_clock: Final = SystemClock()


def connections(folder: Path, *, seconds: float) -> Figures:
    """Case 13, first half."""
    figures = Figures("connections")
    cpu_us: dict[int, float] = {}
    with product_target("M1", folder) as target:
        _open_load(target, USUAL, seconds)  # Warm: heads, tokens, batch sizes.
        most = max(CONNECTIONS)
        figures.add("bytes per connection", _grown_bytes(target, most) / most)
        for count in CONNECTIONS:
            with Watch(target.account) as watch:
                outcome = _open_load(target, count, seconds)
            cpu_us[count] = 1e6 * watch.cpu_s(0, seconds) / max(len(outcome.accepted.due_s), 1)
            figures.add(f"CPU us per request, {count}", cpu_us[count])
            figures.add(f"p99 ms, {count}", outcome.quantile_ms(0.99))
            figures.add(f"unanswered, {count}", outcome.unanswered)
    figures.add(f"CPU of {most} over that of {USUAL}", cpu_us[most] / cpu_us[USUAL])
    return figures


def payload(folder: Path, *, seconds: float) -> Figures:
    """Case 13, second half."""
    figures = Figures("payload")
    with floor("edge", folder) as server, Watch(server.account) as whole:
        for size in PAYLOAD_BYTES:
            used_s = server.account.seconds()
            count = _send(server, size, seconds=seconds)
            used_s = max(server.account.seconds() - used_s, 1e-9)
            figures.add(f"GB per core and second at {size}", count * size / used_s / 1e9)
            figures.add(f"requests per second at {size}", count / seconds)
    figures.add("RSS over payload in flight", whole.growth_bytes / (SENDERS * max(PAYLOAD_BYTES)))
    return figures


def _open_load(target: Target, count: int, seconds: float) -> OpenOutcome:
    step = Step(RATE_PER_S, seconds)
    return run(OpenLoad(target.host, target.port, [target.request], [step], count))


def _grown_bytes(target: Target, count: int) -> int:
    """By how much so many connections that were each used once let the worker grow."""
    before = _worker_bytes(target)
    request = render("/v2/health/live", b"", []).replace(b"POST", b"GET", 1)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((target.host, target.port)))
            connection.sendall(request)
            if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                raise OSError("a connection was refused")
        return _worker_bytes(target) - before


def _worker_bytes(target: Target) -> int:
    """Resident memory of the gateway workers."""
    pids = target.account.pids()
    return sum(resident_bytes(pid) for pid in pids if b"serving.app.worker" in _command_of(pid))


def _command_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _send(server: Server, size: int, *, seconds: float) -> int:
    """How many bodies of that size were answered in that time, sent by `SENDERS` at once."""
    request = render("/", bytes(size), [])
    end_ns = _clock.monotonic_ns() + round(seconds * 1e9)
    counts: list[int] = []
    senders = [
        threading.Thread(target=lambda: counts.append(_send_until(server.url, request, end_ns)))
        for _ in range(SENDERS)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    if len(counts) < SENDERS:
        raise OSError(f"bodies of {size} bytes were not answered")
    return sum(counts)


def _send_until(url: str, request: bytes, end_ns: int) -> int:
    """How many answers there were; one at least."""
    place = urlsplit(url)
    count = 0
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not count or _clock.monotonic_ns() < end_ns:
            connection.sendall(request)
            if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                raise OSError("a body was refused")
            count += 1
    return count


def main() -> int:
    options = _parse()
    seconds = options.seconds or (2.0 if options.quick else 15.0)
    known = facts.all_facts()
    try:
        _take_descriptors()
        with private_folder() as folder:
            measured = [connections(folder, seconds=seconds), payload(folder, seconds=seconds)]
    except (ChildFailed, OSError) as error:
        tell(f"could not measure: {error}")
        return IMPOSSIBLE
    verdicts = judge(measured)
    path = save(known, measured, verdicts, folder=RESULTS, name="connections")
    sys.stdout.write("\n".join(each.as_text() for each in measured) + "\n")
    tell(f"{conclusion(verdicts)}\nwritten to {path}")
    return MISSED if any(each.missed for each in verdicts) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 s for each number")
    parser.add_argument("--seconds", type=float, help="for each number (default 15)")
    return parser.parse_args()


def _take_descriptors() -> None:
    """For this process and the servers that it starts. Raises OSError when there are too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(CONNECTIONS) + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise OSError(f"{wanted} open files are needed; {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
