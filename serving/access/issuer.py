"""The local issuer: signs the tokens that `serving token` prints.

One Ed25519 key pair per data directory, made on first use. The key's identifier (`kid`) is its
RFC 7638 thumbprint, so a token names the key that signed it and a replaced key is never confused
with the old one. Tokens are JWTs of type `at+jwt` (RFC 9068) with `iss`, `aud`, `sub`, `iat`,
`exp`, `jti`, and our own `roles`, `models` and `tenant`.
"""

import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serving.access.claims import Profile, subject_is_valid
from serving.access.keyrings import KeyRing, TrustedIssuer
from serving.access.verification import KeySet, VerificationKey, thumbprint
from serving.core.clock import Clock
from serving.core.principals import Role
from serving.errors import SettingInvalid, StartFailed
from serving.settings import AccessSettings
from serving.trust.privatefiles import read_or_create

ALGORITHM: Final = "EdDSA"
TOKEN_TYPE: Final = "at+jwt"  # noqa: S105  # A media type, not a password.
KEY_NAME: Final = "issuer.pem"


class LocalIssuer:
    """Signs tokens with the key of one data directory; `trusted` is what verifies them."""

    def __init__(self, key: Ed25519PrivateKey, settings: AccessSettings, clock: Clock) -> None:
        self._key = key
        self._key_id = thumbprint(key.public_key())
        self._settings = settings
        self._clock = clock

    @classmethod
    def open(cls, keys_dir: Path, settings: AccessSettings, clock: Clock) -> "LocalIssuer":
        """The issuer of `keys_dir`; makes the folder and the key when there are none.

        Raises StartFailed when the key is damaged, of another kind, or readable by others.
        """
        path = keys_dir / KEY_NAME
        try:
            key = serialization.load_pem_private_key(read_or_create(path, _new_key), password=None)
        except (ValueError, TypeError) as error:
            raise StartFailed(f"{path} does not hold an unencrypted private key in PEM") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise StartFailed(f"{path} holds a key of another kind; it must be Ed25519")
        return cls(key, settings, clock)

    @property
    def trusted(self) -> TrustedIssuer:
        """As `Authenticator` takes it."""
        settings = self._settings
        profile = Profile(
            issuer=settings.issuer,
            audiences=frozenset({settings.audience}),
            types=frozenset({TOKEN_TYPE}),
            leeway_s=settings.leeway_s,
            max_lifetime_s=settings.max_token_lifetime_s,
            required=(("roles",),),
            tenant=("tenant",),
            tenant_optional=True,
        )
        key = VerificationKey(self._key.public_key(), ALGORITHM, self._key_id)
        return TrustedIssuer(profile, KeyRing(settings.issuer, KeySet([key])))

    def issue(
        self,
        *,
        subject: str,
        roles: Collection[Role],
        models: Collection[str] | None = None,
        tenant: str = "",
        ttl_s: float = 3600.0,
    ) -> str:
        """A signed token. models: the models it may call; None means every model. tenant: whose
        member the subject is, empty for nobody's.

        Raises SettingInvalid when no verifier with the same settings would accept it.
        """
        lifetime_s = round(ttl_s)
        if not 1 <= lifetime_s <= self._settings.max_token_lifetime_s:
            permitted = f"1 to {self._settings.max_token_lifetime_s:g} seconds"
            raise SettingInvalid(f"a token cannot live {ttl_s:g} seconds; permitted: {permitted}")
        if not subject_is_valid(subject):
            raise SettingInvalid(f"{subject!r} is not a subject: 1 to 255 printable characters")
        if tenant and not subject_is_valid(tenant):
            raise SettingInvalid(f"{tenant!r} is not a tenant: 1 to 255 printable characters")
        issued_s = self._clock.wall_ns() // 1_000_000_000
        token = jwt.encode(
            {
                "iss": self._settings.issuer,
                "aud": self._settings.audience,
                "sub": subject,
                "iat": issued_s,
                "exp": issued_s + lifetime_s,
                "jti": secrets.token_hex(16),
                "roles": sorted(roles),
                "models": None if models is None else sorted(models),
                "tenant": tenant or None,
            },
            self._key,
            algorithm=ALGORITHM,
            headers={"kid": self._key_id, "typ": TOKEN_TYPE},
        )
        if len(token) > self._settings.max_token_bytes:
            limit = self._settings.max_token_bytes
            raise SettingInvalid(f"the token has {len(token)} bytes; name fewer models ({limit})")
        return token


def _new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
