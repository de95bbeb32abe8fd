"""Who answers for each model, as an operator sees and changes it: the traffic rows behind the port.

Every change is one transaction with its audit event, made once per idempotency key. Blocks: it is used
from the control plane's own thread.
"""

from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import Connection

from serving.control.applying import Applying
from serving.control.changes import ApplyOrder
from serving.control.policyhistory import PolicyEntries, PolicyHistory
from serving.core.calls import Answer, Call
from serving.errors import NotFound, ParameterInvalid
from serving.registry import rows
from serving.registry.desk import decoded
from serving.registry.entities import Traffic
from serving.registry.orders import TrafficOrder
from serving.registry.service import SEE, Registry
from serving.storage.database import Database
from serving.storage.operations import Operations, operation

_MOST_DIGITS: Final = 18


class TrafficList(msgspec.Struct, frozen=True):
    """Of every model that has some and that the caller may see."""

    traffic: tuple[Traffic, ...]


@dataclass(frozen=True, slots=True)
class TrafficDesk:
    """Fits `edge.admin.registry.Desk` by shape."""

    database: Database
    registry: Registry
    operations: Operations
    applying: Applying
    history: PolicyHistory

    def ask(self, name: str, call: Call) -> Answer:
        """`traffic`, `all_traffic` or `traffic_history`. Raises ModelNotFound, ParameterInvalid,
        RegistryUnavailable."""
        questions = {"all_traffic": self._all, "traffic_history": self._past}
        question = questions.get(name, self._one)
        return Answer(self.database.read(lambda connection: question(connection, call)))

    def carry_out(self, name: str, call: Call) -> Answer:
        """`set_traffic` with a TrafficOrder, or `apply` with an ApplyOrder; without a revision
        whatever is there is replaced. Raises ServingError of many kinds."""
        if name == "apply":
            applied = self.applying.run(decoded(call, ApplyOrder), actor=call.actor)
            return Answer(msgspec.json.encode(applied))
        if name != "set_traffic":
            raise NotFound(f"there is no order {name}. This is a bug")
        model, order = call.arguments["model"], decoded(call, TrafficOrder)

        def change(connection: Connection) -> bytes:
            seen = call.if_revision
            if seen is None:
                seen = self.registry.traffic(connection, model, actor=call.actor).revision
            after = self.registry.set_traffic(
                connection, model, order=order, actor=call.actor, if_revision=seen
            )
            return msgspec.json.encode(after)

        scope = f"{call.actor.tenant}/{call.actor.subject}"
        path = msgspec.json.encode([name, model, call.if_revision])
        outcome = self.operations.perform(operation(scope, call.key, path, call.body), change)
        return Answer(outcome.answer, repeated=outcome.repeated)

    def _all(self, connection: Connection, call: Call) -> bytes:
        found = []
        for traffic in rows.all_traffic(connection):
            model = rows.find_model(connection, traffic.model)
            if model is not None and call.actor.may(SEE, model.name, model.tenant):
                found.append(traffic)
        return msgspec.json.encode(TrafficList(tuple(found)))

    def _past(self, connection: Connection, call: Call) -> bytes:
        model = call.arguments["model"]
        self.registry.traffic(connection, model, actor=call.actor)
        epoch = call.query.get("epoch", "")
        if epoch and not (epoch.isdigit() and len(epoch) <= _MOST_DIGITS):
            raise ParameterInvalid("epoch must be a whole number")
        found = self.history.of(model, epoch=int(epoch) if epoch else None)
        return msgspec.json.encode(PolicyEntries(found))

    def _one(self, connection: Connection, call: Call) -> bytes:
        model = call.arguments["model"]
        return msgspec.json.encode(self.registry.traffic(connection, model, actor=call.actor))
