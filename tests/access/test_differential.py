"""Our verdict on thousands of generated tokens against that of another library, joserfc.

Both get the same keys and the same policy. Where ours is stricter on purpose, the rule stands in
`STRICTER` with its reason, is computed here from the token alone, and must explain the difference in
full: ours accepts exactly what joserfc accepts and none of these rules refuses. Nothing is ever
accepted here that joserfc refuses.

`DIFFERENTIAL_TOKENS=100000` in the environment makes it the count of RELIABILITY, JW-31.
"""

import base64
import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest
from joserfc import jwk, jwt
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from tests.access.conftest import REMOVED, base64url
from tests.access.signers import (
    AUDIENCE,
    ISSUER,
    NOW_S,
    PUBLIC_ALGORITHMS,
    Signer,
    accepted,
    good_claims,
    key_set,
    trusting,
    without_removed,
)

TOKENS: Final = int(os.environ.get("DIFFERENTIAL_TOKENS", "4000"))
LEEWAY_S: Final = 60
LONGEST_S: Final = 86_400
SIGNERS: Final = tuple(Signer(name, f"key-{name}") for name in PUBLIC_ALGORITHMS)
STRANGERS: Final = tuple(Signer(name, f"key-{name}", number=9) for name in PUBLIC_ALGORITHMS)

TIMES: Final[list[Any]] = [
    *(
        NOW_S + step
        for step in (-90_000, -601, -61, -60, -59, 0, 30, 60, 61, 90, 600, 86_400, 86_401)
    ),
    *(REMOVED, None, "", str(NOW_S + 60), True, False, [NOW_S], {}, -1, 0, 1e18, NOW_S + 60.5),
    *(float(NOW_S + 60), math.nan, math.inf, 10**30),
]
TEXTS: Final[list[Any]] = [
    *(REMOVED, None, "", "a", "a" * 255, "a" * 256, "ä\u2028", "a\nb", "\x00", "\u202e", 1, True),
    *([], ["a"], {}, ISSUER, AUDIENCE, ISSUER + "/", AUDIENCE.upper(), [ISSUER], [AUDIENCE]),
    *([AUDIENCE, "b"], ["b", 1], "\ud800"),
]
LISTS: Final[list[Any]] = [
    *(REMOVED, None, [], ["caller"], ["caller", "x"], ["caller", 1], "caller", {}, 1),
]
CLAIMS: Final = {
    **dict.fromkeys(("exp", "iat", "nbf"), TIMES),
    **dict.fromkeys(("iss", "aud", "sub", "jti"), TEXTS),
    "roles": LISTS,
    "extra": TEXTS,
}
HEADERS: Final[dict[str, list[Any]]] = {
    "alg": [
        *PUBLIC_ALGORITHMS,
        "HS256",
        "none",
        "None",
        "",
        "rs256",
        REMOVED,
        None,
        1,
        [],
        "Ed25519",
    ],
    "kid": [*(each.key_id for each in SIGNERS), "x", "", REMOVED, None, 1, [], {}, "../../x"],
    "typ": ["at+jwt", "JWT", "AT+JWT", "application/at+jwt", "", REMOVED, None, 1, []],
    "crit": [REMOVED, [], ["exp"], ["b64"], "b64", None],
    "b64": [REMOVED, True, False],
    "jku": ["https://127.0.0.1:9/"],
    "jwk": [STRANGERS[6].jwk()],
    "cty": ["JWT"],
    "x": ["y", 1, None, {}],
}


class Specimen:
    """One generated token, with what was done to it."""

    def __init__(self, chance: random.Random) -> None:
        self.signer = chance.choice(SIGNERS)
        self.header: dict[str, Any] = {
            "alg": self.signer.algorithm,
            "typ": "at+jwt",
            "kid": self.signer.key_id,
        }
        self.claims = good_claims()
        self.spellings: set[str] = set()
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
            part, pools = chance.choice(((self.claims, CLAIMS), (self.header, HEADERS)))
            name = chance.choice(list(pools))
            part[name] = chance.choice(pools[name])
        self.header, self.claims = without_removed(self.header), without_removed(self.claims)
        payload, head = json.dumps(self.claims), json.dumps(self.header)
        if chance.random() < 0.03:
            payload = chance.choice(
                ("[]", '"a"', "1", "null", "", "{", payload[:-1], payload + "}")
            )
        if chance.random() < 0.03:
            payload, head = self._twice(chance, payload, head)
        by = self.signer if chance.random() < 0.9 else chance.choice((*SIGNERS, *STRANGERS))
        signed = base64url(head.encode()) + b"." + base64url(payload.encode())
        self.token = signed + b"." + base64url(by.sign(signed))
        if chance.random() < 0.1:
            self.token = chance.choice(DAMAGES)(self.token, chance)

    def _twice(self, chance: random.Random, payload: str, head: str) -> tuple[str, str]:
        """The first member twice, in the claims or in the header."""
        self.spellings.add("duplicate")
        doubled = [
            f"{text[:-1]}, {json.dumps(name)}: {json.dumps(members[name])}}}"
            for text, members in ((payload, self.claims), (head, self.header))
            for name in list(members)[:1]
        ]
        return (doubled[0], head) if chance.random() < 0.5 else (payload, doubled[-1])


