"""Rows as values and back, and every question that is asked of the tables. No rule is here."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, and_, exists, func, insert, or_, select, update

from serving.audit.chain import Entry
from serving.audit.tables import events
from serving.core.models import ModelVersion
from serving.registry.entities import (
    Alias,
    Ending,
    HistoryEntry,
    Lineage,
    ModelFacts,
    RegisteredModel,
    RegisteredVersion,
    Runtime,
    Traffic,
)
from serving.registry.lifecycle import State
from serving.registry.orders import Search
from serving.registry.tables import aliases, model_tags, models, traffic, versions

ESCAPE = "\\"

# -- models ------------------------------------------------------------------------------------------


def find_model(connection: Connection, name: str) -> RegisteredModel | None:
    row = connection.execute(select(models).where(models.c.name == name)).one_or_none()
    return None if row is None else _model(row)


def add_model(connection: Connection, model: RegisteredModel) -> None:
    connection.execute(insert(models).values(_model_row(model)))
    _write_tags(connection, model)


def change_model(connection: Connection, model: RegisteredModel) -> None:
    connection.execute(update(models).where(models.c.name == model.name).values(_model_row(model)))
    connection.execute(model_tags.delete().where(model_tags.c.model == model.name))
    _write_tags(connection, model)


def search_models(connection: Connection, search: Search) -> Iterator[RegisteredModel]:
    """In the order of their names, all that fit; whoever asks takes what may be seen."""
    query = select(models).where(*_conditions(search)).order_by(models.c.name)
    for row in connection.execute(query):
        yield _model(row)


def _conditions(search: Search) -> Iterator[Any]:
    if search.after:
        yield models.c.name > search.after
    for word in search.text.lower().split():
        yield models.c.text.contains(word, autoescape=True, escape=ESCAPE)
    if search.owner:
        yield models.c.owner == search.owner
    if search.team:
        yield models.c.team == search.team
    if search.risk_tier is not None:
        yield models.c.risk_tier == search.risk_tier.value
    for tag in search.tags:
        name, has_value, value = tag.partition("=")
        found = [model_tags.c.model == models.c.name, model_tags.c.tag == name]
        yield exists().where(and_(*found, *([model_tags.c.value == value] if has_value else [])))
    if search.state is not None:
        yield exists().where(
            versions.c.model == models.c.name, versions.c.state == search.state.value
        )


def _model(row: Row[Any]) -> RegisteredModel:
    return RegisteredModel(
        name=row.name,
        tenant=row.tenant,
        facts=msgspec.convert(row.facts, ModelFacts),
        created_ns=row.created_ns,
        created_by=row.created_by,
        updated_ns=row.updated_ns,
        revision=row.revision,
    )


def _model_row(model: RegisteredModel) -> dict[str, Any]:
    facts = model.facts
    words = [model.name, facts.owner, facts.team, facts.purpose, facts.description, facts.task]
    words += [f"{tag} {value}" for tag, value in facts.tags.items()]
    return {
        "name": model.name,
        "tenant": model.tenant,
        "owner": facts.owner,
        "team": facts.team,
        "risk_tier": facts.risk_tier.value,
        "text": "\n".join(words).lower(),
        "facts": msgspec.to_builtins(facts),
        "created_ns": model.created_ns,
        "created_by": model.created_by,
        "updated_ns": model.updated_ns,
        "revision": model.revision,
    }


def _write_tags(connection: Connection, model: RegisteredModel) -> None:
    rows = [
        {"model": model.name, "tag": tag, "value": value} for tag, value in model.facts.tags.items()
    ]
    if rows:
        connection.execute(insert(model_tags), rows)


def owned_models(connection: Connection) -> tuple[tuple[str, str], ...]:
    """Models that belong to a tenant, and to which; in the order of their names."""
    query = select(models.c.name, models.c.tenant).where(models.c.tenant != "")
    return tuple(
        (row.name, row.tenant) for row in connection.execute(query.order_by(models.c.name))
    )


# -- versions ----------------------------------------------------------------------------------------


def find_version(connection: Connection, model: str, version: str) -> RegisteredVersion | None:
    query = select(versions).where(versions.c.model == model, versions.c.version == version)
    row = connection.execute(query).one_or_none()
    return None if row is None else _version(row)


def versions_of(connection: Connection, model: str) -> tuple[RegisteredVersion, ...]:
    """In the order in which they were registered."""
    query = select(versions).where(versions.c.model == model).order_by(versions.c.position)
    return tuple(_version(row) for row in connection.execute(query))


def add_version(connection: Connection, version: RegisteredVersion) -> None:
    count = select(func.count()).where(versions.c.model == version.model)
    position = connection.execute(count).scalar_one()
    connection.execute(insert(versions).values(position=position, **_version_row(version)))


def change_version(connection: Connection, version: RegisteredVersion) -> None:
    connection.execute(
        update(versions)
        .where(versions.c.model == version.model, versions.c.version == version.version)
        .values(_version_row(version))
    )


def _version(row: Row[Any]) -> RegisteredVersion:
    return RegisteredVersion(
        model=row.model,
        version=row.version,
        digest=row.digest,
        definition=msgspec.convert(row.definition, ModelVersion),
        author=row.author,
        author_owner=row.author_owner,
        state=State(row.state),
        description=row.description,
        lineage=msgspec.convert(row.lineage, Lineage),
        runtime=msgspec.convert(row.runtime, Runtime),
        inspection=row.inspection,
        created_ns=row.created_ns,
        changed_ns=row.changed_ns,
        revision=row.revision,
        deprecated_ns=row.deprecated_ns,
        sunset_ns=row.sunset_ns,
        retired_ns=row.retired_ns,
        successor=row.successor,
        reason=row.reason,
    )


def _version_row(version: RegisteredVersion) -> dict[str, Any]:
    row = {name: getattr(version, name) for name in version.__struct_fields__}
    row["state"] = version.state.value
    for name in ("definition", "lineage", "runtime"):
        row[name] = msgspec.to_builtins(row[name])
    return row


# -- aliases, traffic, history -----------------------------------------------------------------------


def aliases_of(connection: Connection, model: str) -> tuple[Alias, ...]:
    query = select(aliases).where(aliases.c.model == model).order_by(aliases.c.alias)
    return tuple(Alias(**row._asdict()) for row in connection.execute(query))


def write_alias(connection: Connection, alias: Alias) -> None:
    remove_alias(connection, alias.model, alias.alias)
    connection.execute(insert(aliases).values(msgspec.to_builtins(alias)))


def remove_alias(connection: Connection, model: str, alias: str) -> None:
    connection.execute(aliases.delete().where(aliases.c.model == model, aliases.c.alias == alias))


def traffic_of(connection: Connection, model: str) -> Traffic:
    """Of a model that never had any: revision 0."""
    row = connection.execute(select(traffic).where(traffic.c.model == model)).one_or_none()
    return Traffic(model=model) if row is None else _traffic(row)


def all_traffic(connection: Connection) -> tuple[Traffic, ...]:
    query = select(traffic).order_by(traffic.c.model)
    return tuple(_traffic(row) for row in connection.execute(query))


def write_traffic(connection: Connection, wanted: Traffic) -> None:
    connection.execute(traffic.delete().where(traffic.c.model == wanted.model))
    connection.execute(insert(traffic).values(msgspec.to_builtins(wanted)))


def _traffic(row: Row[Any]) -> Traffic:
    return msgspec.convert(_plain(row), Traffic)


def _plain(row: Row[Any]) -> dict[str, Any]:
    """Names of columns are a kind of their own, which is no `str` to everybody."""
    return {str(name): value for name, value in row._mapping.items()}  # noqa: SLF001 - public


def endings(connection: Connection) -> tuple[Ending, ...]:
    """Every version that is deprecated or retired: what is left of those stays for ever."""
    columns = [versions.c[name] for name in Ending.__struct_fields__]
    ending = [State.DEPRECATED.value, State.RETIRED.value]
    query = select(*columns).where(versions.c.state.in_(ending))
    ordered = query.order_by(versions.c.model, versions.c.position)
    return tuple(msgspec.convert(_plain(row), Ending) for row in connection.execute(ordered))


def history_of(
    connection: Connection, model: str, *, after: int, limit: int
) -> Sequence[HistoryEntry]:
    """Everything that the audit trail tells of a model and its versions, oldest first."""
    of_versions = events.c.object.startswith(f"version:{model}@", autoescape=True)
    query: Select[Any] = (
        select(events.c.body)
        .where(or_(events.c.object == f"model:{model}", of_versions), events.c.position > after)
        .order_by(events.c.position)
        .limit(limit)
    )
    return [_history(body) for body in connection.scalars(query)]


def _history(body: str) -> HistoryEntry:
    entry = msgspec.json.decode(body, type=Entry)
    return HistoryEntry(
        position=entry.position,
        at_ns=int(entry.at_ns),
        name=entry.name,
        actor=entry.actor,
        object=entry.object,
        before=entry.before,
        after=entry.after,
        reason=entry.reason,
    )
