"""Comparisons as control sees them: what is to be compared, and what the monitor found last.

The monitor reports about once a second and gets back what to compare now: every model that answers and
has candidates with copies, by the rules of the model's facts. Those are read from the registry when a
report comes; while the database is away the ones that were read last stay, and while they were never
read nothing is known. Nothing is kept on disk: the monitor has it, and tells it again.
"""

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import msgspec

from serving.core.traffic import FULL, Shadow, Snapshot, TrafficPolicy
from serving.errors import RequestInvalid, ServingError
from serving.governance.comparisons import (
    ComparedVersion,
    ComparisonOrder,
    ComparisonReport,
    MonitorOrders,
    MonitorReport,
    specification_of,
)

Result = TypeVar("Result")
Rules = Mapping[str, dict[str, Any]]
"""Specifications of comparison, as JSON, by model."""

_Copied = tuple[str, str, str, str, float | None]
"""Model, digests of primary and candidate, the candidate, and the share that is copied."""

MOST_REPORTS: Final = 10_000


class Runner(Protocol):
    """Where blocking work runs: `storage.worker.Worker`."""

    def run(self, work: Callable[[], Result]) -> Awaitable[Result]: ...


class Comparisons:
    """`current`, `latest` and `of` may be called from any thread; `take` belongs to the event loop."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        read_rules: Callable[[Collection[str]], Rules],
        runner: Runner,
    ) -> None:
        """snapshot: what gateways were told last. read_rules: of these models; blocks, and raises
        ServingError while the registry cannot be asked."""
        self._snapshot = snapshot
        self._read_rules = read_rules
        self._runner = runner
        self._reports: dict[tuple[str, str], ComparisonReport] = {}
        self._since: dict[_Copied, int] = {}
        self._current: frozenset[tuple[str, str]] = frozenset()
        self._rules: dict[str, dict[str, Any]] = {}

    async def take(self, report: bytes) -> bytes:
        """Keeps what a `MonitorReport` says, and answers with `MonitorOrders`. Raises RequestInvalid."""
        try:
            found = msgspec.json.decode(report, type=MonitorReport).reports
        except msgspec.DecodeError as error:
            raise RequestInvalid(f"the body is no report of comparisons: {error}") from error
        for each in found:
            self._reports.pop(each.key, None)
            self._reports[each.key] = each
        while len(self._reports) > MOST_REPORTS:
            del self._reports[next(iter(self._reports))]
        orders = await self.orders()
        wanted = {terms for order in orders.orders for terms in _terms(order)}
        self._current = frozenset(each.key for each in found if _terms_of(each) in wanted)
        return msgspec.json.encode(orders)

    async def orders(self) -> MonitorOrders:
        snapshot = self._snapshot()
        compared = {each.model: each for each in snapshot.policies if each.shadows}
        with contextlib.suppress(ServingError):  # What was known stays.
            self._rules |= await self._runner.run(lambda: self._read_rules(compared))
        self._rules = {model: rules for model, rules in self._rules.items() if model in compared}
        found = [
            order
            for model, policy in compared.items()
            if model in self._rules
            and (order := _order(policy, snapshot, self._rules[model])) is not None
        ]
        self._since = {
            copied: self._since.get(copied, snapshot.epoch)
            for order in found
            for copied in map(partial(_copied, order), order.candidates)
        }
        dated = tuple(_dated(order, self._since) for order in found)
        return MonitorOrders(is_known=bool(snapshot.epoch), orders=dated)

    def current(self, model: str, candidate: str) -> ComparisonReport | None:
        """The newest, if it is of what is to be compared now, by the rules of now. One that ended, or
        was made by rules that were changed since, says nothing about what a candidate does."""
        key = (model, candidate)
        return self._reports.get(key) if key in self._current else None

    def latest(self, model: str, candidate: str) -> ComparisonReport | None:
        return self._reports.get((model, candidate))

    def of(self, model: str) -> tuple[ComparisonReport, ...]:
        """The newest of each candidate, by its name."""
        found = [each for each in list(self._reports.values()) if each.model == model]
        return tuple(sorted(found, key=lambda each: each.candidate))


def _copied(order: ComparisonOrder, candidate: ComparedVersion) -> _Copied:
    digests = (str(order.primary.digest), candidate.digest)
    return order.model, *digests, candidate.version, candidate.share


def _dated(order: ComparisonOrder, since: Mapping[_Copied, int]) -> ComparisonOrder:
    """With the epoch since which each candidate gets these copies. It may be some later than the
    first one: then a copy that is missing from the time between is not missed."""
    candidates = tuple(
        msgspec.structs.replace(each, epoch=since[_copied(order, each)])
        for each in order.candidates
    )
    return msgspec.structs.replace(order, candidates=candidates)


_Terms = tuple[str, str, str, str]
"""What a comparison is of: both digests, the candidate, the digest of its rules."""


def _terms(order: ComparisonOrder) -> Iterator[_Terms]:
    rules = specification_of(order.specification).digest()
    for each in order.candidates:
        yield str(order.primary.digest), each.digest, each.version, rules


def _terms_of(report: ComparisonReport) -> _Terms:
    digests = (report.primary_digest, report.candidate_digest)
    return *digests, report.candidate, report.specification_digest


def _order(
    policy: TrafficPolicy, snapshot: Snapshot, rules: dict[str, Any]
) -> ComparisonOrder | None:
    """None while the primary is not there."""
    versions = {each.version: each for each in snapshot.versions if each.model == policy.model}
    primary = versions.get(policy.stable)
    if primary is None:
        return None
    arms = {each.version for each in policy.arms}
    candidates = tuple(
        ComparedVersion(
            version=shadow.version,
            digest=versions[shadow.version].digest,
            share=_share(shadow),
            arm=shadow.version in arms,
        )
        for shadow in policy.shadows
        if shadow.version in versions
    )
    return ComparisonOrder(
        model=policy.model, primary=primary, candidates=candidates, specification=rules
    )


def _share(shadow: Shadow) -> float | None:
    """Of the primaries that get a copy; who fits a segment, or a budget, cannot be told from here."""
    is_open = shadow.segments or shadow.budget is not None
    return None if is_open else shadow.share / FULL
