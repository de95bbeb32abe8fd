"""The route of the control port for the audit trail.

GET /v1/audit/events    ?name=access:*&actor=…&object=…&since_ns=…&until_ns=…&before=…&limit=…
"""

from serving.edge.admin.calls import call_of, reply_of
from serving.edge.admin.registry import Desk, Runner
from serving.edge.routes import Reply, Request, Route


class AuditRoutes:
    """`routes()` is the part of the control port's table that is about the audit trail."""

    def __init__(self, desk: Desk, runner: Runner) -> None:
        """desk: `audit.desk.AuditDesk`."""
        self._desk = desk
        self._runner = runner

    def routes(self) -> list[Route]:
        return [Route("GET", "/v1/audit/events", self._events)]

    async def _events(self, request: Request) -> Reply:
        call = call_of(request)
        return reply_of(await self._runner.run(lambda: self._desk.ask("events", call)))
