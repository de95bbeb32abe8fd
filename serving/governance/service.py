"""Governance as its users see it: one object that holds the parts, wired once per control process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.audit.log import AuditLog
from serving.core.clock import Clock
from serving.governance.decisions import Decisions
from serving.governance.evidencebook import EvidenceBook
from serving.governance.guard import EvidenceGuard
from serving.governance.journal import Journal
from serving.governance.notifications import Notifications
from serving.governance.policies import read_policies
from serving.governance.refusals import Refusals
from serving.governance.requests import Requests
from serving.governance.statements import Statements
from serving.governance.verdictbook import LiveComparisons, NothingCompared, VerdictBook
from serving.governance.waivers import Waivers
from serving.governance.webhooks import Webhooks
from serving.governance_settings import GovernanceSettings, WebhookSettings
from serving.registry.journal import Guard
from serving.registry.service import Registry
from serving.trust.signatures import SigningKey, TrustedKeys


@dataclass(frozen=True, slots=True)
class Keys:
    """What governance signs with and believes. trusted: the keys as they are now. webhooks: the secret
    that those of webhooks are derived from."""

    signing: SigningKey
    trusted: Callable[[], TrustedKeys]
    webhooks: bytes


def itself(guard: EvidenceGuard) -> Guard:
    """A registry that asks the guard and nobody else."""
    return guard


class Governance:
    """The parts; each method of each works in the caller's transaction."""

    def __init__(
        self,
        settings: GovernanceSettings,
        webhooks: WebhookSettings,
        *,
        keys: Keys,
        refusals: Path,
        audit: AuditLog,
        clock: Clock,
        guarding: Callable[[EvidenceGuard], Guard] = itself,
        live: LiveComparisons | None = None,
    ) -> None:
        """refusals: file of what takes consent back. guarding: what the registry asks instead of the guard alone. live: the live comparisons.

        Raises SettingInvalid when the file of policies is none.
        """
        policies = read_policies(settings.policies)
        journal = self.journal = Journal(audit, Notifications(clock), clock)
        guard = self.guard = EvidenceGuard(
            policies, trusted=keys.trusted, refusals=Refusals(refusals), clock=clock
        )
        registry = self.registry = Registry(audit, guarding(guard), clock)
        ttl_ns = round(settings.request_ttl_s * 1e9)
        requests = self.requests = Requests(registry, guard, journal, ttl_ns=ttl_ns)
        statements = Statements(registry, guard, requests, journal=journal, key=keys.signing)
        self.decisions = Decisions(guard, requests, statements, journal=journal)
        self.waivers = Waivers(
            guard, requests, statements, decisions=self.decisions, journal=journal
        )
        self.evidence = EvidenceBook(guard, requests, journal, key=keys.signing)
        self.verdicts = VerdictBook(
            guard, requests, journal, key=keys.signing, live=live or NothingCompared()
        )
        self.webhooks = Webhooks(webhooks, journal, secret=keys.webhooks)
