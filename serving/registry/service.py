"""The registry: who may register, change and read what, and what it becomes.

Every method works within the caller's transaction, so that several changes can be one, and writes
its audit event there. What an actor may not see is not there: `ModelNotFound`, in the same words as
for a name of nothing, and it is in no list and no count.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from serving.access.authorization import NO_MODEL
from serving.audit.events import EventName
from serving.audit.log import AuditLog
from serving.core.actors import Actor
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.core.principals import Action
from serving.errors import (
    AlreadyThere,
    DigestChanged,
    Forbidden,
    ModelNotFound,
    NotFound,
    ParameterInvalid,
)
from serving.registry import rows
from serving.registry.aliases import Aliases
from serving.registry.ensembles import trouble_with
from serving.registry.entities import (
    Alias,
    HistoryEntry,
    Lineage,
    ModelFacts,
    ModelPage,
    RegisteredModel,
    RegisteredVersion,
    Runtime,
    Traffic,
)
from serving.registry.journal import Guard, Journal
from serving.registry.lifecycle import State, Step
from serving.registry.movement import Movement
from serving.registry.orders import (
    MAX_PAGE,
    ModelOrder,
    Search,
    StateOrder,
    TrafficOrder,
    check_digest,
    check_facts,
    check_name,
    check_revision,
)

SEE = Action.DESCRIBE_CANDIDATES
"""What it takes to look into the registry."""

STEP_ACTIONS = {
    Step.VALIDATE: Action.REGISTER,
    Step.APPROVE: Action.APPROVE,
    Step.REJECT: Action.APPROVE,
    Step.REVOKE: Action.APPROVE,
}
"""Whose step it is; every other one is an operator's."""


