"""What a token must say before its bearer becomes a principal.

Everything is judged here, on JSON that this module parsed itself, because token libraries are lax in
ways that matter (RELIABILITY, JW): they keep the last of duplicate members, take `exp` as text or as
1e18, do not look at `typ`, and read the system's clock instead of ours. A library only checks the
signature.

Strict on purpose: times are integers, `aud` is one text unless the issuer's settings permit lists,
`sub` is short and printable, and no critical extension is understood, so naming one refuses the
token.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal, cast

from serving.core.principals import Principal, Role

MAX_SUBJECT_LENGTH: Final = 255
MAX_SECONDS: Final = 2**40
ROLES: Final[Mapping[str, Role]] = {role.value: role for role in Role}

Path = tuple[str, ...]
"""A claim inside a claim: names from the outside in."""
Form = Literal["list", "words"]


class Refusal(StrEnum):
    """Why a credential was refused. For counters and logs; the caller is never told."""

    MISSING = "missing"
    SCHEME = "scheme"
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    HEADER = "header"
    KEY = "key"
    KEYS_UNAVAILABLE = "keys_unavailable"
    ALGORITHM = "algorithm"
    SIGNATURE = "signature"
    CLAIMS = "claims"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    LIFETIME = "lifetime"
    SUBJECT = "subject"
    TENANT = "tenant"
    ROLES = "roles"
    MODELS = "models"
    REVOKED = "revoked"
    API_KEY = "api_key"
    CERTIFICATE = "certificate"


class CredentialRefused(Exception):
    """Internal to this package: a check failed. `Authenticator` counts the reason and drops it."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Profile:
    """What the tokens of one issuer must say, and where they say who calls.

    types: accepted `typ` headers, "" for none. required: claims that must be there and not null.
    tenant: where it is, or the one of all tokens in `fixed_tenant`, which those of an issuer that may
    leave it out (`tenant_optional`) have too. roles, models: None when the tokens do not say. A token
    that could say, and does not, has no roles and all models.
    """

    issuer: str
    audiences: frozenset[str]
    types: frozenset[str]
    leeway_s: float
    max_lifetime_s: float
    audience_lists: bool = False
    required: tuple[Path, ...] = ()
    subject: Path = ("sub",)
    subject_prefix: str = ""
    tenant: Path | None = None
    fixed_tenant: str = ""
    tenant_optional: bool = False
    roles: Path | None = ("roles",)
    roles_form: Form = "list"
    role_names: Mapping[str, Role] = field(default_factory=lambda: ROLES)
    models: Path | None = ("models",)
    models_form: Form = "list"


def decode_part(part: bytes) -> bytes:
    """What a part of a token stands for. part: of the alphabet of base64url, without padding.

    Only the one canonical spelling is accepted: the unused bits of the last character are zero.
    """
    try:
        value = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except ValueError as error:
        raise CredentialRefused(Refusal.MALFORMED) from error
    if base64.urlsafe_b64encode(value).rstrip(b"=") != part:
        raise CredentialRefused(Refusal.MALFORMED)
    return value


