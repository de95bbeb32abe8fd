"""Revoked credentials are refused from the next request on, remembered or not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.access.claims import CredentialRefused, Refusal
from serving.access.revocation import Revocations
from serving.access.tokens import Authenticator
from serving.core.principals import Principal, Role
from serving.errors import Unauthenticated
from serving.settings import AccessSettings
from tests.access.signers import NOW_S, Signer, trusting

SIGNER = Signer("ES256")
KEY_ID = "k1"


def status_of(authenticator: Authenticator, credential: bytes) -> int:
    try:
        authenticator.authenticate(credential, NOW_S + 100)
    except Unauthenticated:
        return 401
    return 200


@pytest.fixture
def authenticator() -> Authenticator:
    return Authenticator([trusting(SIGNER)], AccessSettings())


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize(
    ("revocations", "expected"),
    [
        (Revocations(), [200, 200, 200]),
        (Revocations(token_ids=frozenset({"a1"})), [401, 200, 200]),
        (Revocations(subjects=frozenset({"alice"})), [401, 401, 200]),
        (Revocations(issued_before_s={"alice": NOW_S}), [401, 200, 200]),
        (Revocations(issued_before_s={"alice": NOW_S + 50}), [401, 401, 200]),
        (Revocations(all_issued_before_s=NOW_S), [401, 200, 401]),
        (Revocations(all_issued_before_s=NOW_S - 1), [200, 200, 200]),
    ],
    ids=str,
)
def test_jw_21_revoked_tokens_are_refused(
    authenticator: Authenticator,
    revocations: Revocations,
    expected: list[int],
    *,
    seen: bool,
) -> None:
    """By token, by subject, by time of issue; at once, although they were just accepted."""
    tokens = [
        SIGNER.token({"sub": "alice", "jti": "a1", "iat": NOW_S}),
        SIGNER.token({"sub": "alice", "jti": "a2", "iat": NOW_S + 50}),
        SIGNER.token({"sub": "bob", "jti": "b1", "iat": NOW_S}),
    ]
    if seen:
        assert [status_of(authenticator, each) for each in tokens] == [200, 200, 200]

    authenticator.set_revocations(revocations)

    assert [status_of(authenticator, each) for each in tokens] == expected
    assert authenticator.statistics().entries == expected.count(200)
    assert authenticator.refusals().get(Refusal.REVOKED, 0) == expected.count(401)


def test_a_list_replaces_the_one_before(authenticator: Authenticator) -> None:
    """What is on it no longer is accepted again."""
    token = SIGNER.token()
    authenticator.set_revocations(Revocations(subjects=frozenset({"alice"})))
    assert status_of(authenticator, token) == 401
    authenticator.set_revocations(Revocations())
    assert status_of(authenticator, token) == 200


names = st.sampled_from(["", "a", "b"])
times = st.integers(0, 5)


@given(
    st.builds(
        Revocations,
        st.frozensets(names),
        st.frozensets(names),
        st.dictionaries(names, times),
        times,
    ),
    st.builds(Principal, names, st.just(frozenset({Role.CALLER})), token_id=names, issued_s=times),
)
def test_what_a_list_covers(revocations: Revocations, principal: Principal) -> None:
    """Exactly the subjects, the tokens that have an id, and what was issued until a time set."""
    expected = principal.subject in revocations.subjects
    expected |= principal.token_id in revocations.token_ids - {""}
    own_s = revocations.issued_before_s.get(principal.subject, 0)
    for until_s in (own_s, revocations.all_issued_before_s):
        expected |= until_s != 0 and principal.issued_s <= until_s

    assert revocations.cover(principal) == expected


class Keys:
    """API keys that begin with `k-`; one is good."""

    def recognises(self, credential: bytes) -> bool:
        return credential.startswith(b"k-")

    def verify(self, credential: bytes, now_s: float) -> tuple[Principal, float]:
        if credential != b"k-good":
            raise CredentialRefused(Refusal.API_KEY)
        return Principal("robot", frozenset(), issuer="api-key", token_id=KEY_ID), now_s + 60


def test_api_keys_are_remembered_and_revoked_like_tokens() -> None:
    """Either scheme brings one; nothing else about them is a token's."""
    told: list[Refusal] = []
    authenticator = Authenticator(
        [trusting(SIGNER)], AccessSettings(), api_keys=Keys(), refused=told.append
    )
    good = [b"Bearer k-good", b"ApiKey k-good", b"apikey k-good"]

    assert [status_of(authenticator, each) for each in good * 2] == [200] * 6
    assert authenticator.statistics().hits == 3
    for bad in (b"ApiKey k-bad", b"Bearer k-", b"ApiKey ", b"ApiKey " + SIGNER.token()[7:]):
        assert status_of(authenticator, bad) == 401
    assert set(told) == {Refusal.API_KEY}
    assert status_of(authenticator, SIGNER.token()) == 200

    authenticator.set_revocations(Revocations(token_ids=frozenset({KEY_ID})))
    assert [status_of(authenticator, each) for each in good] == [401] * 3


def test_a_principal_is_adopted_once(authenticator: Authenticator) -> None:
    """What `adopt` makes of it is what is remembered, until it is forgotten."""
    made: list[Principal] = []

    def adopt(principal: Principal) -> Principal:
        made.append(Principal(principal.subject, frozenset({Role.AUDITOR})))
        return made[-1]

    adopting = Authenticator([trusting(SIGNER)], AccessSettings(), adopt=adopt)
    token = SIGNER.token()
    first, second = (adopting.authenticate(token, NOW_S) for _ in range(2))
    assert first is second is made[0]
    adopting.forget(lambda principal: principal.subject == "alice")
    assert adopting.authenticate(token, NOW_S) is made[1]
