"""How much a principal or a tenant may use: requests, rows and compute time, a second and a day.

A rule names subjects and tenants by pattern and what each of them may use, or all of them together
(`shared`). Every rule that fits a caller binds it; the scarcest decides. Each limit is a token bucket
(`buckets`), so a limit for a day is a rolling one: it comes back evenly and there is no midnight at
which everybody returns.

Requests are paid before they are admitted. Rows and compute time are known only afterwards, so they
are owed: a caller in debt is refused until the debt has run out. Compute time is the caller's share,
by rows, of the runs that its rows were in. How many requests may be inside at once is counted by
`concurrency`.

Per request, and only for callers with a rule: a dictionary look-up and a subtraction for each limit
(0.4 us with one). Tokens are drawn and debts settled in portions of `PORTION_S`, each with one record
lock; the `RateLimit` line of an answer looks at every bucket without one (2.5 us with one limit).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil, inf
from typing import Final, Protocol

from serving.core.clock import Clock
from serving.core.principals import Principal
from serving.errors import QuotaExceeded
from serving.gateway.buckets import Buckets, Rate
from serving.gateway.concurrency import Concurrency
from serving.gateway_settings import QuotaRule

PORTION_S: Final = 0.01
"""What a worker draws at once: the share of a second's tokens that may lie unused in its hands."""
IDLE_NS: Final = 50_000_000
DAY_S: Final = 86_400.0
MAX_ACCOUNTS: Final = 10_000
"""Callers with a rule that are remembered; beyond, the one that came first is looked up anew."""
_WHOLE: Final = 1.0
_SOONEST_S: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of the scarcest limit, for the `RateLimit` header.

    limit: its size. remaining: whole units. reset_s: until it is full again.
    """

    limit: int
    remaining: int
    reset_s: int


class Limit(Protocol):
    """One of the limits of a caller."""

    rate: Rate

    def lacking_s(self, now_ns: int) -> float:
        """Seconds until one more request may pass; 0.0 for now."""

    def left(self, now_ns: int) -> float:
        """What may still be used; below zero in debt."""


class Prepaid:
    """A limit whose cost is one, known before: tokens in hand, drawn ahead in portions."""

    def __init__(self, buckets: Buckets, name: str, rate: Rate) -> None:
        self.rate = rate
        self._buckets = buckets
        self._key = buckets.key(name)
        self._portion = max(_WHOLE, min(rate.per_s * PORTION_S, rate.burst))
        self.in_hand = 0.0
        self._used_ns = 0

    def lacking_s(self, now_ns: int) -> float:
        """Seconds until there is a whole token; 0.0 when there is one in hand now."""
        self._used_ns = now_ns
        if self.in_hand < _WHOLE:
            self.in_hand += self._buckets.draw(
                self._key, self._portion, rate=self.rate, now_ns=now_ns
            )
        if self.in_hand >= _WHOLE:
            return 0.0
        return (_WHOLE - self.in_hand) / self.rate.per_s

    def spend(self) -> None:
        """Uses the token that `lacking_s` found."""
        self.in_hand -= _WHOLE

    def rest(self, now_ns: int) -> None:
        """Gives back what a caller that went quiet has left in hand."""
        if self.in_hand > 0 and now_ns - self._used_ns > IDLE_NS:
            self._buckets.put(self._key, self.in_hand, rate=self.rate, now_ns=now_ns)
            self.in_hand = 0.0

    def left(self, now_ns: int) -> float:
        return self._buckets.held(self._key, rate=self.rate, now_ns=now_ns) + self.in_hand


class Owed:
    """A limit whose cost is known only afterwards: a debt that is settled in portions."""

    def __init__(self, buckets: Buckets, name: str, rate: Rate) -> None:
        self.rate = rate
        self._buckets = buckets
        self._key = buckets.key(name)
        self._portion = rate.per_s * PORTION_S
        self._debt = 0.0
        self._held = rate.burst
        self._held_ns = 0

    def lacking_s(self, now_ns: int) -> float:
        """Seconds until the debt has run out; 0.0 when there is none."""
        if now_ns - self._held_ns > IDLE_NS:
            self.settle(now_ns)
        held = self._held + (now_ns - self._held_ns) / 1e9 * self.rate.per_s - self._debt
        return max(-held / self.rate.per_s, _SOONEST_S) if held <= 0 else 0.0

    def owe(self, amount: float, now_ns: int) -> None:
        self._debt += amount
        if self._debt >= self._portion:
            self.settle(now_ns)

    def settle(self, now_ns: int) -> None:
        """Takes the debt from the bucket and sees what all workers together have left."""
        self._held = self._buckets.put(self._key, -self._debt, rate=self.rate, now_ns=now_ns)
        self._held_ns = now_ns
        self._debt = 0.0

    def left(self, now_ns: int) -> float:
        return self._buckets.held(self._key, rate=self.rate, now_ns=now_ns) - self._debt


class Places:
    """A limit of how many requests are inside at once."""

    def __init__(self, concurrency: Concurrency, name: str, limit: int) -> None:
        self._concurrency = concurrency
        self._key = concurrency.key(name)
        self._limit = limit

    def enter(self) -> bool:
        return self._concurrency.enter(self._key, self._limit)

    def leave(self) -> None:
        self._concurrency.leave(self._key)


class Account:
    """The limits of one caller. places: those on what is inside; given back by `leave`."""

    __slots__ = ("_compute", "_limits", "_requests", "_rows", "places")

    def __init__(
        self,
        requests: list[Prepaid],
        rows: list[Owed],
        compute: list[Owed],
        *,
        places: list[Places],
    ) -> None:
        self._requests = requests
        self._rows = rows
        self._compute = compute
        self._limits: tuple[Limit, ...] = (*requests, *rows, *compute)
        self.places = tuple(places)

    def admit(self, now_ns: int) -> None:
        """Pays for one request. Raises QuotaExceeded, and then nothing was paid."""
        lacking_s = 0.0
        for limit in self._limits:
            lacking_s = max(lacking_s, limit.lacking_s(now_ns))
        if lacking_s:
            raise QuotaExceeded("your quota is used up; retry later", retry_after_s=lacking_s)
        for number, places in enumerate(self.places):
            if not places.enter():
                for entered in self.places[:number]:
                    entered.leave()
                raise QuotaExceeded("too many of your requests are inside; retry later")
        for paid in self._requests:
            paid.spend()

    def leave(self) -> None:
        """An admitted request has its answer."""
        for places in self.places:
            places.leave()

    def charge(self, *, rows: int, compute_ms: float, now_ns: int) -> None:
        """Books what an admitted request has cost."""
        for limit in self._rows:
            limit.owe(rows, now_ns)
        for limit in self._compute:
            limit.owe(compute_ms, now_ns)

    def rest(self, now_ns: int) -> None:
        """For now and then: gives back what is not used, settles what is owed."""
        for paid in self._requests:
            paid.rest(now_ns)
        for limit in (*self._rows, *self._compute):
            limit.settle(now_ns)

    @property
    def holds(self) -> bool:
        """Whether tokens are in hand that others could use."""
        return any(paid.in_hand > 0 for paid in self._requests)

    def header(self, now_ns: int) -> bytes:
        """A whole `RateLimit` header line; empty when only places are limited."""
        left = self.policy_left(now_ns)
        return b"RateLimit: %b\r\n" % left.encode() if left else b""

    def policy_left(self, now_ns: int) -> str:
        """The value of that header (draft-ietf-httpapi-ratelimit-headers, one policy)."""
        standing = self.standing(now_ns)
        if standing is None:
            return ""
        return f'"quota";r={standing.remaining};t={standing.reset_s}'

    def standing(self, now_ns: int) -> Standing | None:
        """Of the limit with the smallest part left; None when only places are limited."""
        least, found = inf, None
        for limit in self._limits:
            left, rate = limit.left(now_ns), limit.rate
            if left / rate.burst < least:
                least, found = left / rate.burst, (left, rate)
        if found is None:
            return None
        left, rate = found
        missing_s = (rate.burst - left) / rate.per_s
        return Standing(int(rate.burst), max(0, int(left)), max(0, ceil(missing_s)))


class Charged(Protocol):
    """An answered request; the gateway's calls fit by shape."""

    account: Account | None
    rows: int
    run_us: int
    batch_size: int


