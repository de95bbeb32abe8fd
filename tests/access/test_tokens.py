"""Tokens of the local issuer, and the memory of them: RELIABILITY 5.3 by case number.

What only other algorithms, issuers and key sets can meet is in the modules beside this one."""

import hashlib
import hmac
import json
import time
from base64 import b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from serving.access.claims import Refusal
from serving.access.tokens import Authenticator
from serving.access.verification import thumbprint
from serving.core.principals import Principal, Role
from serving.errors import Unauthenticated
from serving.settings import AccessSettings
from tests.access.conftest import REMOVED, Accept, Forge, base64url, trusting


def test_a_good_token_is_accepted(forge: Forge, accept: Accept) -> None:
    """The forge's unchanged token is good, so that each refusal below has one cause."""
    assert accept(forge()) == Principal("alice", frozenset({Role.CALLER}), issuer="serving-local")


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", ""])
def test_jw_01_an_unsigned_token_is_refused(forge: Forge, accept: Accept, algorithm: str) -> None:
    """No spelling of `none` works, with or without something in place of the signature."""
    assert accept(forge(header={"alg": algorithm}, sign=False)) is None
    assert accept(forge(header={"alg": algorithm})) is None
    assert accept(forge(sign=False)) is None


def test_jw_02_the_public_key_is_no_hmac_secret(
    key: Ed25519PrivateKey, claims: dict[str, Any], accept: Accept
) -> None:
    """HS256 with any text form of the public key as secret is refused."""
    public = key.public_key()
    form, raw = serialization.PublicFormat, serialization.Encoding.Raw
    pem = public.public_bytes(serialization.Encoding.PEM, form.SubjectPublicKeyInfo)
    der = public.public_bytes(serialization.Encoding.DER, form.SubjectPublicKeyInfo)
    plain = public.public_bytes(raw, form.Raw)
    jwk = json.dumps({"kty": "OKP", "crv": "Ed25519", "x": base64url(plain).decode()}).encode()
    secrets = [pem, der, plain, jwk, b64encode(pem), b64encode(der), b"\xef\xbb\xbf" + pem]
    header = {"alg": "HS256", "typ": "at+jwt", "kid": thumbprint(public)}
    signed = b".".join(base64url(json.dumps(part).encode()) for part in (header, claims))

    for secret in secrets:
        signature = hmac.new(secret, signed, hashlib.sha256).digest()
        assert accept(b"Bearer " + signed + b"." + base64url(signature)) is None


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "PS256", "HS256", "Ed25519", "eddsa", 1])
def test_jw_03_jw_04_the_algorithm_is_pinned(
    forge: Forge, accept: Accept, algorithm: object
) -> None:
    """Another algorithm in the header is refused even when the signature is the right one."""
    assert accept(forge(header={"alg": algorithm})) is None


@pytest.mark.parametrize(
    "kid",
    [REMOVED, None, {}, 7, [], "", "other", "k" * 6000, "../../dev/null", "' OR 1=1 --", "a\nb"],
    ids=repr,
)
def test_jw_07_an_unknown_key_is_refused(forge: Forge, accept: Accept, kid: object) -> None:
    """A key id that is absent, of another type or unknown is refused; nothing is looked up."""
    assert accept(forge(header={"kid": kid})) is None


def test_jw_09_keys_named_by_the_token_are_not_used(
    forge: Forge, accept: Accept, claims: dict[str, Any], key: Ed25519PrivateKey
) -> None:
    """jku, x5u, jwk and x5c change nothing: a good token stays good, a foreign one bad."""
    foreign = Ed25519PrivateKey.generate()
    raw = foreign.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url(raw).decode()}
    named = {"jku": "http://127.0.0.1:9/k", "x5u": "http://127.0.0.1:9/c", "jwk": jwk, "x5c": []}
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": thumbprint(key.public_key()), **named}
    signed = b".".join(base64url(json.dumps(part).encode()) for part in (header, claims))

    assert accept(forge(header=named)) is not None
    assert accept(b"Bearer " + signed + b"." + base64url(foreign.sign(signed))) is None


