"""Routes of the control port for the registry: models, versions, aliases, history and evidence.

Each route is a question or an order of the registry's desk, by name; it runs in the control plane's
own thread, so that a database that is slow keeps nobody else waiting. What a body may hold is decided
by the registry's orders. The desk judges every model by the tenant that the registry knows, whatever
the table of permissions let through.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from serving.core.calls import Answer, Call
from serving.edge.admin.calls import call_of, reply_of
from serving.edge.routes import Reply, Request, Route, RouteFunction

Result = TypeVar("Result")

VERSION = "/v1/models/{model}/versions/{version}"


class Desk(Protocol):
    """The registry by names: `registry.desk.RegistryDesk`. Blocks."""

    def ask(self, name: str, call: Call) -> Answer: ...
    def carry_out(self, name: str, call: Call) -> Answer: ...


class Runner(Protocol):
    """Where blocking work runs: `storage.worker.Worker`."""

    def run(self, work: Callable[[], Result]) -> Awaitable[Result]: ...


class RegistryRoutes:
    """`routes()` is the part of the control port's table that is about the registry."""

    def __init__(
        self, desk: Desk, runner: Runner, *, changed: Callable[[], None] = lambda: None
    ) -> None:
        """changed: called on the event loop after each order."""
        self._desk = desk
        self._runner = runner
        self._changed = changed

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/models", self._question("search")),
            Route("POST", "/v1/models", self._order("register_model")),
            Route("GET", "/v1/models/{model}", self._question("model")),
            Route("PUT", "/v1/models/{model}", self._order("change_model")),
            Route("GET", "/v1/models/{model}/history", self._question("history")),
            Route("GET", "/v1/models/{model}/versions", self._question("versions")),
            Route("POST", "/v1/models/{model}/versions", self._order("register_version")),
            Route("GET", VERSION, self._question("version")),
            Route("POST", f"{VERSION}/state", self._order("change_state")),
            Route("GET", f"{VERSION}/card", self._question("card")),
            Route("GET", f"{VERSION}/bom", self._question("bom")),
            Route("GET", "/v1/models/{model}/aliases", self._question("aliases")),
            Route("PUT", "/v1/models/{model}/aliases/{alias}", self._order("set_alias")),
            Route("DELETE", "/v1/models/{model}/aliases/{alias}", self._order("remove_alias")),
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
