"""The door that gateway workers report at."""

import msgspec
import pytest

from serving.control.measures import Measures
from serving.core.clock import ManualClock
from serving.core.reports import GatewayReport, VersionCounts
from serving.edge.admin.reports import ReportRoutes
from serving.edge.routes import Reply, Request
from serving.errors import RequestInvalid


def post(measures: Measures, body: bytes) -> Reply:
    (route,) = ReportRoutes(measures.take).routes()
    reply = route.function(Request(route.method, route.path, {}, {}, body))
    assert isinstance(reply, Reply)
    return reply


def test_report_arrives_as_it_was_told() -> None:
    """All counts, by part, over the wire."""
    measures = Measures(ManualClock())
    counts = VersionCounts("m", "2", "canary", ok=3, failed={"timeout": 1}, rows=4)
    report = GatewayReport("a/0", 1, 2, 3, (counts,))

    reply = post(measures, msgspec.json.encode(report))

    assert (reply.status, measures.of("m", "2", "canary")) == (200, counts)


def test_what_is_no_report_is_refused() -> None:
    """And changes nothing."""
    with pytest.raises(RequestInvalid):
        post(Measures(ManualClock()), b'{"worker": 7}')
