"""What a token must say before its bearer becomes a principal.

Everything is judged here, on JSON that this module parsed itself, because the token library is lax
in ways that matter (RELIABILITY, JW): it keeps the last of duplicate members, takes `exp` as text
or as 1e18, does not look at `typ`, and reads the system's clock instead of ours. The library only
checks the signature.

Strict on purpose: times are integers, `aud` is one string, `sub` is short and printable, and no
critical extension is understood, so naming one refuses the token.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, cast

from serving.core.principals import Principal, Role
from serving.settings import AccessSettings

ALGORITHM: Final = "EdDSA"
TOKEN_TYPE: Final = "at+jwt"  # noqa: S105  # A media type, not a password.
MAX_SUBJECT_LENGTH: Final = 255
MAX_SECONDS: Final = 2**40
ROLES: Final = {role.value: role for role in Role}


class Refusal(StrEnum):
    """Why a credential was refused. For counters and logs; the caller is never told."""

    MISSING = "missing"
    SCHEME = "scheme"
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    HEADER = "header"
    KEY = "key"
    SIGNATURE = "signature"
    CLAIMS = "claims"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    LIFETIME = "lifetime"
    SUBJECT = "subject"
    ROLES = "roles"
    MODELS = "models"


class CredentialRefused(Exception):
    """Internal to this package: a check failed. `Authenticator` counts the reason and drops it."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.value)
        self.reason = reason


def strict_object(text: bytes, reason: Refusal) -> dict[str, Any]:
    """One JSON object without duplicate members, NaN or infinity, at any depth.

    Raises CredentialRefused with `reason`, also for text that nests too deeply to be parsed.
    """
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise CredentialRefused(reason) from error
    if not isinstance(value, dict):
        raise CredentialRefused(reason)
    return value


def key_id_of(header: Mapping[str, Any]) -> str:
    """The key that a header names, once the header is one that we understand in full.

    The algorithm is pinned: it is never chosen by the token. Locations of keys (`jku`, `x5u`) and
    embedded keys (`jwk`, `x5c`) are ignored; keys come from our own folder only.
    """
    if header.get("alg") != ALGORITHM or header.get("typ") != TOKEN_TYPE:
        raise CredentialRefused(Refusal.HEADER)
    if "crit" in header or "b64" in header:
        raise CredentialRefused(Refusal.HEADER)
    name = header.get("kid")
    if not isinstance(name, str):
        raise CredentialRefused(Refusal.KEY)
    return name


def judge(
    claims: Mapping[str, Any], settings: AccessSettings, now_s: float
) -> tuple[Principal, float]:
    """The principal of a signed token, and the wall time in seconds until which it is one.

    Raises CredentialRefused.
    """
    if claims.get("iss") != settings.issuer:
        raise CredentialRefused(Refusal.ISSUER)
    if claims.get("aud") != settings.audience:
        raise CredentialRefused(Refusal.AUDIENCE)
    valid_until_s = _judge_times(claims, settings, now_s)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject_is_valid(subject):
        raise CredentialRefused(Refusal.SUBJECT)
    if not isinstance(claims.get("jti", ""), str):
        raise CredentialRefused(Refusal.CLAIMS)
    roles = _texts(claims.get("roles"), Refusal.ROLES)
    models = claims.get("models")
    principal = Principal(
        subject,
        frozenset(ROLES[role] for role in roles if role in ROLES),
        None if models is None else frozenset(_texts(models, Refusal.MODELS)),
    )
    return principal, valid_until_s


def subject_is_valid(subject: str) -> bool:
    """1 to 255 printable characters: no control characters, no line ends."""
    return 0 < len(subject) <= MAX_SUBJECT_LENGTH and subject.isprintable()


def _judge_times(claims: Mapping[str, Any], settings: AccessSettings, now_s: float) -> float:
    issued_s = _seconds(claims.get("iat"))
    expires_s = _seconds(claims.get("exp"))
    not_before_s = _seconds(claims.get("nbf", issued_s))
    if not 0 < expires_s - issued_s <= settings.max_token_lifetime_s:
        raise CredentialRefused(Refusal.LIFETIME)
    if max(issued_s, not_before_s) > now_s + settings.leeway_s:
        raise CredentialRefused(Refusal.NOT_YET_VALID)
    valid_until_s = expires_s + settings.leeway_s
    if valid_until_s <= now_s:
        raise CredentialRefused(Refusal.EXPIRED)
    return valid_until_s


def _seconds(value: object) -> int:
    # `type` and not `isinstance`: True is an int too.
    if type(value) is not int or not 0 <= value <= MAX_SECONDS:
        raise CredentialRefused(Refusal.CLAIMS)
    return value


def _texts(value: object, reason: Refusal) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CredentialRefused(reason)
    return cast("list[str]", value)  # Every item was just seen to be text.


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(members)
    if len(unique) != len(members):
        raise ValueError("a member appears twice")
    return unique


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