@pytest.mark.parametrize(
    "extension",
    [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": True}, {"crit": 1}],
    ids=repr,
)
def test_jw_10_critical_extensions_are_refused(
    forge: Forge, accept: Accept, extension: dict[str, object]
) -> None:
    """None is understood, so any `crit`, and any `b64`, refuses the token."""
    assert accept(forge(header=extension)) is None


@pytest.mark.parametrize("claim", ["iss", "aud"])
@pytest.mark.parametrize("form", ["missing", "null", "list", "prefix", "suffix", "case", "number"])
def test_jw_11_issuer_and_audience_are_exact(
    forge: Forge, accept: Accept, claims: dict[str, Any], *, claim: str, form: str
) -> None:
    """Only the configured text is accepted: no list, no part of it, no other case."""
    right = claims[claim]
    value = {
        "missing": REMOVED,
        "null": None,
        "list": [right],
        "prefix": right[:-1],
        "suffix": right + "x",
        "case": right.upper(),
        "number": 1,
    }[form]

    assert accept(forge({claim: value})) is None


@pytest.mark.parametrize("claim", ["exp", "iat"])
@pytest.mark.parametrize(
    "text",
    [
        *["null", '"1700000600"', "NaN", "Infinity", "1e18", "1700000600.0", "[1700000600]"],
        *["true", "-1", "1" + "0" * 30, "1" + "0" * 5000, '""', "{}"],
    ],
)
def test_jw_12_times_are_integers(
    forge: Forge, accept: Accept, claims: dict[str, Any], *, claim: str, text: str
) -> None:
    """Text, fractions, infinities, lists, booleans and absurd numbers are no times."""
    good = {name: value for name, value in claims.items() if name != claim}
    payload = json.dumps(good)[:-1] + f', "{claim}": {text}}}'

    assert accept(forge(payload)) is None


def test_jw_12_expiry_is_required_and_bounded(forge: Forge, accept: Accept, now_s: int) -> None:
    """Missing, past, before its own beginning, or too far away: refused; the maximum is accepted."""
    assert accept(forge({"exp": REMOVED})) is None
    assert accept(forge({"iat": REMOVED})) is None
    assert accept(forge({"iat": now_s - 600, "exp": now_s - 60})) is None
    assert accept(forge({"iat": now_s, "exp": now_s})) is None
    assert accept(forge({"exp": now_s + 86_401})) is None
    assert accept(forge({"exp": now_s + 86_400})) is not None
    assert accept(forge({"iat": now_s - 600, "exp": now_s - 59})) is not None


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize(
    ("ahead_s", "accepted"), [(30, True), (60, True), (61, False), (90, False)]
)
def test_jw_13_a_beginning_in_the_future_has_leeway(
    forge: Forge, accept: Accept, now_s: int, *, claim: str, ahead_s: int, accepted: bool
) -> None:
    """Clocks may differ by `access.leeway_s`, not by more."""
    principal = accept(forge({claim: now_s + ahead_s}))

    assert accepted == (principal is not None)


@pytest.mark.parametrize("claim", ["sub", "exp", "roles", "iss"])
@pytest.mark.parametrize("where", ["first", "last"])
def test_jw_14_duplicate_claims_are_refused(
    forge: Forge, accept: Accept, claims: dict[str, Any], *, claim: str, where: str
) -> None:
    """A claim that appears twice is refused, even with the same value."""
    twice = f'"{claim}": {json.dumps(claims[claim])}'
    text = json.dumps(claims)

    payload = f"{{{twice}, {text[1:]}" if where == "first" else f"{text[:-1]}, {twice}}}"
    assert accept(forge(payload)) is None


def test_jw_14_duplicate_header_members_are_refused(
    forge: Forge, accept: Accept, key: Ed25519PrivateKey
) -> None:
    """The header cannot name two algorithms or two keys."""
    kid = thumbprint(key.public_key())
    header = f'{{"alg": "none", "alg": "EdDSA", "typ": "at+jwt", "kid": "{kid}"}}'

    assert accept(forge(header=header)) is None


@pytest.mark.parametrize("payload", ["[]", '"text"', "1", "null", "not json", "{", "\ufeff{}", " "])
def test_jw_15_a_payload_that_is_no_object_is_refused(
    forge: Forge, accept: Accept, payload: str
) -> None:
    """Arrays, text, numbers, damaged JSON and a byte order mark are refused."""
    assert accept(forge(payload)) is None


@pytest.mark.parametrize(
    "subject",
    [REMOVED, None, "", 7, [], "a" * 256, "a\x00b", "a\nb", "a\x1b[31m", "\u2028"],
    ids=repr,
)
def test_jw_16_a_subject_is_short_and_printable(
    forge: Forge, accept: Accept, subject: object
) -> None:
    """Missing, empty, overlong and unprintable subjects are refused."""
    assert accept(forge({"sub": subject})) is None


@pytest.mark.parametrize("kind", [REMOVED, None, "JWT", "jwt", "id+jwt", "AT+JWT", "at+jwt ", 1])
def test_jw_17_only_access_tokens_are_accepted(forge: Forge, accept: Accept, kind: object) -> None:
    """An ID token, or one without the type of an access token, is refused."""
    assert accept(forge(header={"typ": kind})) is None


def test_jw_18_any_other_form_is_refused(forge: Forge, accept: Accept) -> None:
    """Padding, line ends, more or fewer parts, JSON form, other schemes: all refused."""
    good = forge()
    scheme, token = good.split(b" ", 1)
    header, payload, signature = token.split(b".")
    flattened = {"protected": header.decode(), "payload": payload.decode(), "signature": ""}
    forms = [
        token,
        b"Bearer a.a.a",
        good + b"=",
        good + b"==",
        good + b"\n",
        good + b" ",
        good + b".",
        good + b".e30",
        b"Bearer  " + token,
        b"Bearer\t" + token,
        b"Basic " + token,
        b"Bearer",
        b"Bearer ",
        b"",
        b"Bearer " + json.dumps(flattened).encode(),
        b"Bearer " + b".".join([header, b"", b"", payload, signature]),
        b"Bearer " + b".".join([header, payload]),
        b"Bearer " + b".".join([header, payload, b""]),
        b"Bearer " + b".".join([header, base64url(token), signature]),
        scheme + b" " + token.replace(b".", b"=."),
        good.replace(b"Bearer ", b"Bearer \xff"),
    ]

    assert [form for form in forms if accept(form) is not None] == []
    assert accept(b"bearer " + token) is not None


@given(data=st.data())
@profile(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_jw_18_one_changed_bit_refuses_the_token(
    forge: Forge, accept: Accept, data: st.DataObject
) -> None:
    """Whichever bit of a token is turned, it is refused, the last character of a part included."""
    good = forge()
    place = data.draw(st.integers(len(b"Bearer "), len(good) - 1))
    changed = bytearray(good)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))

    assert accept(bytes(changed)) is None


