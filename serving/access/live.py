"""The access state in force in one process: keys it knows, rules it judges by, refusals it counts.

Every verified principal is adopted once: it carries a reference to this object, which always judges
by the newest rules. What a principal was found to be permitted is remembered in the principal and
forgotten everywhere when new rules come, so that the request path pays for a look in a set and a
change counts from the next request on.

A key's principal is worth remembering for a minute at most: so its last use is known to the minute
without any work per request.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from weakref import WeakValueDictionary

from serving.access.apikeys import PREFIX, KnownKeys
from serving.access.claims import CredentialRefused, Refusal
from serving.access.denials import Denials
from serving.access.policy import Policy
from serving.access.state import AccessState, ApiKey
from serving.access.tokens import Authenticator
from serving.core.clock import Clock
from serving.core.principals import Action, Decision, Ground, Principal

ISSUER: Final = "api-key"
"""Who vouches for a key's principal."""

REMEMBERED_S: Final = 60.0


class LiveAccess:
    """Keys, rules and refusals of one process. Not for use from several threads."""

    def __init__(self, *, pepper: bytes, tenants: Mapping[str, str], clock: Clock) -> None:
        """tenants: model to the tenant that owns it."""
        self.denials = Denials(clock)
        self.state = AccessState()
        self._pepper = pepper
        self._tenants = dict(tenants)
        self._policy = Policy(tenants=tenants)
        self._ring = KnownKeys({}, pepper)
        self._used_s: dict[str, int] = {}
        self._adopted: WeakValueDictionary[int, Principal] = WeakValueDictionary()

    @property
    def epoch(self) -> int:
        return self.state.epoch

    def apply(self, state: AccessState, authenticator: Authenticator) -> None:
        """Judges by `state` from the next question on; `authenticator` forgets what it ended."""
        changed = _changed_keys(self.state, state)
        self.state = state
        self._policy = Policy(state, tenants=self._tenants)
        self._ring = KnownKeys({key.key: key for key in state.keys}, self._pepper)
        for principal in list(self._adopted.values()):
            principal.permitted.clear()
        authenticator.set_revocations(state.revoked())
        authenticator.forget(lambda p: p.issuer == ISSUER and p.token_id in changed)

    def set_tenants(self, tenants: Mapping[str, str]) -> None:
        """Judges by these owners of models from the next question on."""
        if tenants == self._tenants:
            return
        self._tenants = dict(tenants)
        self._policy = Policy(self.state, tenants=self._tenants)
        for principal in list(self._adopted.values()):
            principal.permitted.clear()

    # -- for the authenticator ------------------------------------------------------------------

    def recognises(self, credential: bytes) -> bool:
        """Whether it looks like an API key at all."""
        return credential.startswith(PREFIX)

    def verify(self, credential: bytes, now_s: float) -> tuple[Principal, float]:
        """The principal of an API key, and until when it may be remembered.

        now_s: wall time. Raises CredentialRefused.
        """
        key = self._ring.find(credential)
        if key is None or not now_s < key.ends_s:
            raise CredentialRefused(Refusal.API_KEY)
        self._used_s[key.key] = int(now_s)
        return principal_of(key), min(now_s + REMEMBERED_S, key.ends_s)

    def adopt(self, principal: Principal) -> Principal:
        """The same principal, judged by the rules in force here."""
        adopted = replace(principal, authority=self, permitted=set())
        self._adopted[id(adopted)] = adopted
        return adopted

    def take_uses(self) -> dict[str, int]:
        """Keys that were verified since the last call, and when; wall time in seconds."""
        used, self._used_s = self._used_s, {}
        return used

    # -- the authority behind every adopted principal ------------------------------------------------

    def decide(
        self,
        principal: Principal,
        action: Action,
        model: str | None,
        *,
        tenant: str | None = None,
    ) -> Decision:
        return self._policy.decide(principal, action, model, tenant=tenant)

    def judge(self, principal: Principal, action: Action, model: str | None) -> Decision:
        decision = self._policy.decide(principal, action, model)
        if not decision.allowed:
            self.denials.refuse_action(
                principal, action, model, why=decision, epoch=self.state.epoch
            )
        return decision

    def reveals(self, principal: Principal, action: Action, model: str) -> bool:
        return self._policy.reveals(principal, action, model)

    def refusals(self) -> Mapping[Ground, int]:
        return self.denials.counts()


def principal_of(key: ApiKey) -> Principal:
    """Whom a key stands for."""
    return Principal(
        subject=key.subject,
        roles=frozenset(key.roles),
        models=None if key.models is None else frozenset(key.models),
        tenant=key.tenant,
        issuer=ISSUER,
        token_id=key.key,
        issued_s=key.made_s,
        owner=key.owner,
    )


def _changed_keys(before: AccessState, after: AccessState) -> frozenset[str]:
    known: dict[str, ApiKey] = {key.key: key for key in before.keys}
    now = {key.key: key for key in after.keys}
    return frozenset(name for name, key in known.items() if now.get(name) != key)