class Quotas:
    """The accounts of all callers of this worker."""

    def __init__(
        self,
        rules: Sequence[QuotaRule],
        buckets: Buckets,
        *,
        concurrency: Concurrency,
        clock: Clock,
    ) -> None:
        self._rules = rules
        self._buckets = buckets
        self._concurrency = concurrency
        self._clock = clock
        self._accounts: dict[tuple[str, str], Account | None] = {}
        self._active: set[Account] = set()
        self._rested_ns = 0

    def of(self, principal: Principal) -> Account | None:
        """The account of a caller; None when no rule is about it."""
        who = (principal.tenant, principal.subject)
        try:
            return self._accounts[who]
        except KeyError:
            account = self._accounts[who] = self._make(principal)
            if len(self._accounts) > MAX_ACCOUNTS:
                self._forget(next(iter(self._accounts)))
            return account

    def admit(self, principal: Principal) -> Account | None:
        """Pays for one request, if there is a rule. Raises QuotaExceeded."""
        account = self.of(principal)
        if account is not None:
            self._active.add(account)
            account.admit(self._clock.monotonic_ns())
        return account

    def charge(self, calls: Iterable[Charged]) -> None:
        """Books what answered requests have cost."""
        now_ns = self._clock.monotonic_ns()
        for call in calls:
            if call.account is not None:
                compute_ms = call.run_us / 1e3 * call.rows / max(call.batch_size, 1)
                call.account.charge(rows=call.rows, compute_ms=compute_ms, now_ns=now_ns)

    def rest(self) -> None:
        """To be called often; does something a few times a second, for those who were here."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._rested_ns < IDLE_NS:
            return
        self._rested_ns = now_ns
        active, self._active = self._active, set()
        for account in active:
            account.rest(now_ns)
            if account.holds:
                self._active.add(account)

    def _forget(self, who: tuple[str, str]) -> None:
        account = self._accounts.pop(who)
        if account is not None:
            account.rest(self._clock.monotonic_ns() + IDLE_NS)

    def _make(self, principal: Principal) -> Account | None:
        requests: list[Prepaid] = []
        rows: list[Owed] = []
        compute: list[Owed] = []
        places: list[Places] = []
        for number, rule in enumerate(self._rules):
            if not _fits(rule, principal):
                continue
            whose = "" if rule.shared else f"{principal.tenant}\0{principal.subject}"
            if rule.concurrent is not None:
                name = f"{number}\0{whose}"
                places.append(Places(self._concurrency, name, rule.concurrent))
            for what, per_s, burst in _limits(rule):
                name = f"{number}\0{what}\0{whose}"
                rate = Rate(per_s, burst)
                if what.startswith("requests"):
                    requests.append(Prepaid(self._buckets, name, rate))
                else:
                    kind = rows if what.startswith("rows") else compute
                    kind.append(Owed(self._buckets, name, rate))
        if not (requests or rows or compute or places):
            return None
        return Account(requests, rows, compute, places=places)


def _fits(rule: QuotaRule, principal: Principal) -> bool:
    return fnmatchcase(principal.subject, rule.subject) and fnmatchcase(
        principal.tenant, rule.tenant
    )


def _limits(rule: QuotaRule) -> list[tuple[str, float, float]]:
    """(name, tokens per second, size of the bucket) of each limit that a rule sets."""
    burst_s = rule.burst_s
    named = {
        "requests": (rule.requests_per_s, rule.requests_per_day),
        "rows": (rule.rows_per_s, rule.rows_per_day),
        "compute": (rule.compute_ms_per_s, rule.compute_ms_per_day),
    }
    found = []
    for what, (per_s, per_day) in named.items():
        if per_s is not None:
            found.append((f"{what}/s", per_s, max(per_s * burst_s, _WHOLE)))
        if per_day is not None:
            found.append((f"{what}/day", per_day / DAY_S, max(per_day, _WHOLE)))
    return found
