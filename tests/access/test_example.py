"""The example of an organisation's issuers in `configs/` does what its comments say."""

from pathlib import Path

from serving.access.issuers import Issuers, profile_of
from serving.access.jwks import read_key_set
from serving.access.keyrings import KeyRing, TrustedIssuer
from serving.core.clock import ManualClock
from serving.core.principals import Principal, Role
from serving.issuer_settings import IssuerSettings
from serving.settings import load
from tests.access.signers import Signer, accepted, key_set

ROOT = Path(__file__).resolve().parents[2]
SIGNER = Signer("RS256")


def with_keys(settings: IssuerSettings) -> TrustedIssuer:
    """The issuer as if its address had answered."""
    keys = read_key_set(key_set(SIGNER), settings.algorithms)
    return TrustedIssuer(profile_of(settings), KeyRing(settings.name, keys))


def test_tokens_become_the_principals_that_the_example_promises(tmp_path: Path) -> None:
    """Names, tenants, roles and models are found where each issuer puts them."""
    access = load(config=ROOT / "configs" / "oidc.yaml", environment={}).access
    issuers = [with_keys(each) for each in access.issuers]
    person = {
        "iss": "https://login.example.com/realms/ml",
        "aud": ["account", "serving"],
        "azp": "portal",
        "preferred_username": "ada",
        "organization": {"id": "acme"},
        "realm_access": {"roles": ["ml-users", "offline_access", "operator"]},
    }
    machine = {
        "iss": "https://tokens.example.net/",
        "aud": "https://serving.example.net",
        "client_id": "batch",
        "scope": "serving.infer openid",
        "https://example.net/models": ["census-employment"],
    }

    caller = frozenset({Role.CALLER})
    assert accepted(issuers, SIGNER.token(person, typ="JWT")) == Principal(
        "ada", caller, tenant="acme", issuer=issuers[0].profile.issuer
    )
    assert accepted(issuers, SIGNER.token(machine)) == Principal(
        "net:batch",
        caller,
        frozenset({"census-employment"}),
        tenant="example-net",
        issuer=issuers[1].profile.issuer,
    )
    assert not access.has_local_issuer
    opened = Issuers.open(tmp_path / "keys", access, ManualClock())
    assert [each.profile for each in opened.trusted] == [each.profile for each in issuers]
