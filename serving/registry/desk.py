"""The registry as the control port offers it: questions and orders by name, from bytes to bytes.

A question is one read; an order is one transaction, carried out once per idempotency key. What is
asked for is decoded here, so that a field that callers do not decide is refused by its name.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection

from serving.core.calls import Answer, Call
from serving.core.models import ModelVersion, Stage
from serving.errors import (
    DigestChanged,
    FieldUnknown,
    NotFound,
    ParameterInvalid,
    RequestInvalid,
)
from serving.registry import cards, orders, rows
from serving.registry.bom import bill_of_materials
from serving.registry.definition import define, read_definition
from serving.registry.ensembles import artifact_of, digest_of, resolve
from serving.registry.entities import (
    Alias,
    HistoryEntry,
    ModelFacts,
    ModelPage,
    RegisteredModel,
    RegisteredVersion,
)
from serving.registry.service import Registry
from serving.storage.database import Database
from serving.storage.operations import Operations, operation

MOST_EVENTS: Final = 10_000
"""Of a model's history, looked at for the card of a version."""

Order = TypeVar("Order")


class VersionList(msgspec.Struct, frozen=True):
    versions: tuple[RegisteredVersion, ...]


class AliasList(msgspec.Struct, frozen=True):
    aliases: tuple[Alias, ...]


class History(msgspec.Struct, frozen=True):
    """next: the position behind which the next page begins; -1 for the last."""

    events: tuple[HistoryEntry, ...]
    next: int


class Done(msgspec.Struct, frozen=True):
    """It was done, and there is nothing to say about it."""


TYPES: Final[Mapping[str, Any]] = {
    "ModelOrder": orders.ModelOrder,
    "ModelFacts": ModelFacts,
    "VersionOrder": orders.VersionOrder,
    "StateOrder": orders.StateOrder,
    "AliasOrder": orders.AliasOrder,
    "TrafficOrder": orders.TrafficOrder,
    "RegisteredModel": RegisteredModel,
    "RegisteredVersion": RegisteredVersion,
    "ModelPage": ModelPage,
    "VersionList": VersionList,
    "Alias": Alias,
    "AliasList": AliasList,
    "History": History,
    "Done": Done,
    "ModelCard": cards.ModelCard,
}
"""What goes in and out, by the names that the description of the control port uses."""


class Shelf(Protocol):
    """Which artifacts were uploaded: `artifacts.store.ArtifactStore`."""

    def holds(self, digest: str) -> bool: ...
    def put(self, pieces: Iterable[bytes], *, expected: str = "") -> str: ...


