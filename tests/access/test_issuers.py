"""Several issuers: each with its own keys, rules and words for the same things."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serving.access.issuers import Issuers
from serving.core.clock import ManualClock
from serving.core.principals import Principal, Role
from serving.errors import SettingInvalid, StartFailed
from serving.settings import AccessSettings
from tests.access.conftest import REMOVED
from tests.access.signers import (
    AUDIENCE,
    ISSUER,
    NOW_S,
    Signer,
    accepted,
    good_claims,
    issuer_settings,
    key_set,
    trusting,
)

SIGNER = Signer("ES256")
OTHER = "https://other.example.com"


def principal_of(claims: dict[str, Any], /, **settings: Any) -> Principal | None:
    """What a token with these claims makes of its bearer, with these settings of the issuer."""
    return accepted(trusting(SIGNER, **settings), SIGNER.token(claims))


def test_a_token_says_who_calls() -> None:
    """Subject, roles, issuer, token id and time of issue come from the token."""
    principal = principal_of({})

    assert principal == Principal("alice", frozenset({Role.CALLER}), issuer=ISSUER)
    assert principal is not None
    assert (principal.token_id, principal.issued_s) == ("1", NOW_S)


# -- one issuer is not another ---------------------------------------------------------------------


def test_jw_08_a_key_is_looked_up_per_issuer() -> None:
    """Two issuers call different keys by one name: each verifies its own, neither the other's."""
    theirs = Signer("ES256", number=1, claims={"iss": OTHER})
    issuers = [trusting(SIGNER), trusting(theirs, name=OTHER)]

    assert [accepted(issuers, each.token()) is not None for each in (SIGNER, theirs)] == [True] * 2
    assert accepted(issuers, SIGNER.token({"iss": OTHER})) is None
    assert accepted(issuers, theirs.token({"iss": ISSUER})) is None


def test_jw_19_issuers_with_one_key_keep_their_own_rules() -> None:
    """With the same key, what a token may do is what its own issuer's settings say."""
    issuers = [trusting(SIGNER), trusting(SIGNER, name=OTHER, audiences=["theirs"], tenant="them")]

    ours, theirs = SIGNER.token(), SIGNER.token({"iss": OTHER, "aud": "theirs"})
    assert accepted(issuers, ours) == Principal("alice", frozenset({Role.CALLER}), issuer=ISSUER)
    assert accepted(issuers, theirs) == Principal(
        "alice", frozenset({Role.CALLER}), tenant="them", issuer=OTHER
    )
    assert accepted(issuers, SIGNER.token({"iss": OTHER})) is None
    assert accepted(issuers, SIGNER.token({"aud": "theirs"})) is None


def test_jw_19_a_token_of_another_tenant_is_its_own() -> None:
    """The tenant is what the token says, never what a caller could choose, and never missing."""
    settings: dict[str, Any] = {"claims": {"tenant": "org.id"}}

    principal = principal_of({"org": {"id": "acme"}}, **settings)
    assert principal is not None
    assert principal.tenant == "acme"
    others: list[Any] = [{}, *({"id": each} for each in (None, "", 1, "a\n")), "acme", []]
    for said in (REMOVED, None, *others):
        assert principal_of({"org": said}, **settings) is None


def test_subjects_of_two_issuers_can_be_kept_apart() -> None:
    """`subject_prefix` is part of the subject, and of its bound."""
    principal = principal_of({}, claims={"subject_prefix": "partner:"})
    assert principal is not None
    assert principal.subject == "partner:alice"
    assert principal_of({"sub": "a" * 250}, claims={"subject_prefix": "partner:"}) is None


# -- what a token must say -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [REMOVED, None, 1, [ISSUER], ISSUER[:-1], ISSUER + "/", {}])
def test_jw_11_the_issuer_is_exact(value: object) -> None:
    """Missing, null, a list, shorter or longer: an issuer nobody knows."""
    assert principal_of({"iss": value}) is None


@pytest.mark.parametrize(
    ("audience", "strict", "lists"),
    [
        ("serving", True, True),
        ("also", True, True),
        (["serving"], False, True),
        (["elsewhere", "also"], False, True),
        (["elsewhere"], False, False),
        ([], False, False),
        (["serving", 1], False, False),
        ([["serving"]], False, False),
        ("serving also", False, False),
        ("servin", False, False),
        ("", False, False),
        (None, False, False),
        (REMOVED, False, False),
        ({"serving": 1}, False, False),
    ],
    ids=repr,
)
def test_jw_11_lists_of_audiences_are_a_choice(audience: Any, *, strict: bool, lists: bool) -> None:
    """One audience of ours, as one text; in a list too where the issuer's settings say so."""
    named = {"audiences": [AUDIENCE, "also"]}

    assert strict == (principal_of({"aud": audience}, **named) is not None)
    assert lists == (principal_of({"aud": audience}, **named, audience_lists=True) is not None)


