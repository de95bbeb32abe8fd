"""A whole governance over a real database, and the people who use it."""

from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from serving.audit.log import AuditLog
from serving.audit.reading import Filter, find
from serving.core.actors import Actor
from serving.core.calls import Call
from serving.core.clock import ManualClock
from serving.core.principals import Role
from serving.governance.desk import GovernanceDesk
from serving.governance.entities import ApprovalRequest, RequestView, Standing
from serving.governance.policies import Policies
from serving.governance.service import Governance, Keys
from serving.governance.verdictbook import LiveComparisons
from serving.governance_settings import GovernanceSettings, WebhookSettings
from serving.registry.entities import ModelFacts, RegisteredVersion, RiskTier
from serving.registry.lifecycle import Step
from serving.registry.orders import ModelOrder, StateOrder
from serving.storage.database import Database
from serving.storage.operations import Operations
from serving.storage_settings import RegistrySettings
from serving.trust.installation import installation_key, read_trusted
from tests.registries import digest_of, person, version_of

AUTHOR = person("alice", Role.DEVELOPER, Role.APPROVER)
GRACE = person("grace", Role.APPROVER)
HEIDI = person("heidi", Role.APPROVER)
IVAN = person("ivan", Role.OPERATOR)
CARD = {
    "team": "risk",
    "purpose": "p",
    "description": "d",
    "contacts": ("a@b",),
    "data_sets": ({"name": "cards"},),
    "intended_uses": ("u",),
    "prohibited_uses": ("n",),
    "limitations": ("l",),
    "ethical_considerations": ("e",),
}
KINDS = ("validation", "bias", "security")


class Office:
    """Governance in a folder. Version 1 of model `fraud` is registered by alice."""

    def __init__(
        self,
        folder: Path,
        *,
        tier: RiskTier = RiskTier.MINIMAL,
        policies: Policies | None = None,
        webhooks: WebhookSettings | None = None,
        settings: RegistrySettings | None = None,
        live: LiveComparisons | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.keys = folder / "keys"
        self.database = Database.open(settings or RegistrySettings(), folder, clock=self.clock)
        file = None
        if policies is not None:
            file = folder / "policies.yaml"
            file.write_bytes(policies.model_dump_json().encode())
        self.secret = b"s" * 32
        self._opened = partial(
            Governance,
            GovernanceSettings(policies=file),
            webhooks or WebhookSettings(),
            keys=Keys(installation_key(self.keys), lambda: read_trusted(self.keys), self.secret),
            refusals=self.keys / "refusals.jsonl",
            audit=AuditLog(self.clock),
            clock=self.clock,
            live=live,
        )
        self.restart()
        facts = msgspec.convert({"owner": "alice", "risk_tier": tier.value, **CARD}, ModelFacts)
        with self.database.transaction() as connection:
            self.governance.registry.register_model(
                connection, ModelOrder(name="fraud", facts=facts), actor=AUTHOR
            )
        self.register("1")

    def restart(self) -> None:
        """As after a start of the control process."""
        self.governance = self._opened()
        self.desk = GovernanceDesk(
            self.governance, self.database, Operations(self.database, self.clock)
        )

    def register(self, version: str, *, actor: Actor = AUTHOR) -> None:
        definition = version_of("fraud", version)
        with self.database.transaction() as connection:
            self.governance.registry.register_version(connection, definition, actor=actor)

    def order(
        self,
        name: str,
        kind: Any,
        *,
        actor: Actor,
        body: object = None,
        key: str = "",
        **where: str,
    ) -> Any:
        """What the desk answers to an order."""
        content = b"" if body is None else msgspec.json.encode(body)
        call = Call(actor=actor, arguments=where, body=content, key=key)
        return msgspec.json.decode(self.desk.carry_out(name, call).content, type=kind)

    def record(self, *kinds: str, outcome: str = "pass", version: str = "1") -> None:
        for kind in kinds:
            self.clock.advance(1)
            body = {
                "kind": kind,
                "model": "fraud",
                "version": version,
                "digest": digest_of(version),
                "outcome": outcome,
            }
            self.order("record", dict[str, Any], actor=AUTHOR, body=body)

    def validate(self, version: str = "1") -> None:
        self.record("validation", version=version)
        with self.database.transaction() as connection:
            self.governance.registry.change_state(
                connection,
                ("fraud", version),
                order=StateOrder(step=Step.VALIDATE),
                actor=AUTHOR,
            )

    def open(
        self, *, actor: Actor = AUTHOR, kind: str = "serve", version: str = "1"
    ) -> ApprovalRequest:
        body = {"kind": kind, "model": "fraud", "version": version, "reason": "please"}
        found: ApprovalRequest = self.order("open", ApprovalRequest, actor=actor, body=body)
        return found

    def decide(
        self,
        request: ApprovalRequest,
        actor: Actor,
        *,
        decision: str = "approve",
        digest: str = "",
        key: str = "",
    ) -> ApprovalRequest:
        self.clock.advance(1)
        body = {"decision": decision, "digest": digest or request.digest, "reason": "read"}
        found: ApprovalRequest = self.order(
            "decide", ApprovalRequest, actor=actor, body=body, key=key, request=request.id
        )
        return found

    def view(self, request: ApprovalRequest, actor: Actor = GRACE) -> RequestView:
        call = Call(actor=actor, arguments={"request": request.id})
        return msgspec.json.decode(self.desk.ask("request", call).content, type=RequestView)

    def standing(self, version: str = "1") -> Standing:
        call = Call(actor=GRACE, arguments={"model": "fraud", "version": version})
        return msgspec.json.decode(self.desk.ask("standing", call).content, type=Standing)

    def version(self, version: str = "1") -> RegisteredVersion:
        return self.database.read(
            lambda c: self.governance.registry.version(c, "fraud", version, actor=GRACE)
        )

    def events(self, name: str = "governance:*") -> list[str]:
        """Names of the newest events first."""
        return [each.name for each in find(self.database, Filter(name=name))]
