"""Settings of one issuer of tokens: what it signs with, where its keys are, what its claims mean.

Everything about a key is decided here, before any token comes: where it is read, and for which
algorithm. What a token says about either is compared with this and never followed.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, model_validator

from serving.setting_types import Group, Seconds

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "EdDSA", "Ed25519",
]  # fmt: skip
Text = Annotated[str, Field(min_length=1, max_length=255)]
ClaimPath = Text | Annotated[tuple[Text, ...], Field(min_length=1)]
"""A claim, or with dots one inside another: `realm_access.roles`. A name that has dots itself is
written as a list: `["https://example.com/roles"]`."""
Form = Literal["list", "words"]
"""A list of texts, or one text of words with spaces between, as in `scope`."""

SECRET_ALGORITHMS: Final = frozenset({"HS256", "HS384", "HS512"})


def _fetchable(address: str) -> str:
    parts = urlsplit(address)
    host = parts.hostname or ""
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise ValueError("it must be https; http is for loopback only")
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("it must be a host and a path, without a user, a password or a fragment")
    _check_port(parts)
    if _is_unfit(host):
        raise ValueError("it must not be a link-local, multicast or unspecified address")
    return address


Address = Annotated[str, AfterValidator(_fetchable)]


class ClaimSettings(Group):
    """Which claim says what. None: the tokens of this issuer do not say it."""

    subject: ClaimPath = "sub"
    """Who the token speaks for."""
    subject_prefix: Annotated[str, Field(max_length=64)] = ""
    """Put before each subject, so that `alice` of two issuers are two callers everywhere."""
    tenant: ClaimPath | None = None
    """The caller's tenant; once named, a token without it is refused."""
    roles: ClaimPath | None = "roles"
    """The caller's roles; a token without any has none."""
    roles_form: Form = "list"
    """How roles are written."""
    role_names: dict[str, Text] = Field(default_factory=dict)
    """From the issuer's names to ours. Empty: they are ours already. What is not here is ignored."""
    models: ClaimPath | None = None
    """The models that the token may be used for; once named, a token without it is refused."""
    models_form: Form = "list"
    """How models are written."""


class IssuerSettings(Group):
    """One issuer whose tokens are accepted. Exactly one of the three sources names its keys."""

    name: Text
    """The `iss` claim, to the letter."""
    audiences: Annotated[tuple[Text, ...], Field(min_length=1)]
    """A token must be for one of these: the `aud` claim, to the letter."""
    audience_lists: bool = False
    """Accept a token whose `aud` is a list with one of ours in it; then it is good elsewhere too."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256", "EdDSA")
    """What its keys may be for. A key without `alg` is for the one of these that fits it."""
    types: Annotated[tuple[str, ...], Field(min_length=1)] = ("at+jwt",)
    """Accepted `typ` headers, to the letter; "" accepts a token without one."""
    jwks_url: Address | None = None
    """https address of its JSON Web Key Set."""
    keys_file: Path | None = None
    """File with a JSON Web Key Set, or with one public key in PEM."""
    secret_file: Path | None = None
    """File with the secret of HS256, HS384 or HS512, which nobody else may read; a line end at its
    end is not part of it."""
    ca_file: Path | None = None
    """PEM file of the authorities that `jwks_url` may be certified by; None: the usual ones."""
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 60.0
    """Clock difference allowed for `iat`, `nbf` and `exp`."""
    max_token_lifetime_s: Seconds = 86_400.0
    """A token valid for longer, from `iat` to `exp`, is refused."""
    required_claims: tuple[Text, ...] = ()
    """Claims that a token must also have, whatever they say."""
    tenant: Annotated[str, Field(max_length=255)] = ""
    """The tenant of all its callers, when no claim says it."""
    claims: ClaimSettings = ClaimSettings()
    """Which claim says what."""
    refresh_s: Seconds = 60.0
    """Its keys are read again this often: a new key works, and a withdrawn one ends, within it."""
    cool_down_s: Seconds = 5.0
    """Between two readings at least, when a token names an unknown key or the last one failed."""
    fetch_timeout_s: Seconds = 5.0
    """One reading of `jwks_url` may take this long, from the name look-up to the last byte."""
    stale_s: Seconds = 14_400.0
    """The last good keys are used for so long when no new ones can be read; then its tokens are
    answered 503 until they can."""

    @model_validator(mode="after")
    def _one_source(self) -> "IssuerSettings":
        sources = (self.jwks_url, self.keys_file, self.secret_file)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("name one of jwks_url, keys_file and secret_file")
        if self.ca_file is not None and self.jwks_url is None:
            raise ValueError("ca_file goes with jwks_url")
        return self

    @model_validator(mode="after")
    def _fitting_algorithms(self) -> "IssuerSettings":
        by_secret = [name for name in self.algorithms if name in SECRET_ALGORITHMS]
        if self.secret_file is None and by_secret:
            raise ValueError(f"{by_secret[0]} needs a secret_file: public keys are no secrets")
        if self.secret_file is not None and (len(by_secret), len(self.algorithms)) != (1, 1):
            raise ValueError("algorithms must be the one of HS256, HS384, HS512 of secret_file")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "IssuerSettings":
        if self.tenant and self.claims.tenant is not None:
            raise ValueError("tenant and claims.tenant exclude each other")
        if not self.cool_down_s <= self.refresh_s <= self.stale_s:
            raise ValueError("cool_down_s, refresh_s and stale_s must be in this order")
        return self


def _is_loopback(host: str) -> bool:
    address = _literal(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_unfit(host: str) -> bool:
    address = _literal(host)
    return address is not None and (
        address.is_link_local or address.is_multicast or address.is_unspecified
    )


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `host` is, or None for a name."""
    try:
        address = ipaddress.ip_address(host.rstrip("."))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _check_port(parts: SplitResult) -> None:
    if parts.port == 0:  # Reading it raises ValueError for what is no port.
        raise ValueError("0 is no port")
