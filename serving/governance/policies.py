"""Policies: what each tier of risk demands, read from a data file and never decided in code.

A tier says, for approval and for retirement, how many people agree, of which roles, for how long
their word holds, and which evidence must be there and good. `local` tiers are agreed to by the
installation itself (approver `local-policy`): for demos on one machine, and said plainly there.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from serving.artifacts.manifest import Requirement
from serving.artifacts.statements import SERVE
from serving.core.principals import Role
from serving.errors import SettingInvalid
from serving.governance.counting import RETIRE, Rule
from serving.setting_types import Group

DAY_NS: Final = 86_400 * 1_000_000_000
HOUR_NS: Final = 3_600 * 1_000_000_000


class EvidenceKind(StrEnum):
    """What can be shown for a version. MODEL_CARD is judged from the registry's facts, the others
    are recorded, signed, and bound to the digest."""

    VALIDATION = "validation"
    MODEL_CARD = "model_card"
    BIAS = "bias"
    VERDICT = "verdict"
    SECURITY = "security"


class Consent(Group):
    """Whose agreement one act takes."""

    approvals: Annotated[int, Field(ge=0, le=20)] = 1
    """How many different people."""
    roles: tuple[Role, ...] = (Role.APPROVER,)
    """Each of them has one of these."""
    expires_days: Annotated[int, Field(ge=1, le=3660)] = 365
    """How long their word holds."""
    evidence: tuple[EvidenceKind, ...] = ()
    """What must be there, and good."""


class TierPolicy(Group):
    """What one tier of risk demands."""

    local: bool = False
    """The installation agrees by itself, as `local-policy`."""
    approve: Consent = Consent()
    """To serve at all."""
    promote: tuple[EvidenceKind, ...] = ()
    """Evidence that takes besides, before it answers callers."""
    verdict_days: Annotated[int, Field(ge=1, le=3660)] = 30
    """How long a verdict of a comparison counts."""
    retire: Consent = Consent(approvals=0)
    """To end for good."""


class OverridePolicy(Group):
    """Emergencies: who may let a version serve whose approvals are missing."""

    roles: tuple[Role, ...] = (Role.OPERATOR,)
    """Empty: nobody."""
    hours: Annotated[int, Field(ge=1, le=168)] = 24
    """After that the approvals have to be there."""


class Policies(Group):
    """All of them. delegates: whose word counts as whose, so neither approves the other's."""

    tiers: dict[str, TierPolicy]
    delegates: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    override: OverridePolicy = OverridePolicy()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        absent = sorted({"demo", "minimal", "limited", "high"} - set(self.tiers))
        if absent:
            raise ValueError(f"tiers must say what {', '.join(absent)} demand")
        return self

    def tier(self, name: str) -> TierPolicy:
        """The policy of a tier; one that is not known is the strictest there is."""
        return self.tiers.get(name) or self.tiers["high"]

    def excluded(self, identities: frozenset[str]) -> frozenset[str]:
        """Who may not approve what these people made: they, and delegates either way."""
        found = set(identities)
        for person, delegates in self.delegates.items():
            if person in identities:
                found.update(delegates)
            if identities & set(delegates):
                found.add(person)
        return frozenset(found)

    def consent(self, tier: str, kind: str) -> Consent:
        """What serving or retiring takes."""
        policy = self.tier(tier)
        return policy.retire if kind == RETIRE else policy.approve

    def rule(self, tier: str, author: frozenset[str], *, kind: str = SERVE) -> Rule:
        """What a version of these authors needs, to serve or to retire."""
        consent = self.consent(tier, kind)
        return Rule(
            kind=kind,
            approvals=consent.approvals,
            roles=tuple(consent.roles),
            excluded=self.excluded(author),
            override_roles=tuple(self.override.roles) if kind == SERVE else (),
        )

    def requirement(self, tier: str) -> Requirement:
        """What goes into the signed manifest of a version."""
        consent = self.tier(tier).approve
        return Requirement(tier=tier, approvals=consent.approvals, roles=tuple(consent.roles))


_RECORDED: Final = (EvidenceKind.VALIDATION,)

BUILT_IN: Final = Policies(
    tiers={
        "demo": TierPolicy(local=True, approve=Consent(evidence=_RECORDED)),
        "minimal": TierPolicy(approve=Consent(evidence=_RECORDED)),
        "limited": TierPolicy(
            approve=Consent(evidence=(EvidenceKind.VALIDATION, EvidenceKind.MODEL_CARD))
        ),
        "high": TierPolicy(
            approve=Consent(
                approvals=2,
                expires_days=180,
                evidence=(
                    EvidenceKind.VALIDATION,
                    EvidenceKind.MODEL_CARD,
                    EvidenceKind.BIAS,
                    EvidenceKind.SECURITY,
                ),
            ),
            promote=(EvidenceKind.VERDICT,),
            retire=Consent(approvals=1),
        ),
    }
)
"""What counts without a file; configs/governance.yaml says the same."""


def read_policies(file: Path | None) -> Policies:
    """From the file, or those built in. Raises SettingInvalid."""
    if file is None:
        return BUILT_IN
    try:
        content: Mapping[str, Any] = yaml.safe_load(file.read_text())
        return Policies.model_validate(content)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"governance.policies = {file} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"])
        raise SettingInvalid(f"governance.policies: {where}: {first['msg']}") from error
