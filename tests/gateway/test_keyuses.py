"""Last uses are told now and then, and never twice."""

import asyncio
import secrets

import msgspec
import pytest

from serving.edge.http1.server import HttpServer
from serving.edge.routes import Reply, Request, Route, Router
from serving.gateway.keyuses import PERIOD_S, report_uses
from serving.port_settings import ControlSettings, HttpSettings

SECRET = secrets.token_hex(32)


async def test_uses_are_told_once_a_period_and_dropped_when_nobody_listens() -> None:
    """Nothing is told where nothing was used; a control plane that is away costs the news only."""
    told: list[object] = []
    pauses: list[float] = []
    statuses = iter([200, 503, 200])
    uses = [{"a": 1}, {}, {"b": 2}, {"c": 3}]

    def note(request: Request) -> Reply:
        assert request.headers[b"authorization"] == f"Bearer {SECRET}".encode()
        told.append(msgspec.json.decode(request.body))
        return Reply(next(statuses))

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if not uses:
            raise asyncio.CancelledError

    server = HttpServer(
        Router([Route("POST", "/internal/access/uses", note)]), limits=HttpSettings()
    )
    port = await server.listen(host="127.0.0.1", port=0)
    with pytest.raises(asyncio.CancelledError):
        await report_uses(
            lambda: uses.pop(0), port=ControlSettings(port=port), secret=SECRET, pause=pause
        )
    await server.aclose()

    assert told == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert pauses == [PERIOD_S] * 5
