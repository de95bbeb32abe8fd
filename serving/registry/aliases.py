"""Aliases: names for versions of a model, which can be moved from one to another."""

from sqlalchemy import Connection

from serving.audit.events import EventName
from serving.core.actors import Actor
from serving.errors import NotFound, ParameterInvalid
from serving.registry import rows
from serving.registry.entities import Alias
from serving.registry.journal import Journal
from serving.registry.orders import check_name, check_revision


class Aliases:
    """Those of one model, changed by one actor in one transaction."""

    def __init__(
        self, journal: Journal, connection: Connection, *, model: str, actor: Actor
    ) -> None:
        self._journal = journal
        self._connection = connection
        self._model = model
        self._actor = actor

    def point(self, alias: str, version: str, *, if_revision: int | None) -> Alias:
        """Raises NotFound, RevisionStale, ParameterInvalid."""
        check_name(alias, "alias")
        if rows.find_version(self._connection, self._model, alias) is not None:
            raise ParameterInvalid(f"alias {alias!r} is the name of a version")
        if rows.find_version(self._connection, self._model, version) is None:
            raise NotFound(f"{self._model} has no version {version[:64]!r}")
        before = self._found(alias)
        check_revision(before.revision if before else 0, if_revision)
        after = Alias(
            model=self._model,
            alias=alias,
            version=version,
            updated_ns=self._journal.now_ns(),
            updated_by=self._actor.subject,
            revision=before.revision + 1 if before else 1,
        )
        rows.write_alias(self._connection, after)
        self._record(EventName.ALIAS_SET, before, after)
        return after

    def remove(self, alias: str) -> None:
        """Raises NotFound."""
        before = self._found(alias)
        if before is None:
            raise NotFound(f"{self._model} has no alias {alias[:64]!r}")
        rows.remove_alias(self._connection, self._model, alias)
        self._record(EventName.ALIAS_REMOVED, before, None)

    def _found(self, alias: str) -> Alias | None:
        of_model = rows.aliases_of(self._connection, self._model)
        return next((each for each in of_model if each.alias == alias), None)

    def _record(self, name: EventName, before: Alias | None, after: Alias | None) -> None:
        self._journal.record(
            self._connection,
            self._actor,
            name=name,
            about=f"model:{self._model}",
            before=before,
            after=after,
        )