def _turn_a_bit(token: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(token)
    damaged[chance.randrange(len(token))] ^= 1 << chance.randrange(7)
    return bytes(damaged)


def _last_character(token: bytes, chance: random.Random) -> bytes:
    return token[:-1] + bytes([chance.choice(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghij0123456789-_")])


DAMAGES: Final[list[Callable[[bytes, random.Random], bytes]]] = [
    _turn_a_bit,
    _last_character,
    lambda token, _: token[: token.rindex(b".") + 1],
    lambda token, _: token[: token.rindex(b".")],
    lambda token, chance: token[: chance.randrange(len(token))],
    lambda token, _: token + b"=",
    lambda token, _: token + b"\n",
    lambda token, _: token + b".",
    lambda token, _: token + b".AAAA",
    lambda token, _: b"." + token,
    lambda token, _: token.replace(b".", b"=.", 1),
    lambda token, _: token.replace(b".", b". ", 1),
    lambda token, _: b".".join(token.split(b".")[i] for i in (1, 0, 2)) if b"." in token else token,
]


def _parts(token: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, however they are spelt; empty when they are not there."""
    parts: list[dict[str, Any]] = []
    for text in token.split(b".")[:2]:
        try:
            value = json.loads(base64.urlsafe_b64decode(text + b"=="))
        except (ValueError, RecursionError):
            value = {}
        parts.append(value if isinstance(value, dict) else {})
    header, claims = [*parts, {}, {}][:2]
    return header, claims


def _spelt_oddly(token: bytes) -> bool:
    for part in token.split(b"."):
        try:
            value = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
        except ValueError:
            return True
        if base64url(value) != part:
            return True
    return False


def _no_whole_seconds(claims: dict[str, Any]) -> bool:
    times = [claims[name] for name in ("exp", "iat", "nbf") if name in claims]
    return not all(type(each) is int and 0 <= each <= 2**40 for each in times)


def _lives_too_long(claims: dict[str, Any]) -> bool:
    issued, ends = claims.get("iat"), claims.get("exp")
    if not isinstance(issued, int | float) or not isinstance(ends, int | float):
        return False
    return not 0 < ends - issued <= LONGEST_S


def _no_name(value: object) -> bool:
    return not (isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable())


Rule = Callable[[dict[str, Any], dict[str, Any], bytes], bool]
STRICTER: Final[dict[str, Rule]] = {
    # RFC 9068: what is no access token is refused; joserfc leaves `typ` to its caller.
    "typ": lambda header, _, __: header.get("typ") != "at+jwt",
    # We understand no extension, so naming any, or none, as critical is refused.
    "crit": lambda header, _, __: "crit" in header or "b64" in header,
    # One text by default; a token for several services can be replayed by each of them.
    "aud is a list": lambda _, claims, __: isinstance(claims.get("aud"), list),
    # Whole seconds from 1970 on: fractions, booleans and absurd numbers are mistakes or attacks.
    "times": lambda _, claims, __: _no_whole_seconds(claims),
    # `access` bounds how long a stolen token is good for.
    "lifetime": lambda _, claims, __: _lives_too_long(claims),
    # A name is shown to operators and kept in records.
    "sub": lambda _, claims, __: _no_name(claims.get("sub")),
    "jti": lambda _, claims, __: "jti" in claims and _no_name(claims["jti"]),
    # Not a registered claim, so joserfc does not look at it.
    "roles": lambda _, claims, __: not _well_formed_roles(claims.get("roles")),
    # RFC 7515 2: base64url has one spelling; others would be other tokens for caches and revocation.
    "spelling": lambda _, __, token: _spelt_oddly(token),
    # With several keys a token says which one it means.
    "kid": lambda header, _, __: not isinstance(header.get("kid"), str),
}


def _well_formed_roles(value: object) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(each, str) for each in value)
    )


KEYS: Final = jwk.KeySet.import_key_set(json.loads(key_set(*SIGNERS)))
SIGNATURES: Final = JWSRegistry(algorithms=PUBLIC_ALGORITHMS, strict_check_header=False)
"""RFC 7515 4: members of a header that are not understood are ignored, unless they are critical."""
REGISTRY: Final = jwt.JWTClaimsRegistry(
    now=NOW_S,
    leeway=LEEWAY_S,
    iss={"essential": True, "value": ISSUER},
    aud={"essential": True, "value": AUDIENCE},
    sub={"essential": True},
    exp={"essential": True},
    iat={"essential": True},
)


def theirs(token: bytes) -> bool:
    try:
        REGISTRY.validate(jwt.decode(token, KEYS, registry=SIGNATURES).claims)
    except (JoseError, ValueError, TypeError, KeyError):
        return False  # joserfc raises ordinary errors, too, for headers of odd types.
    return True


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
def test_jw_31_joserfc_agrees() -> None:
    """0 tokens on which the two disagree for another reason than a rule above."""
    chance = random.Random(20_261_122)  # noqa: S311 - it generates cases, not keys
    issuer = trusting(*SIGNERS)
    disagreements = []
    used: Counter[str] = Counter()
    for _ in range(TOKENS):
        specimen = Specimen(chance)
        token = specimen.token
        ours = accepted(issuer, b"Bearer " + token) is not None
        allowed = theirs(token)
        header, claims = _parts(token)
        reasons = {name for name, rule in STRICTER.items() if rule(header, claims, token)}
        reasons |= specimen.spellings
        if allowed:
            used.update(reasons or {"accepted by both"})
        if ours != (allowed and not reasons):
            disagreements.append((ours, allowed, reasons, header, claims, token))

    assert disagreements[:3] == []
    assert used["accepted by both"] > TOKENS / 5
    assert used.keys() >= {"accepted by both", "typ", "aud is a list", "times", "lifetime", "roles"}
