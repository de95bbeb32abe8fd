"""Routes of the control port for artifacts on their way in.

    POST   /v1/artifacts/uploads                          declare the files; again: go on where it was
    GET    /v1/artifacts/uploads/{upload}                 what is there, and what became of it
    PUT    /v1/artifacts/uploads/{upload}/{file}?offset=N one piece, at most 8 MiB, as it is
    POST   /v1/artifacts/uploads/{upload}/finish          verify what came, and have it inspected
    DELETE /v1/artifacts/uploads/{upload}                 give it up

Each is a question or an order of `control.uploading.UploadDesk`, by name, and runs in the control
plane's own thread.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from serving.edge.admin.calls import call_of, reply_of
from serving.edge.admin.registry import Desk, Runner
from serving.edge.routes import Reply, Request, Route, RouteFunction

UPLOADS: Final = "/v1/artifacts/uploads"
UPLOAD: Final = f"{UPLOADS}/{{upload}}"


class UploadRoutes:
    """`routes()` is the part of the control port's table that is about uploads."""

    def __init__(
        self, desk: Desk, runner: Runner, *, finished: Callable[[], None] = lambda: None
    ) -> None:
        """finished: called on the event loop when one waits to be inspected."""
        self._desk = desk
        self._runner = runner
        self._finished = finished

    def routes(self) -> list[Route]:
        return [
            Route("POST", UPLOADS, self._order("open_upload")),
            Route("GET", UPLOAD, self._ask),
            Route("PUT", f"{UPLOAD}/{{file}}", self._order("add_piece")),
            Route("POST", f"{UPLOAD}/finish", self._finish),
            Route("DELETE", UPLOAD, self._order("drop_upload")),
        ]

    async def _ask(self, request: Request) -> Reply:
        work = partial(self._desk.ask, "upload", call_of(request))
        return reply_of(await self._runner.run(work))

    def _order(self, name: str) -> RouteFunction:
        async def carry_out(request: Request) -> Reply:
            work = partial(self._desk.carry_out, name, call_of(request))
            return reply_of(await self._runner.run(work))

        return carry_out

    async def _finish(self, request: Request) -> Reply:
        work = partial(self._desk.carry_out, "finish_upload", call_of(request))
        answer = await self._runner.run(work)
        self._finished()
        return reply_of(answer)
