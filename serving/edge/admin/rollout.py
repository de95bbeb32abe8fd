"""Routes of the control port for rollouts: a candidate takes over step by step, or not at all.

    GET  /v1/rollouts                    of all models, newest first; ?limit=…
    GET  /v1/rollouts/{model}            the newest, with what its gates say now
    POST /v1/rollouts/{model}            {"candidate": "2", "plan": {"steps": […], "gates": {…}}}
    GET  /v1/rollouts/{model}/history    all of a model
    POST /v1/rollouts/{model}/pause      {"reason": "…"}; also resume, rollback, promote

A rollback that the database does not permit to be written down is carried out all the same: gateways
are told at once, the answer says `unrecorded`, and the registry follows when it is back.
"""

from collections.abc import Callable
from functools import partial

import msgspec

from serving.core.calls import Answer, Call
from serving.edge.admin.calls import call_of, reply_of
from serving.edge.admin.registry import Desk, Runner
from serving.edge.routes import Reply, Request, Route
from serving.errors import RegistryUnavailable

MODEL = "/v1/rollouts/{model}"
VERBS = ("pause", "resume", "promote")

Emergency = Callable[[Call], Answer]
"""A rollback without the registry. Raises RegistryUnavailable when nothing is known to roll back."""


class RolloutRoutes:
    """`routes()` is the part of the control port's table that is about rollouts."""

    def __init__(
        self, desk: Desk, runner: Runner, *, changed: Callable[[], None], emergency: Emergency
    ) -> None:
        """changed: called on the event loop after an order."""
        self._desk = desk
        self._runner = runner
        self._changed = changed
        self._emergency = emergency

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/rollouts", partial(self._ask, "all")),
            Route("GET", MODEL, partial(self._ask, "newest")),
            Route("POST", MODEL, partial(self._carry_out, "start")),
            Route("GET", f"{MODEL}/history", partial(self._ask, "of_model")),
            *(Route("POST", f"{MODEL}/{verb}", partial(self._carry_out, verb)) for verb in VERBS),
            Route("POST", f"{MODEL}/rollback", self._roll_back),
        ]

    async def _ask(self, name: str, request: Request) -> Reply:
        call = call_of(request)
        return reply_of(await self._runner.run(lambda: self._desk.ask(name, call)))

    async def _carry_out(self, name: str, request: Request) -> Reply:
        call = call_of(request)
        answer = await self._runner.run(lambda: self._desk.carry_out(name, call))
        self._changed()
        return reply_of(answer)

    async def _roll_back(self, request: Request) -> Reply:
        try:
            return await self._carry_out("rollback", request)
        except RegistryUnavailable:
            return reply_of(self._emergency(call_of(request)))


def reason_in(call: Call) -> str:
    """What the body of an order says, as far as it says anything."""
    try:
        found = msgspec.json.decode(call.body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return str(found.get("reason", ""))