def test_jw_12_each_issuer_has_its_longest_lifetime() -> None:
    """`max_token_lifetime_s` of one issuer: at it accepted, one second more refused."""
    for lifetime_s, good in ((300, True), (301, False)):
        principal = principal_of({"exp": NOW_S + lifetime_s}, max_token_lifetime_s=300)
        assert good == (principal is not None)


@pytest.mark.parametrize(("leeway_s", "ahead_s"), [(0, 0), (5, 5), (60, 60)])
def test_jw_13_each_issuer_has_its_leeway(leeway_s: int, ahead_s: int) -> None:
    """Of the beginning and of the end; a second more is refused."""
    for late, good in ((0, True), (1, False)):
        begins = {"nbf": NOW_S + ahead_s + late}
        assert good == (principal_of(begins, leeway_s=leeway_s) is not None)
        ended = {"iat": NOW_S - 600, "exp": NOW_S - ahead_s + 1 - late}
        assert good == (principal_of(ended, leeway_s=leeway_s) is not None)


@pytest.mark.parametrize("payload", ["[]", '"alice"', "1", "null", "{", "NaN", '{"sub": NaN}', " "])
def test_jw_15_a_payload_that_is_no_object_is_refused(payload: str) -> None:
    """Nothing else is a set of claims."""
    assert accepted(trusting(SIGNER), SIGNER.token(payload)) is None


def test_jw_14_a_claim_twice_is_refused() -> None:
    """At the top and inside, before or after the good one."""
    good = json.dumps(good_claims())[1:]
    issuer = trusting(SIGNER)

    assert accepted(issuer, SIGNER.token("{" + good)) is not None
    for twice in ('"sub": "root"', '"exp": 1', '"x": {"y": 1, "y": 2}'):
        again = twice if "x" in twice[:3] else f"{twice}, {twice}"
        assert accepted(issuer, SIGNER.token("{" + again + ", " + good)) is None


@pytest.mark.parametrize("missing", [REMOVED, None])
def test_required_claims_are_there(missing: object) -> None:
    """A claim that the settings require is there and not null, whatever it says."""
    named = {"required_claims": ["azp"]}

    assert principal_of({"azp": 0}, **named) is not None
    assert principal_of({"azp": missing}, **named) is None


@pytest.mark.parametrize(
    ("types", "kind", "good"),
    [
        (["at+jwt"], "at+jwt", True),
        *((["at+jwt"], other, False) for other in ("JWT", REMOVED, "", 1, "AT+JWT")),
        (["at+jwt"], None, False),
        (["at+jwt"], [], False),
        (["at+jwt", "JWT"], "JWT", True),
        (["JWT"], "at+jwt", False),
        (["JWT", ""], REMOVED, True),
        (["JWT", ""], None, False),
    ],
    ids=repr,
)
def test_jw_17_each_issuer_has_its_types(types: list[str], kind: Any, *, good: bool) -> None:
    """The `typ` header is one of the settings' words; an absent one is a word too."""
    token = SIGNER.token(typ=kind)

    assert good == (accepted(trusting(SIGNER, types=types), token) is not None)


def test_jw_17_an_id_token_is_no_access_token() -> None:
    """It is for the client that asked for it, which is not us."""
    assert principal_of({"aud": "the-portal", "nonce": "n"}, types=["JWT"]) is None


# -- what it means ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("roles", {"roles": ["caller"]}),
        ("realm_access.roles", {"realm_access": {"roles": ["caller"]}}),
        ("a.b.c", {"a": {"b": {"c": ["caller"]}}}),
        (["https://example.com/roles"], {"https://example.com/roles": ["caller"]}),
        (["a", "b.c"], {"a": {"b.c": ["caller"]}}),
    ],
)
def test_roles_are_where_the_settings_say(path: Any, claims: dict[str, Any]) -> None:
    """A claim, one inside another, or one whose name has dots; and nowhere else."""
    claims = {"roles": ["operator"]} | claims
    principal = principal_of(claims, claims={"roles": path})

    assert principal is not None
    assert principal.roles == {Role.CALLER}