@pytest.mark.parametrize(
    ("roles", "granted"),
    [
        (["caller"], {Role.CALLER}),
        (["caller", "operator"], {Role.CALLER, Role.OPERATOR}),
        (["caller", "root", "Operator", "operator ", "*"], {Role.CALLER}),
        (["CALLER"], set()),
        ([], set()),
        (["x"] * 1000, set()),
    ],
    ids=lambda roles: repr(sorted(roles)),
)
def test_jw_20_unknown_roles_are_ignored(
    forge: Forge, accept: Accept, roles: list[str], granted: set[Role]
) -> None:
    """Only roles spelt exactly as ours count; a token without any is a principal without rights."""
    principal = accept(forge({"roles": roles}))

    assert principal is not None
    assert granted == principal.roles


@pytest.mark.parametrize(
    "changes",
    [{"roles": roles} for roles in (REMOVED, None, "operator", {"operator": 1}, ["caller", 1])]
    + [{"models": models} for models in ("m", {"m": 1}, [1], 0, False)],
    ids=repr,
)
def test_jw_20_malformed_roles_and_models_are_refused(
    forge: Forge, accept: Accept, changes: dict[str, object]
) -> None:
    """Roles and models are lists of text, nothing that could be read as one."""
    assert accept(forge(changes)) is None


def test_a_token_id_is_text(forge: Forge, accept: Accept) -> None:
    """A `jti` of another type refuses the token; a missing one does not."""
    assert accept(forge({"jti": 1})) is None
    assert accept(forge({"jti": REMOVED})) is not None


def test_models_limit_what_may_be_called(forge: Forge, accept: Accept) -> None:
    """A list of models permits those, an empty one none, none at all every one."""
    some, nothing, every = (accept(forge({"models": models})) for models in (["m"], [], REMOVED))

    assert some is not None
    assert some.models == frozenset({"m"})
    assert nothing is not None
    assert nothing.models == frozenset()
    assert every is not None
    assert every.models is None