class RegistryDesk:
    """Answers calls. Blocks: it is used from a thread of its own."""

    def __init__(
        self, registry: Registry, database: Database, operations: Operations, *, shelf: Shelf
    ) -> None:
        self._registry = registry
        self._database = database
        self._operations = operations
        self._shelf = shelf
        self._questions: Mapping[str, Callable[[Connection, Call], Any]] = {
            "search": self._search,
            "model": self._model,
            "history": self._history,
            "versions": self._versions,
            "version": self._version,
            "aliases": self._aliases,
            "card": self._card,
            "bom": self._bom,
        }
        self._orders: Mapping[str, Callable[[Connection, Call], Any]] = {
            "register_model": self._register_model,
            "change_model": self._change_model,
            "register_version": self._register_version,
            "change_state": self._change_state,
            "set_alias": self._set_alias,
            "remove_alias": self._remove_alias,
        }

    def ask(self, name: str, call: Call) -> Answer:
        """Raises ServingError of many kinds."""
        found = self._database.read(lambda connection: self._questions[name](connection, call))
        return found if isinstance(found, Answer) else Answer(msgspec.json.encode(found))

    def carry_out(self, name: str, call: Call) -> Answer:
        """Raises ServingError of many kinds; then nothing was changed, but see RegistryUnavailable."""
        path = msgspec.json.encode([name, *sorted(call.arguments.items()), call.if_revision])
        scope = f"{call.actor.tenant}/{call.actor.subject}"
        outcome = self._operations.perform(
            operation(scope, call.key, path, call.body),
            lambda connection: msgspec.json.encode(self._orders[name](connection, call)),
        )
        return Answer(outcome.answer, repeated=outcome.repeated)

    # -- questions -------------------------------------------------------------------------------

    def _search(self, connection: Connection, call: Call) -> ModelPage:
        values: dict[str, Any] = dict(call.query)
        values["tags"] = [tag for tag in values.get("tags", "").split(",") if tag]
        try:
            search = msgspec.convert(values, orders.Search, strict=False)
        except msgspec.ValidationError as error:
            raise ParameterInvalid(f"the search is not one: {str(error)[:128]}") from error
        return self._registry.search(connection, search, actor=call.actor)

    def _model(self, connection: Connection, call: Call) -> RegisteredModel:
        return self._registry.model(connection, call.arguments["model"], actor=call.actor)

    def _history(self, connection: Connection, call: Call) -> History:
        after, limit = _number(call, "after", -1), _number(call, "limit", orders.MAX_PAGE)
        found = self._registry.history(
            connection, call.arguments["model"], actor=call.actor, after=after, limit=limit
        )
        is_whole = len(found) < min(limit, orders.MAX_PAGE)
        return History(tuple(found), next=-1 if is_whole or not found else found[-1].position)

    def _versions(self, connection: Connection, call: Call) -> VersionList:
        found = self._registry.versions(connection, call.arguments["model"], actor=call.actor)
        return VersionList(found)

    def _version(self, connection: Connection, call: Call) -> RegisteredVersion:
        return self._registry.version(connection, *_key(call), actor=call.actor)

    def _aliases(self, connection: Connection, call: Call) -> AliasList:
        found = self._registry.aliases(connection, call.arguments["model"], actor=call.actor)
        return AliasList(found)

    def _card(self, connection: Connection, call: Call) -> cards.ModelCard | Answer:
        card = self._made_card(connection, call)
        if call.query.get("format", "json") == "json":
            return card
        if call.query["format"] != "markdown":
            raise ParameterInvalid("format must be json or markdown")
        return Answer(cards.markdown(card).encode(), "text/markdown; charset=utf-8")

    def _bom(self, connection: Connection, call: Call) -> Answer:
        document = bill_of_materials(self._made_card(connection, call))
        return Answer(msgspec.json.encode(document), "application/vnd.cyclonedx+json; version=1.6")

    def _made_card(self, connection: Connection, call: Call) -> cards.ModelCard:
        version = self._registry.version(connection, *_key(call), actor=call.actor)
        model = self._registry.model(connection, version.model, actor=call.actor)
        history = _changes(connection, version)
        return cards.model_card(model, version, history=history)

    # -- orders ----------------------------------------------------------------------------------

    def _register_model(self, connection: Connection, call: Call) -> RegisteredModel:
        order = decoded(call, orders.ModelOrder)
        return self._registry.register_model(connection, order, actor=call.actor)

    def _change_model(self, connection: Connection, call: Call) -> RegisteredModel:
        return self._registry.change_model(
            connection,
            call.arguments["model"],
            facts=decoded(call, ModelFacts),
            actor=call.actor,
            if_revision=call.if_revision,
        )

    def _register_version(self, connection: Connection, call: Call) -> RegisteredVersion:
        order = decoded(call, orders.VersionOrder)
        definition = self._defined(connection, call, order)
        version = self._registry.register_version(
            connection,
            definition,
            actor=call.actor,
            description=order.description,
            lineage=order.lineage,
        )
        if version.definition.stages and not self._shelf.holds(version.digest):
            content = artifact_of(version.definition.stages)
            self._shelf.put((content,), expected=version.digest)
        if not self._shelf.holds(version.digest):
            raise NotFound("no artifact with this digest was uploaded; nothing was registered")
        return version

    def _defined(
        self, connection: Connection, call: Call, order: orders.VersionOrder
    ) -> ModelVersion:
        """As ordered; the digest of an ensemble follows from its stages.

        Raises ParameterInvalid, DigestChanged.
        """
        definition, model = read_definition(order.definition), call.arguments["model"]
        stages: tuple[Stage, ...] = ()
        digest = order.digest
        if definition.stages:
            orders.check_name(order.version, "version")
            stages = resolve(
                definition,
                lambda *key: self._registry.stage(connection, *key, actor=call.actor),
                model=model,
                version=order.version,
            )
            digest = digest_of(stages)
            if order.digest not in ("", digest):
                raise DigestChanged(f"the stages have the digest {digest}, not {order.digest[:64]}")
        orders.check_digest(digest)
        return define(definition, model=model, version=order.version, digest=digest, stages=stages)

    def _change_state(self, connection: Connection, call: Call) -> RegisteredVersion:
        return self._registry.change_state(
            connection,
            _key(call),
            order=decoded(call, orders.StateOrder),
            actor=call.actor,
            if_revision=call.if_revision,
        )

    def _set_alias(self, connection: Connection, call: Call) -> Alias:
        return self._registry.set_alias(
            connection,
            call.arguments["model"],
            call.arguments["alias"],
            version=decoded(call, orders.AliasOrder).version,
            actor=call.actor,
            if_revision=call.if_revision,
        )

    def _remove_alias(self, connection: Connection, call: Call) -> Done:
        model, alias = call.arguments["model"], call.arguments["alias"]
        self._registry.remove_alias(connection, model, alias, actor=call.actor)
        return Done()


def _changes(connection: Connection, version: RegisteredVersion) -> list[cards.Change]:
    """What became of this version."""
    found = rows.history_of(connection, version.model, after=-1, limit=MOST_EVENTS)
    return [
        cards.Change(entry.at_ns, entry.name, entry.actor, entry.reason)
        for entry in found
        if entry.object == f"version:{version.key}"
    ]


def decoded(call: Call, kind: type[Order]) -> Order:
    """The body as an order. Raises FieldUnknown or RequestInvalid."""
    try:
        return msgspec.json.decode(call.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = str(error)
        if "unknown field" in text:
            raise FieldUnknown(f"the body holds a field that it must not: {text[:128]}") from error
        raise RequestInvalid(f"the body is not what this route takes: {text[:128]}") from error


def _key(call: Call) -> tuple[str, str]:
    return call.arguments["model"], call.arguments["version"]


def _number(call: Call, name: str, default: int) -> int:
    try:
        return int(call.query.get(name, default))
    except ValueError:
        raise ParameterInvalid(f"{name} must be a whole number") from None