@pytest.mark.parametrize(
    ("said", "granted"),
    [
        ("ml.use ml.run", {Role.CALLER, Role.OPERATOR}),
        ("openid  ml.use ", {Role.CALLER}),
        ("caller operator admin", set()),
        ("ML.USE", set()),
        ("", set()),
        (REMOVED, set()),
        (None, set()),
        ("ml.use\tml.run", set()),
        ("x " * 2000, set()),
    ],
    ids=lambda said: repr(sorted(said) if isinstance(said, set) else said)[:30],
)
def test_jw_20_an_issuer_has_its_own_words_for_roles(said: Any, granted: set[Role]) -> None:
    """Only names in `role_names` count, to the letter; ours mean nothing from this issuer."""
    names = {"ml.use": "caller", "ml.run": "operator"}
    claims = {"roles": "scope", "roles_form": "words", "role_names": names}
    principal = principal_of({"scope": said, "roles": ["operator"]}, claims=claims)

    assert principal is not None
    assert principal.roles == granted


@pytest.mark.parametrize(
    ("form", "said"),
    [
        *(("list", said) for said in ("operator", {"operator": 1}, ["caller", 1], 1, True)),
        *(("words", said) for said in (["operator"], {"operator": 1}, 1, True)),
    ],
)
def test_jw_20_malformed_roles_are_refused(form: str, said: Any) -> None:
    """What is not in the form that the settings say is not read as if it were."""
    assert principal_of({"roles": said}, claims={"roles_form": form}) is None


def test_jw_20_ten_thousand_roles_change_nothing() -> None:
    """A token that long is refused unread; as many as fit are ignored."""
    assert principal_of({"roles": ["operator"] * 10_000}) is None
    many = principal_of({"roles": ["x"] * 1000 + ["caller"]})
    assert many is not None
    assert many.roles == {Role.CALLER}


def test_jw_20_what_is_inside_a_text_is_nowhere() -> None:
    """A path through something that is no object refuses the token."""
    for said in ("roles", ["roles"], 1, True):
        assert principal_of({"realm": said}, claims={"roles": "realm.roles"}) is None


def test_an_issuer_may_say_nothing_about_roles() -> None:
    """Then no token of it has one, whatever it says."""
    principal = principal_of({"roles": ["admin"]}, claims={"roles": None})
    assert principal is not None
    assert principal.roles == set()


@pytest.mark.parametrize(
    ("form", "said", "models"),
    [
        ("list", ["a", "b"], {"a", "b"}),
        ("list", [], set()),
        ("words", "a b", {"a", "b"}),
        ("words", "", set()),
    ],
)
def test_models_limit_a_token(form: str, said: Any, models: set[str]) -> None:
    """Once the settings name a claim for models, it limits what the token is good for."""
    principal = principal_of({"m": said}, claims={"models": "m", "models_form": form})
    assert principal is not None
    assert principal.models == frozenset(models)


@pytest.mark.parametrize("said", [REMOVED, None, "a", [1], {}, 0])
def test_models_that_are_not_said_refuse_the_token(said: Any) -> None:
    """A limit that is expected and absent, or malformed, is not the absence of a limit."""
    assert principal_of({"m": said}, claims={"models": "m"}) is None


@pytest.mark.parametrize("said", [REMOVED, None, "", 1, [], "a\x00", "a" * 256, {"id": "a"}])
def test_jw_16_a_subject_may_be_elsewhere(said: Any) -> None:
    """Another claim can be the subject; the rules for it are the same."""
    settings = {"claims": {"subject": "client_id"}}
    principal = principal_of({"client_id": "batch-job"}, **settings)

    assert principal is not None
    assert principal.subject == "batch-job"
    assert principal_of({"client_id": said}, **settings) is None


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *("file:///etc/passwd", "ftp://example.com/k", "data:application/json,{}", "gopher://a/"),
        *("http://example.com/k", "http://10.0.0.1/k", "http://[::ffff:8.8.8.8]/k", "//a/k", "k"),
        *("https://169.254.169.254/latest", "https://[fe80::1]/k", "https://0.0.0.0/k", "https://"),
        *(
            "http://169.254.169.254/latest",
            "https://[::ffff:169.254.169.254]/",
            "https://224.0.0.1/",
        ),
        *("https://user:secret@example.com/k", "https://user@example.com/k", "https://a/k#x"),
        *("https://example.com:0/k", "https://example.com:99999/k", "https://[::1/k", ""),
        *("http://localhost.example.com/k", "http://127.0.0.1.example.com/k"),
    ],
)
def test_jw_23_an_address_that_must_not_be_asked_stops_the_start(address: str) -> None:
    """Only https, or http on loopback; no link-local address, no credentials in it."""
    with pytest.raises(ValidationError):
        issuer_settings(jwks_url=address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "https://login.example.com/keys?tenant=a",
            "https://10.0.0.1:8443/k",
            "https://[2001:db8::1]/",
        ),
        *("http://127.0.0.1:1/k", "http://127.8.8.8/k", "http://[::1]:80/k", "http://localhost/k"),
    ],
)
def test_jw_23_other_addresses_are_permitted(address: str) -> None:
    """https anywhere else, and plain http to this machine."""
    assert issuer_settings(jwks_url=address).jwks_url == address


