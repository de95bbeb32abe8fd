"""Routes of the control port for governance: approvals, evidence, and whom notifications go to.

    GET  /v1/approvals                         ?state=open&model=…
    POST /v1/approvals                         {"model", "version", "reason"}; kind serve or retire
    GET  /v1/approvals/{request}               with every decision, comment and what is missing
    POST /v1/approvals/{request}/decisions     {"decision": "approve", "digest", "reason"}
    POST /v1/approvals/{request}/comments      {"text"}
    POST /v1/approvals/{request}/withdrawal    {"reason"}: the requester's, of the request
    POST /v1/approvals/{request}/retraction    {"reason"}: an approver's, of their approval
    POST /v1/overrides                         {"model", "version", "digest", "reason"}

Each is a question or an order of `governance.desk.GovernanceDesk`, by name, and runs in the control
plane's own thread. Who may decide is judged there, over who is who and not by a route alone.
"""

from collections.abc import Callable
from functools import partial

from serving.edge.admin.calls import call_of, reply_of
from serving.edge.admin.registry import VERSION, Desk, Runner
from serving.edge.routes import Reply, Request, Route, RouteFunction

REQUEST = "/v1/approvals/{request}"
WEBHOOK = "/v1/webhooks/{webhook}"


class GovernanceRoutes:
    """`routes()` is the part of the control port's table that is about governance."""

    def __init__(
        self, desk: Desk, runner: Runner, *, changed: Callable[[], None] = lambda: None
    ) -> None:
        """changed: called on the event loop after each order; what may serve can be different."""
        self._desk = desk
        self._runner = runner
        self._changed = changed

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/approvals", self._question("requests")),
            Route("POST", "/v1/approvals", self._order("open")),
            Route("GET", REQUEST, self._question("request")),
            Route("POST", f"{REQUEST}/decisions", self._order("decide")),
            Route("POST", f"{REQUEST}/comments", self._order("comment")),
            Route("POST", f"{REQUEST}/withdrawal", self._order("withdraw")),
            Route("POST", f"{REQUEST}/retraction", self._order("take_back")),
            Route("POST", "/v1/overrides", self._order("override")),
            Route("GET", f"{VERSION}/standing", self._question("standing")),
            Route("GET", f"{VERSION}/evidence", self._question("evidence")),
            Route("POST", "/v1/evidence", self._order("record")),
            Route("GET", "/v1/webhooks", self._question("webhooks")),
            Route("POST", "/v1/webhooks", self._secret_order("add_webhook")),
            Route("DELETE", WEBHOOK, self._order("remove_webhook")),
            Route("POST", f"{WEBHOOK}/test", self._order("test_webhook")),
        ]

    def _question(self, name: str) -> RouteFunction:
        async def ask(request: Request) -> Reply:
            return reply_of(await self._runner.run(partial(self._desk.ask, name, call_of(request))))

        return ask

    def _order(self, name: str) -> RouteFunction:
        async def carry_out(request: Request) -> Reply:
            work = partial(self._desk.carry_out, name, call_of(request))
            answer = await self._runner.run(work)
            self._changed()
            return reply_of(answer)

        return carry_out

    def _secret_order(self, name: str) -> RouteFunction:
        """Nobody on the way may keep the answer."""

        async def carry_out(request: Request) -> Reply:
            work = partial(self._desk.carry_out, name, call_of(request))
            answer = await self._runner.run(work)
            return Reply(200, answer.content, headers=(("Cache-Control", "no-store"),))

        return carry_out
