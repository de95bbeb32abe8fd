"""The registry over the control port: each method is one route, with the registry's own types."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from serving.client.connection import Connection, segment
from serving.registry.cards import ModelCard
from serving.registry.entities import (
    Alias,
    HistoryEntry,
    Lineage,
    ModelFacts,
    ModelPage,
    RegisteredModel,
    RegisteredVersion,
    Traffic,
)
from serving.registry.lifecycle import Step
from serving.registry.orders import (
    AliasOrder,
    ModelOrder,
    StateOrder,
    TrafficOrder,
    VersionOrder,
)

Answer = TypeVar("Answer")


class _Versions(msgspec.Struct, frozen=True):
    versions: tuple[RegisteredVersion, ...]


class _Aliases(msgspec.Struct, frozen=True):
    aliases: tuple[Alias, ...]


class _History(msgspec.Struct, frozen=True):
    events: tuple[HistoryEntry, ...]
    next: int


class RegistryClient(Connection):
    """Models, versions, aliases, traffic and evidence. Methods raise the errors of the registry:
    ModelNotFound, Forbidden, RevisionStale, TransitionRefused, ParameterInvalid and others."""

    # -- models ----------------------------------------------------------------------------------

    def search(
        self,
        *,
        text: str = "",
        owner: str = "",
        team: str = "",
        risk_tier: str = "",
        tags: Sequence[str] = (),
        state: str = "",
    ) -> Iterator[RegisteredModel]:
        """All models that fit and that may be seen, in the order of their names."""
        wanted = {"text": text, "owner": owner, "team": team, "risk_tier": risk_tier}
        wanted |= {"tags": ",".join(tags), "state": state}
        query = {name: value for name, value in wanted.items() if value}
        while True:
            page = self.ask("/v1/models", ModelPage, **query)
            yield from page.models
            if not page.next:
                return
            query["after"] = page.next

    def model(self, name: str) -> RegisteredModel:
        return self.ask(_model(name), RegisteredModel)

    def register_model(self, name: str, facts: ModelFacts, *, key: str = "") -> RegisteredModel:
        order = ModelOrder(name=name, facts=facts)
        return self.order("POST", "/v1/models", RegisteredModel, body=order, key=key)

    def change_model(
        self, name: str, facts: ModelFacts, *, if_revision: int | None = None
    ) -> RegisteredModel:
        """All facts anew."""
        return self.order("PUT", _model(name), RegisteredModel, body=facts, if_revision=if_revision)

    def history(self, name: str) -> Iterator[HistoryEntry]:
        """Everything that became of it, oldest first."""
        after = -1
        while True:
            page = self.ask(f"{_model(name)}/history", _History, after=str(after))
            yield from page.events
            after = page.next
            if after < 0:
                return

    # -- versions --------------------------------------------------------------------------------

    def versions(self, model: str) -> tuple[RegisteredVersion, ...]:
        """In the order in which they were registered."""
        return self.ask(f"{_model(model)}/versions", _Versions).versions

    def version(self, model: str, version: str) -> RegisteredVersion:
        """version: a name or an alias."""
        return self.ask(_version(model, version), RegisteredVersion)

    def register_version(
        self,
        model: str,
        version: str,
        *,
        digest: str,
        definition: dict[str, Any],
        description: str = "",
        lineage: Lineage | None = None,
        key: str = "",
    ) -> RegisteredVersion:
        """digest: of an artifact that was uploaded. definition: as in `model.yaml`."""
        order = VersionOrder(
            version=version,
            digest=digest,
            definition=definition,
            description=description,
            lineage=lineage or Lineage(),
        )
        path = f"{_model(model)}/versions"
        return self.order("POST", path, RegisteredVersion, body=order, key=key)

    def change_state(
        self,
        model: str,
        version: str,
        step: Step,
        *,
        reason: str,
        sunset_ns: int = 0,
        successor: str = "",
        override: bool = False,
        if_revision: int | None = None,
    ) -> RegisteredVersion:
        order = StateOrder(
            step=step, reason=reason, sunset_ns=sunset_ns, successor=successor, override=override
        )
        path = f"{_version(model, version)}/state"
        return self.order("POST", path, RegisteredVersion, body=order, if_revision=if_revision)

    def card(self, model: str, version: str) -> ModelCard:
        return self.ask(f"{_version(model, version)}/card", ModelCard)

    def card_markdown(self, model: str, version: str) -> str:
        return self.fetch(f"{_version(model, version)}/card", format="markdown").decode()

    def bill_of_materials(self, model: str, version: str) -> dict[str, Any]:
        """CycloneDX 1.6."""
        return self.ask(f"{_version(model, version)}/bom", dict[str, Any])

    # -- aliases and traffic ---------------------------------------------------------------------

    def aliases(self, model: str) -> tuple[Alias, ...]:
        return self.ask(f"{_model(model)}/aliases", _Aliases).aliases

    def set_alias(
        self, model: str, alias: str, version: str, *, if_revision: int | None = None
    ) -> Alias:
        path = f"{_model(model)}/aliases/{segment(alias)}"
        return self.order(
            "PUT", path, Alias, body=AliasOrder(version=version), if_revision=if_revision
        )

    def remove_alias(self, model: str, alias: str) -> None:
        self.order("DELETE", f"{_model(model)}/aliases/{segment(alias)}", dict[str, Any])

    def traffic(self, model: str) -> Traffic:
        return self.ask(f"/v1/traffic/{segment(model)}", Traffic)

    def set_traffic(self, model: str, order: TrafficOrder, *, if_revision: int) -> Traffic:
        """if_revision: of the traffic that was seen."""
        path = f"/v1/traffic/{segment(model)}"
        return self.order("PUT", path, Traffic, body=order, if_revision=if_revision)


def _model(name: str) -> str:
    return f"/v1/models/{segment(name)}"


def _version(model: str, version: str) -> str:
    return f"{_model(model)}/versions/{segment(version)}"
