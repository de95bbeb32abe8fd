"""Where gateway workers tell what they counted: `POST /internal/reports`, for our own processes only."""

from collections.abc import Callable

import msgspec

from serving.core.reports import GatewayReport
from serving.edge.routes import Reply, Request, Route
from serving.errors import RequestInvalid


class ReportRoutes:
    """`routes()` is the part of the control port's table that gateways report to."""

    def __init__(self, take: Callable[[GatewayReport], None]) -> None:
        """take: `control.measures.Measures.take`, called on the event loop."""
        self._take = take

    def routes(self) -> list[Route]:
        return [Route("POST", "/internal/reports", self._report)]

    def _report(self, request: Request) -> Reply:
        try:
            self._take(msgspec.json.decode(request.body, type=GatewayReport))
        except msgspec.DecodeError as error:
            raise RequestInvalid(f"the body is not a report: {error}") from error
        return Reply(200, b"{}")
