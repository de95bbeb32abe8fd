"""Routes of the control port for comparisons of candidates, and for the verdicts drawn from them.

PUT  /internal/comparisons                 the monitor's reports; answered with what to compare
GET  /v1/models/{model}/comparisons        the newest report of each candidate
GET  /v1/models/{model}/verdicts           ?version=2: of that candidate only; newest first
POST /v1/models/{model}/verdicts           {"candidate": "2", "reason": …}: on the live comparison,
                                           or on the one that `comparison` hands in
GET  /v1/models/{model}/verdicts/{verdict} with the signed envelope, to be verified anywhere
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from serving.edge.admin.calls import call_of, reply_of
from serving.edge.admin.registry import Desk, Runner
from serving.edge.routes import Reply, Request, Route, RouteFunction

VERDICTS = "/v1/models/{model}/verdicts"


class Comparisons(Protocol):
    """`control.comparisons.Comparisons`."""

    async def take(self, report: bytes) -> bytes:
        """What is to be compared, as JSON. Raises RequestInvalid for what is no report."""
        ...


class VerdictRoutes:
    """`routes()` is the part of the control port's table that is about comparisons and verdicts."""

    def __init__(
        self,
        desk: Desk,
        runner: Runner,
        *,
        comparisons: Comparisons,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """changed: called on the event loop after a verdict; what may serve can be different."""
        self._desk = desk
        self._runner = runner
        self._comparisons = comparisons
        self._changed = changed

    def routes(self) -> list[Route]:
        return [
            Route("PUT", "/internal/comparisons", self._take),
            Route("GET", "/v1/models/{model}/comparisons", self._question("comparisons")),
            Route("GET", VERDICTS, self._question("verdicts")),
            Route("POST", VERDICTS, self._issue),
            Route("GET", f"{VERDICTS}/{{verdict}}", self._question("verdict")),
        ]

    async def _take(self, request: Request) -> Reply:
        return Reply(200, await self._comparisons.take(request.body))

    def _question(self, name: str) -> RouteFunction:
        async def ask(request: Request) -> Reply:
            return reply_of(await self._runner.run(partial(self._desk.ask, name, call_of(request))))

        return ask

    async def _issue(self, request: Request) -> Reply:
        work = partial(self._desk.carry_out, "issue", call_of(request))
        answer = await self._runner.run(work)
        self._changed()
        return reply_of(answer)
