"""How versions of the models folder come to be approved, as far as a policy lets the installation agree.

    register   the model with what its `model.yaml` says of it, and the version, as its author
    keep       the artifact, sealed, by its digest
    validate   for tiers that the installation agrees to by itself, that the bytes are the declared
               ones is enough to begin with; their inspection follows (`control.inspections`). For
               all others nothing goes on before the artifact was inspected
    agree      `local-policy` approves, where the tier of risk says that it may; else people have to

Each step looks at what is there and makes what is missing, so that it can be repeated; what is there
already is not read again.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from sqlalchemy import Connection

from serving.core.actors import Actor, everywhere, product
from serving.errors import AlreadyThere, DigestChanged, ServingError
from serving.governance.entities import EvidenceOrder
from serving.governance.evidencebook import EvidenceBook
from serving.governance.guard import EvidenceGuard
from serving.governance.waivers import Waivers
from serving.registry import rows
from serving.registry.entities import RegisteredModel, RegisteredVersion
from serving.registry.folder import Catalogue, CatalogueEntry
from serving.registry.lifecycle import State, Step
from serving.registry.orders import ModelOrder, StateOrder
from serving.registry.service import Registry
from serving.settings import Deployment
from serving.storage.database import Database

INSPECTED_FIRST: Final = "its artifact is inspected first; look again, or apply again, soon"
SUMMARY: Final = "the bytes have the digest that model.yaml declares"


class ArtifactShelf(Protocol):
    """Where artifacts are kept: `artifacts.store.ArtifactStore`."""

    def holds(self, digest: str) -> bool: ...
    def put(self, pieces: Iterator[bytes], *, expected: str = "") -> str: ...


@dataclass(frozen=True, slots=True)
class FolderAdmission:
    """Fits `control.applying.Admission`."""

    catalogue: Catalogue
    database: Database
    registry: Registry
    evidence: EvidenceGuard
    book: EvidenceBook
    waivers: Waivers
    shelf: ArtifactShelf

    def obstacle(self, model: str, version: str) -> ServingError | None:
        """Why the folder cannot give this version; None when it can."""
        try:
            self.catalogue.entry(model, version)
        except ServingError as error:
            return error
        return None

    def admit(self, deployment: Deployment, version: str, *, actor: Actor) -> str:
        """As far as the policy permits. What is missing then, in words, or nothing.

        Raises SpecificationInvalid, ArtifactMissing, ArtifactInvalid, DigestChanged,
        RegistryUnavailable, KeyStoreUnavailable.
        """
        entry = self.catalogue.entry(deployment.model, version)
        missing = self._admit_stages(entry, actor)
        if missing:
            return missing
        digest = entry.version.digest
        if not self.shelf.holds(digest):
            self.shelf.put(entry.content(), expected=digest)

        def change(connection: Connection) -> str:
            model = self._model(connection, deployment, entry)
            registered = self._version(connection, entry, actor)
            if registered.state is State.REGISTERED:
                if not self._is_local(model):
                    return INSPECTED_FIRST
                self._validate(connection, registered)
                registered = self._found(connection, registered)
            if registered.state is State.VALIDATED:
                return self._agree(connection, model, registered)
            return ""

        return self.database.run(change)

    def _admit_stages(self, entry: CatalogueEntry, actor: Actor) -> str:
        """Those of an ensemble first: each may serve by itself, with or without traffic."""
        missing = []
        for stage in entry.version.stages:
            state = self._state(stage.model, stage.version)
            if state in (None, State.REGISTERED, State.VALIDATED):
                order = Deployment(model=stage.model, stable=stage.version)
                words = self.admit(order, stage.version, actor=actor)
                missing += [f"stage {stage.key}: {words}"] if words else []
        return "; ".join(missing)

    def _state(self, model: str, version: str) -> State | None:
        found = self.database.read(lambda connection: rows.find_version(connection, model, version))
        return None if found is None else found.state

    # -- in one transaction ----------------------------------------------------------------------

    def _model(
        self, connection: Connection, deployment: Deployment, entry: CatalogueEntry
    ) -> RegisteredModel:
        found = rows.find_model(connection, deployment.model)
        if found is not None:
            return found
        order = ModelOrder(name=deployment.model, facts=entry.facts)
        importing = product("import")
        return self.registry.register_model(
            connection, order, actor=importing, tenant=deployment.tenant
        )

    def _version(
        self, connection: Connection, entry: CatalogueEntry, actor: Actor
    ) -> RegisteredVersion:
        """Its author is whoever has it imported."""
        version = entry.version
        found = rows.find_version(connection, version.model, version.version)
        if found is None:
            # Whoever applies the file operates the model; what the folder holds was put there.
            author = replace(actor, reach=everywhere)
            with suppress(AlreadyThere):
                return self.registry.register_version(
                    connection,
                    version,
                    actor=author,
                    description=entry.version_description,
                    lineage=entry.lineage,
                )
        elif found.digest != version.digest:
            raise DigestChanged(
                f"{found.key} has another artifact than the models folder; a version never changes: "
                "give the new one a name of its own"
            )
        return self._found(connection, found)

    def _found(
        self, connection: Connection, version: RegisteredVersion | None
    ) -> RegisteredVersion:
        found = version and rows.find_version(connection, version.model, version.version)
        if not found:
            raise ValueError("a version that was there is not. This is a bug")
        return found

    def _is_local(self, model: RegisteredModel) -> bool:
        return self.evidence.policies.tier(model.facts.risk_tier.value).local

    def _validate(self, connection: Connection, version: RegisteredVersion) -> None:
        evidence = EvidenceOrder(
            kind="validation",
            model=version.model,
            version=version.version,
            digest=version.digest,
            outcome="pass",
            summary=SUMMARY,
            content={"digest": version.digest},
        )
        self.book.record(connection, evidence, actor=product("import"))
        self.registry.change_state(
            connection,
            (version.model, version.version),
            order=StateOrder(step=Step.VALIDATE, reason=SUMMARY),
            actor=product("import"),
        )

    def _agree(
        self, connection: Connection, model: RegisteredModel, version: RegisteredVersion
    ) -> str:
        tier = model.facts.risk_tier
        if not self.evidence.policies.tier(tier.value).local:
            standing = self.evidence.standing(connection, model, version)
            return f"tier {tier} takes people: {'; '.join(standing.missing)}"
        standing = self.waivers.agree_locally(connection, model, version)
        return "; ".join(standing.missing)