class Registry:
    """Models, versions, aliases and traffic of one installation."""

    def __init__(self, audit: AuditLog, guard: Guard, clock: Clock) -> None:
        self._journal = Journal(audit, guard, clock)

    # -- models ----------------------------------------------------------------------------------

    def register_model(
        self, connection: Connection, order: ModelOrder, *, actor: Actor, tenant: str | None = None
    ) -> RegisteredModel:
        """A model of the actor's tenant. tenant: another, for the product's own import.

        Raises AlreadyThere, Forbidden, ParameterInvalid.
        """
        check_name(order.name, "model")
        check_facts(order.facts)
        self._journal.guard.check_facts(order.facts)
        tenant = actor.tenant if tenant is None else tenant
        if not actor.may(Action.REGISTER, order.name, tenant):
            raise Forbidden("this credential may not register a model of this name")
        if rows.find_model(connection, order.name) is not None:
            raise AlreadyThere(f"the name {order.name} is taken")
        now_ns = self._journal.now_ns()
        model = RegisteredModel(
            name=order.name,
            tenant=tenant,
            facts=order.facts,
            created_ns=now_ns,
            created_by=actor.subject,
            updated_ns=now_ns,
            revision=1,
        )
        rows.add_model(connection, model)
        self._journal.record(
            connection,
            actor,
            name=EventName.MODEL_REGISTERED,
            about=f"model:{model.name}",
            after=model,
        )
        return model

    def change_model(
        self,
        connection: Connection,
        name: str,
        *,
        facts: ModelFacts,
        actor: Actor,
        if_revision: int | None = None,
    ) -> RegisteredModel:
        """All facts of a model anew. Raises ModelNotFound, Forbidden, RevisionStale."""
        check_facts(facts)
        self._journal.guard.check_facts(facts)
        before = self._model(connection, name, actor, Action.REGISTER)
        check_revision(before.revision, if_revision)
        after = msgspec.structs.replace(
            before, facts=facts, updated_ns=self._journal.now_ns(), revision=before.revision + 1
        )
        rows.change_model(connection, after)
        self._journal.record(
            connection,
            actor,
            name=EventName.MODEL_CHANGED,
            about=f"model:{name}",
            before=before.facts,
            after=facts,
        )
        return after

    def model(self, connection: Connection, name: str, *, actor: Actor) -> RegisteredModel:
        """Raises ModelNotFound."""
        return self._model(connection, name, actor, SEE)

    def search(self, connection: Connection, search: Search, *, actor: Actor) -> ModelPage:
        """Those that the actor may see, a page at a time."""
        if not 1 <= search.limit <= MAX_PAGE:
            raise ParameterInvalid(f"limit must be 1 to {MAX_PAGE}")
        found: list[RegisteredModel] = []
        for model in rows.search_models(connection, search):
            if actor.may(SEE, model.name, model.tenant):
                if len(found) == search.limit:
                    return ModelPage(tuple(found), next=found[-1].name)
                found.append(model)
        return ModelPage(tuple(found))

    def history(
        self,
        connection: Connection,
        name: str,
        *,
        actor: Actor,
        after: int = -1,
        limit: int = MAX_PAGE,
    ) -> Sequence[HistoryEntry]:
        """What became of the model and its versions, oldest first. Raises ModelNotFound."""
        self._model(connection, name, actor, SEE)
        return rows.history_of(connection, name, after=after, limit=min(limit, MAX_PAGE))

    # -- versions --------------------------------------------------------------------------------

    def register_version(
        self,
        connection: Connection,
        definition: ModelVersion,
        *,
        actor: Actor,
        description: str = "",
        lineage: Lineage | None = None,
        runtime: Runtime | None = None,
        inspection: dict[str, Any] | None = None,
    ) -> RegisteredVersion:
        """A version whose artifact is in the artifact store already. Its author is the actor.

        Raises ModelNotFound, Forbidden, AlreadyThere, DigestChanged, ParameterInvalid.
        """
        lineage = lineage or Lineage()
        check_name(definition.version, "version")
        check_digest(definition.digest)
        model = self._model(connection, definition.model, actor, Action.REGISTER)
        self._check_stages(connection, definition, actor)
        _check_is_new(connection, definition, lineage)
        now_ns = self._journal.now_ns()
        version = RegisteredVersion(
            model=model.name,
            version=definition.version,
            digest=definition.digest,
            definition=definition,
            author=actor.subject,
            author_owner=actor.owner,
            state=State.REGISTERED,
            description=description,
            lineage=lineage,
            runtime=runtime or Runtime(),
            inspection=inspection,
            created_ns=now_ns,
            changed_ns=now_ns,
            revision=1,
        )
        rows.add_version(connection, version)
        self._journal.record(
            connection,
            actor,
            name=EventName.VERSION_REGISTERED,
            about=f"version:{version.key}",
            after=version,
        )
        return version

    def attach_inspection(
        self,
        connection: Connection,
        key: tuple[str, str],
        *,
        report: dict[str, Any],
        runtime: Runtime,
        actor: Actor,
    ) -> RegisteredVersion:
        """What the inspection of a registered version's artifact found; once it is validated it
        stays. key: model and version. Raises ModelNotFound, NotFound, AlreadyThere."""
        before = self.version(connection, *key, actor=actor)
        self._model(connection, before.model, actor, Action.REGISTER)
        if before.state is not State.REGISTERED:
            raise AlreadyThere(f"{before.key} is {before.state}: its inspection is closed")
        after = msgspec.structs.replace(
            before,
            inspection=report,
            runtime=runtime,
            changed_ns=self._journal.now_ns(),
            revision=before.revision + 1,
        )
        rows.change_version(connection, after)
        self._journal.record(
            connection,
            actor,
            name=EventName.VERSION_INSPECTED,
            about=f"version:{after.key}",
            before=before.inspection,
            after=report,
        )
        return after

    def version(
        self, connection: Connection, model: str, version: str, *, actor: Actor
    ) -> RegisteredVersion:
        """By its name or an alias. Raises ModelNotFound, NotFound."""
        self._model(connection, model, actor, SEE)
        for alias in rows.aliases_of(connection, model):
            if alias.alias == version:
                version = alias.version
        found = rows.find_version(connection, model, version)
        if found is None:
            raise NotFound(f"{model} has no version or alias {version[:64]!r}")
        return found

    def stage(
        self, connection: Connection, model: str, version: str, *, actor: Actor
    ) -> ModelVersion | None:
        """What an ensemble may be made of: None for what is not there, or not for this actor."""
        owner = rows.find_model(connection, model)
        if owner is None or not actor.may(SEE, model, owner.tenant):
            return None
        found = rows.find_version(connection, model, version)
        return None if found is None else found.definition

    def versions(
        self, connection: Connection, model: str, *, actor: Actor
    ) -> tuple[RegisteredVersion, ...]:
        """In the order in which they were registered. Raises ModelNotFound."""
        self._model(connection, model, actor, SEE)
        return rows.versions_of(connection, model)

    def change_state(
        self,
        connection: Connection,
        key: tuple[str, str],
        *,
        order: StateOrder,
        actor: Actor,
        if_revision: int | None = None,
    ) -> RegisteredVersion:
        """One step of a version's life. key: model and version.

        Raises ModelNotFound, NotFound, Forbidden, RevisionStale, TransitionRefused.
        """
        action = STEP_ACTIONS.get(order.step, Action.OPERATE)
        model = self._model(connection, key[0], actor, action)
        version = self.version(connection, *key, actor=actor)
        check_revision(version.revision, if_revision)
        return self._movement(connection, model, actor).take(version, order)

    # -- aliases and traffic ---------------------------------------------------------------------

    def aliases(self, connection: Connection, model: str, *, actor: Actor) -> tuple[Alias, ...]:
        """Raises ModelNotFound."""
        self._model(connection, model, actor, SEE)
        return rows.aliases_of(connection, model)

    def set_alias(
        self,
        connection: Connection,
        model: str,
        alias: str,
        *,
        version: str,
        actor: Actor,
        if_revision: int | None = None,
    ) -> Alias:
        """Raises ModelNotFound, NotFound, Forbidden, RevisionStale, ParameterInvalid."""
        self._model(connection, model, actor, Action.OPERATE)
        aliases = Aliases(self._journal, connection, model=model, actor=actor)
        return aliases.point(alias, version, if_revision=if_revision)

    def remove_alias(self, connection: Connection, model: str, alias: str, *, actor: Actor) -> None:
        """Raises ModelNotFound, NotFound, Forbidden."""
        self._model(connection, model, actor, Action.OPERATE)
        Aliases(self._journal, connection, model=model, actor=actor).remove(alias)

    def traffic(self, connection: Connection, model: str, *, actor: Actor) -> Traffic:
        """Raises ModelNotFound."""
        self._model(connection, model, actor, SEE)
        return rows.traffic_of(connection, model)

    def set_traffic(
        self,
        connection: Connection,
        model: str,
        *,
        order: TrafficOrder,
        actor: Actor,
        if_revision: int,
        restoring: bool = False,
    ) -> Traffic:
        """Promotes, shadows and stands down what that takes. if_revision: of the traffic that was
        seen, 0 where there was none. restoring: a roll-back to a version that has answered before.

        Raises ModelNotFound, Forbidden, RevisionStale, TransitionRefused, ParameterInvalid.
        """
        found = self._model(connection, model, actor, Action.OPERATE)
        return self._movement(connection, found, actor).route(
            order, if_revision, restoring=restoring
        )

    # -- inside ----------------------------------------------------------------------------------

    def _check_stages(self, connection: Connection, definition: ModelVersion, actor: Actor) -> None:
        """Of an ensemble: each is there, and the actor may look at it. Raises ParameterInvalid."""
        if not definition.stages:
            return
        trouble = trouble_with(definition, lambda *key: self.stage(connection, *key, actor=actor))
        if trouble:
            raise ParameterInvalid(trouble)

    def _movement(self, connection: Connection, model: RegisteredModel, actor: Actor) -> Movement:
        return Movement(self._journal, connection, model=model, actor=actor)

    def _model(
        self, connection: Connection, name: str, actor: Actor, action: Action
    ) -> RegisteredModel:
        """Raises ModelNotFound for what may not be seen, Forbidden for what may only be seen."""
        model = rows.find_model(connection, name)
        if model is None or not actor.may(SEE, name, model.tenant):
            raise ModelNotFound(NO_MODEL)
        if action is not SEE and not actor.may(action, name, model.tenant):
            raise Forbidden(f"this credential may not {action} this model")
        return model


def _check_is_new(connection: Connection, definition: ModelVersion, lineage: Lineage) -> None:
    """Raises DigestChanged, AlreadyThere, or ParameterInvalid for a parent that is not there."""
    known = rows.find_version(connection, definition.model, definition.version)
    if known is not None and known.digest != definition.digest:
        raise DigestChanged(
            f"{known.key} has another artifact; a version never changes: register a new one"
        )
    if known is not None:
        raise AlreadyThere(f"{known.key} is there already")
    if lineage.parent and rows.find_version(connection, definition.model, lineage.parent) is None:
        raise ParameterInvalid(
            f"{definition.model} has no version {lineage.parent!r} to descend from"
        )
