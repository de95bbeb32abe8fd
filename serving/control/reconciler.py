"""Makes what runs fit what should run: look, decide one step, take it, look again.

`next_step` is a pure function from what is desired and what is reported to at most one step. Every
step can be repeated without harm, so a restart at any instant costs nothing but the look:

    reported                          step
    deploying or running as desired   none
    missing                           deploy, all missing ones together
    failed                            after a back-off: delete, then it is missing
    not desired                       delete; one that has a successor, when that runs;
                                      never one that gateways are told of (`rollout`)

Names carry a fingerprint of the whole plan, so equal names mean equal applications and nothing that
runs as it should is ever deployed again. The engine's calls block and run in one thread of their own.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

import structlog

from serving.core.clock import Clock
from serving.errors import ServingError
from serving.inference.plans import ApplicationPlan, ApplicationReport, key_of

logger = structlog.get_logger()

FIRST_RETRY_S: Final = 5.0
LONGEST_RETRY_S: Final = 300.0

Result = TypeVar("Result")


class Engine(Protocol):
    """What runs applications: `cluster.RayEngine`, `local.LocalEngine`."""

    def connect(self) -> None: ...
    def report(self) -> dict[str, ApplicationReport]: ...
    def deploy(self, plans: Sequence[ApplicationPlan]) -> None: ...
    def delete(self, name: str) -> None: ...
    def disconnect(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an application does not run. attempts: how often in a row it has failed.

    current: it is reported as failed now; False while the next attempt is under way.
    """

    message: str
    attempts: int
    retry_ns: int
    current: bool = True


@dataclass(frozen=True, slots=True)
class Deploy:
    """Start these applications."""

    plans: tuple[ApplicationPlan, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """Drain and remove this application."""

    name: str


Step = Deploy | Delete


def next_step(
    desired: Sequence[ApplicationPlan],
    reported: Mapping[str, ApplicationReport],
    failures: Mapping[str, Failure],
    *,
    now_ns: int,
    kept: Collection[str] = (),
) -> Step | None:
    """The one step to take now, None when there is nothing to do.

    kept: `model@version` of those that are not deleted although nobody desires them.
    """
    wanted = {plan.name: plan for plan in desired}
    missing = tuple(plan for name, plan in wanted.items() if name not in reported)
    if missing:
        return Deploy(missing)
    running = {plan.key for name, plan in wanted.items() if reported[name].state == "running"}
    keys = {plan.key for plan in desired}
    for name, report in reported.items():
        if report.state == "deleting":
            continue
        if name in wanted:
            failure = failures.get(name)
            due = failure is not None and failure.retry_ns <= now_ns
            if report.state == "failed" and due:
                return Delete(name)
        elif key_of(name) in running or key_of(name) not in (*keys, *kept):
            return Delete(name)
    return None


class Reconciler:
    """Runs `next_step` for ever. `reported` and `failures` say how things stand.

    Before it is told for the first time what to `want` it only looks.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        period_s: float,
        executor: Executor,
        clock: Clock,
    ) -> None:
        self.reported: dict[str, ApplicationReport] = {}
        self.failures: dict[str, Failure] = {}
        self._engine = engine
        self._wanted: tuple[ApplicationPlan, ...] | None = None
        self._kept: frozenset[str] = frozenset()
        self._news = asyncio.Event()
        self._period_s = period_s
        self._executor = executor
        self._clock = clock
        self.withdrawing: Callable[[str], None] = lambda _key: None
        """Told of a `model@version` whose last application is about to be deleted."""

    def want(self, plans: Sequence[ApplicationPlan], *, kept: Collection[str] = ()) -> None:
        """From now on these should run. kept: see `next_step`."""
        wanted = (tuple(plans), frozenset(kept))
        if wanted != (self._wanted, self._kept):
            self._wanted, self._kept = wanted
            self._news.set()

    async def run(self) -> None:
        """Until cancelled. Whatever the engine raises is logged and tried again."""
        while True:
            try:
                again = await self.reconcile()
            except ServingError as error:
                logger.warning("reconciliation failed", code=error.code, error=error.message)
                again = False
            except Exception:
                # Outermost loop: a surprise of the engine must not end reconciliation.
                logger.exception("reconciliation failed unexpectedly")
                again = False
            if not again:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), self._period_s)

    async def reconcile(self) -> bool:
        """Looks and takes at most one step; says whether it took one."""
        self._news.clear()
        self.reported = await self._blocking(self._engine.report)
        self._note_failures()
        if self._wanted is None:
            return False
        step = next_step(
            self._wanted,
            self.reported,
            self.failures,
            now_ns=self._clock.monotonic_ns(),
            kept=self._kept,
        )
        match step:
            case Deploy(plans):
                logger.info("deploying", applications=[plan.name for plan in plans])
                await self._blocking(lambda: self._engine.deploy(plans))
                return True
            case Delete(name):
                logger.info("deleting", application=name)
                if key_of(name) not in {plan.key for plan in self._wanted}:
                    self.withdrawing(key_of(name))
                await self._blocking(lambda: self._engine.delete(name))
                return True
            case None:
                return False

    def _note_failures(self) -> None:
        for name, failure in self.failures.items():
            report = self.reported.get(name)
            if failure.current and (report is None or report.state != "failed"):
                self.failures[name] = replace(failure, current=False)
        wanted = {plan.name for plan in self._wanted or ()}
        for name in [name for name in self.failures if name not in wanted]:
            del self.failures[name]
        for name, report in self.reported.items():
            known = self.failures.get(name)
            if report.state == "running":
                self.failures.pop(name, None)
            elif report.state == "failed" and (known is None or not known.current):
                self._failed(name, report.message, attempts=known.attempts + 1 if known else 1)

    def _failed(self, name: str, reason: str, *, attempts: int) -> None:
        wait_s = min(FIRST_RETRY_S * 2 ** (attempts - 1), LONGEST_RETRY_S)
        retry_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)
        logger.error("application failed", application=name, reason=reason, retry_in_s=wait_s)
        self.failures[name] = Failure(reason, attempts, retry_ns)

    def _blocking(self, call: Callable[[], Result]) -> Awaitable[Result]:
        return asyncio.get_running_loop().run_in_executor(self._executor, call)
