"""The access state in force: what changes counts from the next question on, and costs nothing else."""

import gc
import secrets

import pytest

from serving.access.apikeys import digest_of, new_secret
from serving.access.authorization import authorize_inference
from serving.access.live import REMEMBERED_S, LiveAccess
from serving.access.state import AccessState, ApiKey, Effect, Revocation, RevocationKind, Rule
from serving.access.tokens import Authenticator
from serving.core.clock import ManualClock
from serving.core.principals import Ground, Principal, Role
from serving.errors import Forbidden, Unauthenticated
from serving.settings import AccessSettings

PEPPER = secrets.token_bytes(32)
DENIAL = Rule(rule="d", effect=Effect.DENY, subject="ci", model="m")


class Gate:
    """A process with keys only."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.access = LiveAccess(pepper=PEPPER, tenants={}, clock=clock)
        self.authenticator = Authenticator(
            (), AccessSettings(), api_keys=self.access, adopt=self.access.adopt
        )

    def apply(self, state: AccessState) -> None:
        self.access.apply(state, self.authenticator)

    def enter(self, text: str) -> Principal:
        now_s = self.clock.wall_ns() / 1e9
        return self.authenticator.authenticate(f"ApiKey {text}".encode(), now_s)

    def knows(self, text: str) -> bool:
        try:
            self.enter(text)
        except Unauthenticated:
            return False
        return True


@pytest.fixture
def gate(clock: ManualClock) -> Gate:
    return Gate(clock)


def a_key(now_s: int, **changes: object) -> tuple[ApiKey, str]:
    name, text = new_secret()
    values: dict[str, object] = {
        "key": name,
        "digest": digest_of(text.encode(), PEPPER),
        "subject": "ci",
        "roles": (Role.CALLER,),
        "owner": "ada",
        "made_s": now_s,
        "expires_s": now_s + 1000,
    }
    return ApiKey(**(values | changes)), text  # type: ignore[arg-type]  # as the struct checks


def test_key_stands_for_its_principal(gate: Gate, now_s: int) -> None:
    """Subject, roles, models, tenant and owner are the key's; `Bearer` and `X-Api-Key` do as well."""
    key, text = a_key(now_s, models=("fraud-*",), tenant="acme")
    gate.apply(AccessState(epoch=1, keys=(key,)))

    principal = gate.enter(text)

    roles = frozenset({Role.CALLER})
    expected = Principal("ci", roles, frozenset({"fraud-*"}), "acme", "api-key")
    assert (principal, principal.owner, principal.token_id) == (expected, "ada", key.key)
    authorize_inference(principal, "fraud-cards")
    with pytest.raises(Forbidden):
        authorize_inference(principal, "cards")
    assert gate.authenticator.authenticate(f"Bearer {text}".encode(), now_s) == expected


def test_az_13_expired_key(gate: Gate, now_s: int) -> None:
    """To the second, remembered or not."""
    key, text = a_key(now_s)
    gate.apply(AccessState(epoch=1, keys=(key,)))

    gate.clock.advance(999.5)
    before = gate.knows(text)
    gate.clock.advance(0.5)

    assert (before, gate.knows(text)) == (True, False)


@pytest.mark.parametrize("how", ["revoked", "removed", "owner", "subject", "issued_before"])
def test_az_13_ended_key_is_refused_at_once(gate: Gate, now_s: int, how: str) -> None:
    """Though it was remembered: revoked, gone, or whoever holds or owns it was turned away."""
    key, text = a_key(now_s)
    gate.apply(AccessState(epoch=1, keys=(key,)))
    before = gate.knows(text)
    revoked, _ = a_key(now_s, key=key.key, digest=key.digest, revoked_s=now_s)
    states = {
        "revoked": AccessState(keys=(revoked,)),
        "removed": AccessState(),
        "owner": _with(key, RevocationKind.SUBJECT, "ada"),
        "subject": _with(key, RevocationKind.SUBJECT, "ci"),
        "issued_before": _with(key, RevocationKind.ISSUED_BEFORE, "*", since_s=now_s),
    }

    gate.apply(states[how])

    assert (before, gate.knows(text)) == (True, False)
    gate.apply(AccessState(epoch=3, keys=(key,)))
    assert gate.knows(text)


def _with(key: ApiKey, kind: RevocationKind, value: str, since_s: int = 0) -> AccessState:
    revocation = Revocation(kind=kind, value=value, since_s=since_s)
    return AccessState(keys=(key,), revocations=(revocation,))


def test_az_13_rotated_key_counts_beside_the_new_one_for_the_overlap(
    gate: Gate, now_s: int
) -> None:
    """Both, then the new one only, also where the old one was remembered with its first expiry."""
    old, old_text = a_key(now_s)
    gate.apply(AccessState(epoch=1, keys=(old,)))
    gate.enter(old_text)
    new, new_text = a_key(now_s)
    ending, _ = a_key(now_s, key=old.key, digest=old.digest, expires_s=now_s + 10)
    gate.apply(AccessState(epoch=2, keys=(ending, new)))

    both = gate.knows(old_text), gate.knows(new_text)
    gate.clock.advance(10)

    assert both == (True, True)
    assert (gate.knows(old_text), gate.knows(new_text)) == (False, True)


def test_last_use_is_known_to_the_minute_without_work_per_request(gate: Gate, now_s: int) -> None:
    """A key is looked at once a minute; in between it is one of the remembered credentials."""
    key, text = a_key(now_s)
    gate.apply(AccessState(epoch=1, keys=(key,)))

    for _ in range(4):
        gate.enter(text)
        gate.clock.advance(REMEMBERED_S / 2)

    assert gate.access.take_uses() == {key.key: now_s + REMEMBERED_S}
    assert gate.access.take_uses() == {}
    assert gate.authenticator.statistics().hits == 2


def test_az_09_rule_counts_for_known_principals_from_the_next_question_on(
    gate: Gate, now_s: int
) -> None:
    """A permission that was remembered is forgotten when the rules change, and asked for again."""
    key, text = a_key(now_s)
    gate.apply(AccessState(epoch=1, keys=(key,)))
    principal = gate.enter(text)
    authorize_inference(principal, "m")

    gate.apply(AccessState(epoch=2, keys=(key,), rules=(DENIAL,)))
    with pytest.raises(Forbidden):
        authorize_inference(principal, "m")
    gate.apply(AccessState(epoch=3, keys=(key,)))

    authorize_inference(principal, "m")
    assert gate.access.refusals() == {Ground.DENIED: 1}
    assert gate.access.epoch == 3


def test_principals_nobody_holds_are_not_held_here(gate: Gate) -> None:
    """Adopting costs no memory beyond the principal's own life."""
    kept = gate.access.adopt(Principal("kept", frozenset({Role.CALLER})))
    for number in range(1000):
        gate.access.adopt(Principal(f"gone-{number}", frozenset()))
    gc.collect()

    gate.apply(AccessState(epoch=1))

    authorize_inference(kept, "m")
