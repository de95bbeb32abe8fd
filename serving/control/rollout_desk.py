"""Rollouts as the control port offers them: questions and orders by name, from bytes to bytes.

An order is one transaction, carried out once per idempotency key. What the conductor saw last is shown
with every rollout that is under way. Blocks: it is used from the control plane's own thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from serving.control.conductor import Seen
from serving.core.calls import Answer, Call
from serving.errors import ParameterInvalid, RegistryUnavailable
from serving.governance import rollout_book as book
from serving.governance.entities import Order
from serving.governance.gates import Reading
from serving.governance.rollout_book import Rollout
from serving.governance.rollout_states import Turn
from serving.governance.rollouts import Cause, RolloutOrder, Rollouts
from serving.registry import rows
from serving.registry.desk import decoded
from serving.registry.service import SEE
from serving.storage.database import Database
from serving.storage.operations import Operations, operation

MOST_LISTED: Final = 500

VERBS: Final[Mapping[str, Turn]] = {
    "pause": Turn.PAUSE,
    "resume": Turn.RESUME,
    "rollback": Turn.ROLL_BACK,
    "promote": Turn.PROMOTE,
}


class TurnOrder(Order, frozen=True, kw_only=True):
    """What somebody wants of a rollout, and why."""

    reason: str = ""


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout, and what was seen of it last.

    weight: what the candidate should answer, of all requests; published: what gateways were told.
    requests: of the candidate in this step. holds_until_ns: when the step's time is over; 0 when
    nothing runs. unrecorded: rolled back already, and the registry does not know yet.
    """

    rollout: Rollout
    weight: float
    published: float | None = None
    requests: int = 0
    holds_until_ns: int = 0
    readings: tuple[Reading, ...] = ()
    unrecorded: bool = False


class RolloutList(msgspec.Struct, frozen=True):
    """Newest first."""

    rollouts: tuple[Rollout, ...]


TYPES: Final[Mapping[str, Any]] = {
    "RolloutOrder": RolloutOrder,
    "TurnOrder": TurnOrder,
    "Rollout": Rollout,
    "RolloutView": RolloutView,
    "RolloutList": RolloutList,
}
"""What goes in and out, by the names that the description of the control port uses."""


@dataclass(frozen=True, slots=True)
class RolloutDesk:
    """Fits `edge.admin.registry.Desk` by shape. Every order is answered with a RolloutView. seen: what
    the conductor saw last of a model. unrecorded: of a rollout, by its id."""

    database: Database
    rollouts: Rollouts
    operations: Operations
    seen: Callable[[str], Seen | None]
    unrecorded: Callable[[str], bool]

    def ask(self, name: str, call: Call) -> Answer:
        """`all`, `newest` or `of_model`. Raises ModelNotFound, NotFound, RegistryUnavailable."""
        questions = {"all": self._all, "newest": self._newest, "of_model": self._of_model}
        return Answer(self.database.read(lambda connection: questions[name](connection, call)))

    def carry_out(self, name: str, call: Call) -> Answer:
        """`start` with a RolloutOrder, or a verb with a TurnOrder. Raises ServingError of many
        kinds."""
        model = call.arguments["model"]

        def change(connection: Connection) -> bytes:
            if name == "start":
                order = decoded(call, RolloutOrder)
                made = self.rollouts.start(connection, model, order, actor=call.actor)
            else:
                found = self.rollouts.newest(connection, model, actor=call.actor)
                cause = Cause(reason=decoded(call, TurnOrder).reason)
                made = self.rollouts.turn(
                    connection, found.id, VERBS[name], cause, actor=call.actor
                )
            return msgspec.json.encode(self._view(made))

        scope = f"{call.actor.tenant}/{call.actor.subject}"
        path = msgspec.json.encode([f"rollout:{name}", model])
        outcome = self.operations.perform(operation(scope, call.key, path, call.body), change)
        return Answer(outcome.answer, repeated=outcome.repeated)

    # -- inside ----------------------------------------------------------------------------------

    def _all(self, connection: Connection, call: Call) -> bytes:
        found = []
        for rollout in book.listed(connection, limit=_limit(call)):
            model = rows.find_model(connection, rollout.model)
            if model is not None and call.actor.may(SEE, model.name, model.tenant):
                found.append(rollout)
        return msgspec.json.encode(RolloutList(tuple(found)))

    def _of_model(self, connection: Connection, call: Call) -> bytes:
        found = self.rollouts.of_model(connection, call.arguments["model"], actor=call.actor)
        return msgspec.json.encode(RolloutList(found))

    def _newest(self, connection: Connection, call: Call) -> bytes:
        found = self.rollouts.newest(connection, call.arguments["model"], actor=call.actor)
        return msgspec.json.encode(self._view(found))

    def _view(self, rollout: Rollout) -> RolloutView:
        seen = self.seen(rollout.model)
        view = RolloutView(
            rollout=rollout, weight=rollout.weight, unrecorded=self.unrecorded(rollout.id)
        )
        if seen is None or seen.rollout.id != rollout.id or not rollout.is_active:
            return view
        return msgspec.structs.replace(
            view,
            published=seen.sight.published,
            requests=seen.sight.requests,
            holds_until_ns=rollout.since_ns + round(rollout.at.hold_s * 1e9),
            readings=seen.sight.readings,
        )


def _limit(call: Call) -> int:
    """Raises ParameterInvalid."""
    text = call.query.get("limit", "100")
    if not text.isdecimal() or not 0 < int(text) <= MOST_LISTED:
        raise ParameterInvalid(f"limit must be a whole number of 1 to {MOST_LISTED}")
    return int(text)


def answered(rollout: Rollout | None) -> Answer:
    """A rollback that gateways know and the registry does not. Raises RegistryUnavailable without any."""
    if rollout is None:
        raise RegistryUnavailable(
            "the registry's database cannot be used now, and no rollout of this model is known"
        )
    view = RolloutView(rollout=rollout, weight=0.0, unrecorded=True)
    return Answer(msgspec.json.encode(view))