def test_jw_22_an_overlong_token_is_refused_unread(
    authenticator: Authenticator, settings: AccessSettings, now_s: int
) -> None:
    """One byte over `access.max_token_bytes`, and 8 MB, are refused without being decoded."""
    long = b"Bearer " + b"a" * (settings.max_token_bytes + 1)
    for credential in (long, b"Bearer " + b"." * 8_000_000):
        with pytest.raises(Unauthenticated):
            authenticator.authenticate(credential, now_s)

    assert authenticator.refusals() == {Refusal.TOO_LONG: 2}


def test_jw_22_deep_json_is_refused(forge: Forge, accept: Accept) -> None:
    """Nesting as deep as the limit on length permits is refused, in header and payload."""
    deep = '{"a":' + "[" * 3000
    shallow = json.dumps({"alg": "EdDSA"})[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}"

    assert accept(forge(deep)) is None
    assert accept(forge(header=deep)) is None
    assert accept(forge(header=shallow)) is None


def test_jw_30_a_bad_signature_is_cheap(
    authenticator: Authenticator, forge: Forge, now_s: int
) -> None:
    """Refusing a token with a wrong signature takes less than 0.5 ms of CPU."""
    bad = forge()[:-8] + b"AAAAAAAA"

    def refuse() -> float:
        began_s = time.process_time()
        for _ in range(20):
            with pytest.raises(Unauthenticated):
                authenticator.authenticate(bad, now_s)
        return (time.process_time() - began_s) / 20

    assert min(refuse() for _ in range(5)) < 0.0005


def test_all_causes_answer_with_the_same_words(
    authenticator: Authenticator, forge: Forge, now_s: int
) -> None:
    """A caller cannot learn why a credential was refused; the counters can tell."""
    words = set()
    for credential in (
        None,
        b"Bearer x",
        forge({"exp": 5}),
        forge({"aud": "x"}),
        forge(sign=False),
    ):
        with pytest.raises(Unauthenticated) as refusal:
            authenticator.authenticate(credential, now_s)
        words.add(refusal.value.message)
        assert refusal.value.__cause__ is None

    assert len(words) == 1
    assert len(authenticator.refusals()) == 4
    assert authenticator.statistics().refused == 5


def test_a_remembered_token_expires(
    authenticator: Authenticator, forge: Forge, settings: AccessSettings, now_s: int
) -> None:
    """A hit is refused from the second of its expiry on, and leaves the memory."""
    token = forge({"exp": now_s + 100})
    end_s = now_s + 100 + settings.leeway_s
    principals = [authenticator.authenticate(token, second) for second in (now_s, end_s - 0.001)]

    with pytest.raises(Unauthenticated):
        authenticator.authenticate(token, end_s)

    assert principals[0] is principals[1]
    statistics = authenticator.statistics()
    assert (statistics.hits, statistics.misses, statistics.entries) == (1, 2, 0)
    assert authenticator.refusals() == {Refusal.EXPIRED: 1}


def test_the_memory_is_bounded_in_entries(key: Ed25519PrivateKey, forge: Forge, now_s: int) -> None:
    """With room for three, the oldest of five makes way and is verified again when it returns."""
    settings = AccessSettings(token_cache_entries=3)
    authenticator = Authenticator([trusting(key, settings)], settings)
    tokens = [forge({"jti": str(number)}) for number in range(5)]

    for token in [*tokens, tokens[-1], tokens[0]]:
        authenticator.authenticate(token, now_s)

    statistics = authenticator.statistics()
    assert (statistics.entries, statistics.hits, statistics.misses) == (3, 1, 6)


def test_the_memory_is_bounded_in_bytes(key: Ed25519PrivateKey, forge: Forge, now_s: int) -> None:
    """Ten long tokens do not take the room of ten long tokens."""
    settings = AccessSettings(token_cache_entries=10)
    authenticator = Authenticator([trusting(key, settings)], settings)

    for number in range(10):
        authenticator.authenticate(forge({"jti": str(number), "padding": "a" * 4000}), now_s)

    assert authenticator.statistics().entries == 1


def test_jw_25_refused_tokens_take_no_memory(
    authenticator: Authenticator, forge: Forge, now_s: int
) -> None:
    """A flood of tokens of random keys leaves what is remembered untouched."""
    authenticator.authenticate(forge(), now_s)
    for number in range(100):
        with pytest.raises(Unauthenticated):
            authenticator.authenticate(forge(header={"kid": f"random-{number}"}), now_s)

    authenticator.authenticate(forge(), now_s)
    statistics = authenticator.statistics()
    assert (statistics.entries, statistics.hits, statistics.refused) == (1, 1, 100)
