"""What checks of credentials cost: a known one, and a flood of bad ones beside callers who are known.

    python -m loadtests.guesses              six pairs of windows, two minutes
    python -m loadtests.guesses --quick      seconds instead: for CI, not for reporting

BENCHMARKS, case 14b. 10,000 tokens are shown to one authenticator in turn: the time of a check that
finds what it knows. Then the product with M1: wrk keeps 64 connections of one caller busy, in windows
without and with a flood, in turn, the first of each pair by lot. The flood is 64 connections from the
same address, each with another token every time: right in form, of the right issuer and key, with a
signature that is none, so that each has to be checked. A window begins a second after its load, when
the flood has used up what is answered at once. `valid slowed by %` is the median over the pairs of what
the caller's throughput lost; `CPU more by %` the same for the CPU time of the product for each answer,
which other work on the machine hardly moves. Exit status as for `loadtests.benchmark`.
"""

import argparse
import base64
import os
import random
import socket
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from loadtests import facts, wrk
from loadtests.children import ChildFailed
from loadtests.goals import Figures, conclusion, judge, save
from loadtests.openloop import render
from loadtests.report import RESULTS, private_folder, tell
from loadtests.targets import Target, product_target
from serving.access.issuer import LocalIssuer
from serving.access.tokens import Authenticator
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.settings import AccessSettings

TOKENS: Final = 10_000
CONNECTIONS: Final = 64
PAIRS: Final = 6
ROUNDS: Final = 20
LEAD_S: Final = 1.0
TIMEOUT_S: Final = 30.0
SEED: Final = 14
MISSED, IMPOSSIBLE = 1, 2

_SIGNATURE_BYTES: Final = 64
_clock: Final = SystemClock()


@dataclass(frozen=True, slots=True)
class Window:
    """What the caller got, and the CPU time that the product took meanwhile."""

    outcome: wrk.Outcome
    cpu_s: float

    @property
    def rate_per_s(self) -> float:
        return self.outcome.requests / self.outcome.seconds

    @property
    def cpu_us(self) -> float:
        """For each answer."""
        return 1e6 * self.cpu_s / self.outcome.requests


class Flood:
    """Callers that guess, each on a connection of its own, the next when the answer is there."""

    def __init__(self, target: Target, *, connections: int = CONNECTIONS) -> None:
        self.statuses: Counter[int] = Counter()
        """Of all answers until now."""
        self._target = target
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._guess) for _ in range(connections)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _guess(self) -> None:
        target = self._target
        good = target.headers["Authorization"]
        address = (target.host, target.port)
        with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
            while not self._ended.is_set():
                connection.sendall(_request(target, bad_token(good)))
                answer = connection.recv(65_536)
                self.statuses[int(answer[9:12]) if answer else 0] += 1
                if not answer or b"\r\nConnection: close" in answer:
                    return


def bad_token(good: str) -> str:
    """The same token with a signature that nobody made, another one every time."""
    signed = good.rpartition(".")[0]
    signature = base64.urlsafe_b64encode(os.urandom(_SIGNATURE_BYTES)).rstrip(b"=")
    return f"{signed}.{signature.decode()}"


def checks(folder: Path, *, tokens: int = TOKENS) -> Figures:
    """The cost of a check that finds what it knows."""
    figures = Figures("checks")
    settings = AccessSettings()
    issuer = LocalIssuer.open(folder / "keys", settings, _clock)
    shown = [
        b"Bearer " + issuer.issue(subject=f"caller {number}", roles=[Role.CALLER]).encode()
        for number in range(tokens)
    ]
    authenticator, now_s = Authenticator([issuer.trusted], settings), _clock.wall_ns() / 1e9
    times_s = []
    for _ in range(ROUNDS):
        start_ns = _clock.monotonic_ns()
        for token in shown:
            authenticator.authenticate(token, now_s)
        times_s.append((_clock.monotonic_ns() - start_ns) / 1e9)
    figures.add("us for a new token", 1e6 * times_s[0] / tokens)
    figures.add("us per cached check", 1e6 * min(times_s[1:]) / tokens)
    return figures


def guesses(folder: Path, *, seconds: float, pairs: int = PAIRS) -> Figures:
    """A caller's throughput with a flood beside it, over that without."""
    lot = random.Random(SEED)  # noqa: S311 - an order, no secret
    order = [flooded for _ in range(pairs) for flooded in lot.sample((False, True), 2)]
    windows: dict[bool, list[Window]] = {False: [], True: []}
    statuses: Counter[int] = Counter()
    with product_target("M1", folder) as target:
        _window(target, folder, seconds)  # Warm: heads, tokens, batch sizes.
        for is_flooded in order:
            with Flood(target, connections=CONNECTIONS * is_flooded) as flood:
                windows[is_flooded].append(_window(target, folder, seconds))
            statuses += flood.statuses
    return _figures(windows[False], windows[True], statuses)


def _figures(quiet: Sequence[Window], flooded: Sequence[Window], statuses: Counter[int]) -> Figures:
    figures = Figures("guesses")
    pairs = list(zip(quiet, flooded, strict=True))
    ratios = [beside.rate_per_s / without.rate_per_s for without, beside in pairs]
    costs = [beside.cpu_us / without.cpu_us for without, beside in pairs]
    windows = [*quiet, *flooded]
    flooded_s = sum(each.outcome.seconds + LEAD_S for each in flooded)
    figures.add("valid req/s without", statistics.median(each.rate_per_s for each in quiet))
    figures.add("valid req/s with", statistics.median(each.rate_per_s for each in flooded))
    figures.add("valid slowed by %", 100 * (1 - statistics.median(ratios)))
    figures.add("slowed by % in the worst pair", 100 * (1 - min(ratios)))
    figures.add("CPU us per answer without", statistics.median(each.cpu_us for each in quiet))
    figures.add("CPU more by %", 100 * (statistics.median(costs) - 1))
    figures.add("failed requests of valid callers", sum(w.outcome.errors for w in windows))
    figures.add("refusals per second", statuses[401] / flooded_s)
    figures.add("guesses answered otherwise", statuses.total() - statuses[401])
    return figures


def _request(target: Target, authorization: str) -> bytes:
    headers = {**target.payload.headers, **target.headers, "Authorization": authorization}
    path = "/" + target.url.split("/", 3)[3]
    return render(path, target.payload.body, list(headers.items()))


def _window(target: Target, folder: Path, seconds: float) -> Window:
    load = target.closed_load(CONNECTIONS)
    wrk.run(load, seconds=LEAD_S, folder=folder)
    before_s = target.account.seconds()
    outcome = wrk.run(load, seconds=seconds, folder=folder)
    return Window(outcome, target.account.seconds() - before_s)


def main() -> int:
    options = _parse()
    seconds = options.seconds or (1.0 if options.quick else 8.0)
    known = facts.all_facts()
    try:
        with private_folder() as folder:
            measured = [
                checks(folder),
                guesses(folder, seconds=seconds, pairs=1 if options.quick else PAIRS),
            ]
    except (ChildFailed, wrk.WrkFailed, OSError) as error:
        tell(f"could not measure: {error}")
        return IMPOSSIBLE
    verdicts = judge(measured)
    path = save(known, measured, verdicts, folder=RESULTS, name="guesses")
    sys.stdout.write("\n".join(each.as_text() for each in measured) + "\n")
    tell(f"{conclusion(verdicts)}\nwritten to {path}")
    return MISSED if any(each.missed for each in verdicts) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one pair of windows of 1 s")
    parser.add_argument("--seconds", type=float, help="of a window (default 8)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
