"""Routes of the control port for traffic: who answers for each model, and files applied as a whole.

    GET  /v1/traffic          of every model
    GET  /v1/traffic/{model}  of one, with its revision
    GET  /v1/traffic/{model}/history  the policies that gateways were told, by epoch; `?epoch=N`: the
                              one that was in force then
    PUT  /v1/traffic/{model}  {"stable": "1", "arms": [{"version": "2", "weight": 0.1}],
                              "shadows": [{"version": "3", "share": 0.5}], "reason": "…"}; `If-Match`
                              names the revision that was seen, `Idempotency-Key` makes it safe to repeat
    POST /v1/apply            {"deployments": […], "plan_only": true}: as in a file of settings

Which permission each takes is in `serving.access.permissions`; what a body may hold is decided by the
desk's orders, and each model that a file names is asked about by itself.
"""

from collections.abc import Callable
from functools import partial

from serving.edge.admin.calls import call_of, reply_of
from serving.edge.admin.registry import Desk, Runner
from serving.edge.routes import Reply, Request, Route


class TrafficRoutes:
    """`routes()` is the part of the control port's table that is about traffic."""

    def __init__(self, desk: Desk, runner: Runner, *, changed: Callable[[], None]) -> None:
        """desk: `control.traffic.TrafficDesk`. changed: called on the event loop after an order."""
        self._desk = desk
        self._runner = runner
        self._changed = changed

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/traffic", partial(self._ask, "all_traffic")),
            Route("GET", "/v1/traffic/{model}", partial(self._ask, "traffic")),
            Route("GET", "/v1/traffic/{model}/history", partial(self._ask, "traffic_history")),
            Route("PUT", "/v1/traffic/{model}", partial(self._carry_out, "set_traffic")),
            Route("POST", "/v1/apply", partial(self._carry_out, "apply")),
        ]

    async def _ask(self, name: str, request: Request) -> Reply:
        call = call_of(request)
        return reply_of(await self._runner.run(lambda: self._desk.ask(name, call)))

    async def _carry_out(self, name: str, request: Request) -> Reply:
        call = call_of(request)
        try:
            return reply_of(await self._runner.run(lambda: self._desk.carry_out(name, call)))
        finally:
            # A file that stopped halfway has changed something too.
            self._changed()