def strict_object(text: bytes, reason: Refusal) -> dict[str, Any]:
    """One JSON object without duplicate members, NaN or infinity, at any depth.

    Raises CredentialRefused with `reason`, also for text that nests too deeply to be parsed.
    """
    try:
        value = _DECODER.decode(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CredentialRefused(reason) from error
    if not isinstance(value, dict):
        raise CredentialRefused(reason)
    return value


def check_header(header: Mapping[str, Any]) -> None:
    """Passes for a header without extensions that would have to be understood.

    Locations of keys (`jku`, `x5u`) and embedded keys (`jwk`, `x5c`) are ignored: keys come from
    where the settings say only.
    """
    if "crit" in header or "b64" in header:
        raise CredentialRefused(Refusal.HEADER)


def judge(claims: Mapping[str, Any], profile: Profile, now_s: float) -> tuple[Principal, float]:
    """The principal of a signed token, and the wall time in seconds until which it is one.

    The issuer is the caller's to compare: it chose the profile by it. Raises CredentialRefused.
    """
    _judge_audience(claims.get("aud"), profile)
    valid_until_s = _judge_times(claims, profile, now_s)
    for path in profile.required:
        if _at(claims, path) is None:
            raise CredentialRefused(Refusal.CLAIMS)
    principal = Principal(
        subject=_name(_at(claims, profile.subject), Refusal.SUBJECT, profile.subject_prefix),
        roles=_roles(claims, profile),
        models=_models(claims, profile),
        tenant=_tenant(claims, profile),
        issuer=profile.issuer,
        token_id=_name(claims["jti"], Refusal.CLAIMS) if "jti" in claims else "",
        issued_s=claims["iat"],
    )
    return principal, valid_until_s


def subject_is_valid(subject: str) -> bool:
    """1 to 255 printable characters: no control characters, no line ends."""
    return 0 < len(subject) <= MAX_SUBJECT_LENGTH and subject.isprintable()


def _judge_audience(audience: object, profile: Profile) -> None:
    if isinstance(audience, str) and audience in profile.audiences:
        return
    if profile.audience_lists and isinstance(audience, list):
        names = _texts(audience, "list", Refusal.AUDIENCE)
        if not profile.audiences.isdisjoint(names):
            return
    raise CredentialRefused(Refusal.AUDIENCE)


def _judge_times(claims: Mapping[str, Any], profile: Profile, now_s: float) -> float:
    issued_s = _seconds(claims.get("iat"))
    expires_s = _seconds(claims.get("exp"))
    not_before_s = _seconds(claims.get("nbf", issued_s))
    if not 0 < expires_s - issued_s <= profile.max_lifetime_s:
        raise CredentialRefused(Refusal.LIFETIME)
    if max(issued_s, not_before_s) > now_s + profile.leeway_s:
        raise CredentialRefused(Refusal.NOT_YET_VALID)
    valid_until_s = expires_s + profile.leeway_s
    if valid_until_s <= now_s:
        raise CredentialRefused(Refusal.EXPIRED)
    return valid_until_s


def _seconds(value: object) -> int:
    # `type` and not `isinstance`: True is an int too.
    if type(value) is not int or not 0 <= value <= MAX_SECONDS:
        raise CredentialRefused(Refusal.CLAIMS)
    return value


def _tenant(claims: Mapping[str, Any], profile: Profile) -> str:
    if profile.tenant is None:
        return profile.fixed_tenant
    said = _at(claims, profile.tenant)
    if said is None and profile.tenant_optional:
        return profile.fixed_tenant
    return _name(said, Refusal.TENANT)


def _roles(claims: Mapping[str, Any], profile: Profile) -> frozenset[Role]:
    said = None if profile.roles is None else _at(claims, profile.roles)
    if said is None:
        return frozenset()
    names = _texts(said, profile.roles_form, Refusal.ROLES)
    return frozenset(profile.role_names[name] for name in names if name in profile.role_names)


def _models(claims: Mapping[str, Any], profile: Profile) -> frozenset[str] | None:
    said = None if profile.models is None else _at(claims, profile.models)
    if said is None:
        return None
    return frozenset(_texts(said, profile.models_form, Refusal.MODELS))


def _at(claims: Mapping[str, Any], path: Path) -> object:
    """What is there; None for nothing, or null."""
    value: object = claims
    for name in path:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise CredentialRefused(Refusal.CLAIMS)
        value = value.get(name)
    return value


def _name(value: object, reason: Refusal, prefix: str = "") -> str:
    if not isinstance(value, str) or not value or not subject_is_valid(prefix + value):
        raise CredentialRefused(reason)
    return prefix + value


def _texts(value: object, form: Form, reason: Refusal) -> list[str]:
    if form == "words":
        if not isinstance(value, str):
            raise CredentialRefused(reason)
        return [word for word in value.split(" ") if word]
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


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