@pytest.mark.parametrize(
    "changes",
    [
        {"keys_file": "a", "jwks_url": "https://a.example.com"},
        {"keys_file": None},
        {"secret_file": "a", "keys_file": None},
        {"secret_file": "a", "algorithms": ["HS256", "HS512"]},
        {"secret_file": "a", "algorithms": ["HS256", "ES256"]},
        {"keys_file": "a", "algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"algorithms": ["ES512"]},
        {"algorithms": []},
        {"audiences": []},
        {"audiences": [""]},
        {"audiences": "serving"},
        {"types": []},
        {"name": ""},
        {"ca_file": "a"},
        {"tenant": "a", "claims": {"tenant": "org"}},
        {"claims": {"roles": ""}},
        {"claims": {"roles": []}},
        {"claims": {"roles_form": "csv"}},
        {"claims": {"role": "roles"}},
        {"refresh_s": 1.0},
        {"stale_s": 30.0},
        {"leeway_s": 301},
        {"max_token_lifetime_s": 86_401},
    ],
    ids=repr,
)
def test_settings_that_cannot_be_meant_stop_the_start(changes: dict[str, Any]) -> None:
    """Two sources or none, secrets among public keys, empty lists, unknown words, odd times."""
    with pytest.raises(ValidationError):
        issuer_settings(**changes)


def test_names_of_issuers_differ() -> None:
    """Of each other, and of the local issuer where that is one of them."""
    one, local = issuer_settings(), issuer_settings(name="serving-local")

    for issuers, extra in (((one, one), None), ((one, local), True)):
        with pytest.raises(ValidationError, match="different names"):
            AccessSettings(issuers=issuers, local_issuer=extra)
    assert AccessSettings(issuers=(one, local)).issuers


def test_a_role_that_does_not_exist_stops_the_start(tmp_path: Path) -> None:
    """The message names it, and those that do."""
    (tmp_path / "keys.json").write_bytes(key_set(SIGNER))
    issuer = issuer_settings(
        keys_file=tmp_path / "keys.json", claims={"role_names": {"a": "superuser"}}
    )
    with pytest.raises(SettingInvalid, match="'superuser' is no role; permitted: caller"):
        Issuers.open(tmp_path, AccessSettings(issuers=(issuer,)), ManualClock())


def test_a_key_file_that_is_absent_stops_the_start(tmp_path: Path) -> None:
    """The message names issuer and file."""
    settings = AccessSettings(issuers=(issuer_settings(keys_file=tmp_path / "none"),))

    with pytest.raises(StartFailed, match=rf"{ISSUER}: .*none cannot be used: No such file"):
        Issuers.open(tmp_path, settings, ManualClock())


@pytest.mark.parametrize(
    ("named", "wanted", "believed"),
    [(False, None, True), (False, False, False), (True, None, False), (True, True, True)],
)
def test_the_local_issuer_gives_way(
    tmp_path: Path, *, named: bool, wanted: bool | None, believed: bool
) -> None:
    """It is believed when there is no other issuer, or when the settings ask for it."""
    (tmp_path / "keys.json").write_bytes(key_set(SIGNER))
    issuers = (issuer_settings(keys_file=tmp_path / "keys.json"),) if named else ()
    settings = AccessSettings(issuers=issuers, local_issuer=wanted)

    opened = Issuers.open(tmp_path / "keys", settings, ManualClock())
    names = [each.profile.issuer for each in opened.trusted]
    assert names == [ISSUER] * named + ["serving-local"] * believed
