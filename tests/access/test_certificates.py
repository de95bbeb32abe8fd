"""Certificates as credentials: which rule applies, until when, and what is remembered."""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serving.access.certificates import Certified
from serving.access.claims import Refusal
from serving.access.revocation import Revocations
from serving.access.tokens import Authenticator
from serving.core.principals import Principal, Role
from serving.errors import Unauthenticated
from serving.settings import AccessSettings
from tests.access.signers import NOW_S, Signer, trusting
from tests.edge.certificates import Authority

SIGNER = Signer("RS256")
RULES = [
    {"subject": "batch-*", "roles": ["caller"], "models": ["fraud-*"], "tenant": "acme"},
    {"subject": "*-boss", "roles": ["operator", "auditor"]},
    {"subject": "batch-*", "roles": ["admin"]},
]


def authenticating(**settings: Any) -> Authenticator:
    access = AccessSettings.model_validate({"certificates": RULES, **settings})
    return Authenticator([trusting(SIGNER)], access)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shown(authority: Authority, name: str, **options: Any) -> bytes:
    certificate, _ = authority.issue("shown", common_name=name, **options)
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


def test_the_first_rule_that_fits_decides(authority: Authority) -> None:
    """Subject, roles, models and tenant; who vouches; what a revocation can name."""
    authenticator = authenticating()
    batch = authenticator.authenticate(Certified(None, shown(authority, "batch-7")), NOW_S)
    boss = authenticator.authenticate(Certified(None, shown(authority, "batch-boss")), NOW_S)
    other = authenticator.authenticate(Certified(None, shown(authority, "the-boss")), NOW_S)

    roles, models = frozenset({Role.CALLER}), frozenset({"fraud-*"})
    assert batch == Principal("batch-7", roles, models, "acme", "certificate")
    assert (boss.roles, boss.tenant) == (roles, "acme")
    assert other == Principal(
        "the-boss", frozenset({Role.OPERATOR, Role.AUDITOR}), issuer="certificate"
    )
    assert len({batch.token_id, boss.token_id, other.token_id}) == 3


@pytest.mark.parametrize("name", ["mallory", "batch", "Batch-7", "batch-\n7"])
def test_a_name_that_no_rule_has_is_nobody(name: str, authority: Authority) -> None:
    """As is one that cannot be a subject; with the words and the code of every refusal."""
    authenticator = authenticating()
    with pytest.raises(Unauthenticated, match="valid token"):
        authenticator.authenticate(Certified(None, shown(authority, name)), NOW_S)

    assert authenticator.refusals() == {Refusal.CERTIFICATE: 1}


def test_without_rules_certificates_name_nobody(authority: Authority) -> None:
    """TLS alone gives nobody a role."""
    authenticator = authenticating(certificates=[])
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(Certified(None, shown(authority, "batch-7")), NOW_S)


def test_a_certificate_ends_under_an_open_connection(authority: Authority) -> None:
    """Remembered or not, it counts until its last second."""
    end_s = NOW_S + 100
    certificate = shown(authority, "batch-7", last_day=datetime.fromtimestamp(end_s, UTC))
    authenticator = authenticating()
    authenticator.authenticate(Certified(None, certificate), NOW_S)
    authenticator.authenticate(Certified(None, certificate), end_s - 0.5)
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(Certified(None, certificate), end_s)

    assert authenticator.refusals() == {Refusal.EXPIRED: 1}


def test_a_token_decides_and_a_bad_one_is_not_made_good(authority: Authority) -> None:
    """Beside a certificate the token's subject counts; a certificate is no second chance."""
    authenticator, certificate = authenticating(), shown(authority, "batch-7")
    token = SIGNER.token()
    both = authenticator.authenticate(Certified(token, certificate), NOW_S)
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(Certified(token[:-8] + b"AAAAAAAA", certificate), NOW_S)

    assert both == authenticator.authenticate(token, NOW_S)
    assert both.subject != "batch-7"


def test_a_bound_token_needs_its_own_certificate(authority: Authority) -> None:
    """What was remembered for one connection says nothing about another."""
    authenticator = authenticating(certificate_binds_token=True)
    token = SIGNER.token()
    subject = authenticator.authenticate(token, NOW_S).subject
    own, others = shown(authority, subject), shown(authority, "batch-7")
    authenticator.authenticate(Certified(token, own), NOW_S)
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(Certified(token, others), NOW_S)

    assert authenticator.authenticate(Certified(token, own), NOW_S).subject == subject


def test_revocation_reaches_certificates(authority: Authority) -> None:
    """A certificate is a credential like any other: it can be ended by its identifier."""
    authenticator, certificate = authenticating(), shown(authority, "batch-7")
    principal = authenticator.authenticate(Certified(None, certificate), NOW_S)
    authenticator.set_revocations(Revocations(token_ids=frozenset({principal.token_id})))
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(Certified(None, certificate), NOW_S)

    assert authenticator.refusals() == {Refusal.REVOKED: 1}


def test_certificates_are_remembered_once(authority: Authority) -> None:
    """The second request of a connection costs one look-up."""
    authenticator, certificate = authenticating(), shown(authority, "batch-7")
    for _ in range(3):
        authenticator.authenticate(Certified(None, certificate), NOW_S)
    statistics = authenticator.statistics()

    assert (statistics.hits, statistics.misses, statistics.entries) == (2, 1, 1)
