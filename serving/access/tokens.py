"""From the `Authorization` value of a request to its principal.

A credential that was verified once is remembered until it expires, keyed by the whole value of the
header, so a caller's second request costs one dictionary look-up and one comparison instead of a
signature check (about 150 us). The memory is bounded in entries and bytes; when it is full the
oldest entry makes room. Least-recently-used order was rejected: it would make every hit write, and
an entry lost too early costs one signature check. What is revoked, and what was verified with a key
that its issuer withdrew, leaves the memory at once.

Refused credentials are not remembered: whoever can send junk could fill any such memory. Everything
else about a token is judged before its signature, which is the expensive part: junk, and the expired
tokens that honest callers forget to renew, are refused in some ten microseconds. Nothing that was
read before the signature is believed until the signature is.

A client certificate that TLS verified counts when it comes without a token or key; beside one, the
token or key decides. What is remembered then is remembered for both together.

All causes of refusal raise the same error with the same words. The reason goes into `refusals`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from serving.access.certificates import CertificateCheck, Certified, Credential, authorization_of
from serving.access.claims import (
    CredentialRefused,
    Refusal,
    check_header,
    decode_part,
    judge,
    strict_object,
)
from serving.access.keyrings import TrustedIssuer
from serving.access.revocation import Revocations
from serving.access.verification import VerificationKey
from serving.core.principals import Principal
from serving.errors import AuthUnavailable, Unauthenticated
from serving.settings import AccessSettings

MESSAGE: Final = "this needs a valid token: Authorization: Bearer TOKEN"
BEARER: Final = b"bearer "
API_KEY: Final = b"apikey "
BYTES_PER_ENTRY: Final = 1024
"""Bounds the memory of credentials at this much times `token_cache_entries`; ours take about 600."""

_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


class ApiKeyCheck(Protocol):
    """The other kind of credential."""

    def recognises(self, credential: bytes) -> bool:
        """Whether this is one, good or bad; cheap."""

    def verify(self, credential: bytes, now_s: float) -> tuple[Principal, float]:
        """Its principal, and the wall time in seconds until which it is one.

        Raises CredentialRefused.
        """


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """Since the start. hits and misses: of the memory of verified credentials."""

    hits: int
    misses: int
    refused: int
    entries: int


class TokenVerification:
    """Judges tokens of the issuers that are trusted, and remembers nothing."""

    def __init__(self, issuers: Iterable[TrustedIssuer]) -> None:
        self._issuers = {each.profile.issuer: each for each in issuers}

    def verify(self, token: bytes, now_s: float) -> tuple[Principal, float, str]:
        """The principal, the wall time in seconds until which it is one, and the key's identity.

        Raises CredentialRefused, and AuthUnavailable when the issuer's keys cannot be read.
        """
        parts = _COMPACT.fullmatch(token)
        if parts is None:
            raise CredentialRefused(Refusal.MALFORMED)
        header = strict_object(decode_part(parts[1]), Refusal.HEADER)
        check_header(header)
        claims = strict_object(decode_part(parts[2]), Refusal.CLAIMS)
        signature = decode_part(parts[3])
        issuer = self._issuer(claims)
        key = _key(header, issuer)
        principal, valid_until_s = judge(claims, issuer.profile, now_s)
        if not key.verifies(token[: parts.end(2)], signature):
            raise CredentialRefused(Refusal.SIGNATURE)
        return principal, valid_until_s, key.identity

    def _issuer(self, claims: Mapping[str, Any]) -> TrustedIssuer:
        name = claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise CredentialRefused(Refusal.ISSUER)
        return issuer


class Authenticator:
    """Verifies credentials and remembers those that are good. Not for use from several threads."""

    def __init__(
        self,
        issuers: Iterable[TrustedIssuer],
        settings: AccessSettings,
        *,
        api_keys: ApiKeyCheck | None = None,
        adopt: Callable[[Principal], Principal] | None = None,
        refused: Callable[[Refusal], None] | None = None,
    ) -> None:
        """api_keys: None accepts tokens only. adopt: each principal goes through it once, before it
        is remembered. refused: told of every refusal."""
        issuers = tuple(issuers)
        self._tokens = TokenVerification(issuers)
        self._settings = settings
        self._api_keys = api_keys
        self._adopt = adopt
        self._refused = refused
        self._certificates = CertificateCheck(
            settings.certificates, binds_token=settings.certificate_binds_token
        )
        self._revocations = Revocations()
        self._verified: dict[Credential, tuple[Principal, float, str]] = {}
        self._verified_bytes = 0
        self._hits = 0
        self._misses = 0
        self._refusals: Counter[Refusal] = Counter()
        for issuer in issuers:
            issuer.keys.when_removed(self._forget_keys)

    def authenticate(self, credential: Credential, now_s: float) -> Principal:
        """The principal behind an `Authorization` value, or behind a client certificate.

        now_s: wall time in seconds. Raises Unauthenticated, whatever the cause, and AuthUnavailable
        when nobody can tell, because the keys of the issuer cannot be read.
        """
        known = self._verified.get(credential)
        if known is not None and known[1] > now_s:
            self._hits += 1
            return known[0]
        return self._authenticate_unknown(credential, now_s)

    def set_revocations(self, revocations: Revocations) -> None:
        """Refuses these from now on, and no longer those before."""
        self._revocations = revocations
        self.forget(revocations.cover)

    def forget(self, unwanted: Callable[[Principal], bool]) -> None:
        """Looks at the credentials of these principals again when they come back."""
        self._forget_all([k for k, entry in self._verified.items() if unwanted(entry[0])])

    def statistics(self) -> TokenStatistics:
        refused = self._refusals.total()
        return TokenStatistics(self._hits, self._misses, refused, len(self._verified))

    def refusals(self) -> Mapping[Refusal, int]:
        """How many credentials were refused for which reason."""
        return dict(self._refusals)

    # -- the first time a credential is seen -----------------------------------------------------

    def _authenticate_unknown(self, credential: Credential, now_s: float) -> Principal:
        self._misses += 1
        self._forget_all([credential])
        try:
            principal, valid_until_s, key = self._verify(credential, now_s)
            self._check_not_revoked(principal)
        except CredentialRefused as error:
            self._count(error.reason)
            # Without the cause: its text must not reach a log of the caller's errors.
            raise Unauthenticated(MESSAGE) from None
        except AuthUnavailable:
            self._count(Refusal.KEYS_UNAVAILABLE)
            raise
        if self._adopt is not None:
            principal = self._adopt(principal)
        self._remember(credential, (principal, valid_until_s, key))
        return principal

    def _verify(self, credential: Credential, now_s: float) -> tuple[Principal, float, str]:
        if not isinstance(credential, Certified):
            return self._verify_authorization(credential, now_s)
        if credential.authorization is None:
            return (*self._certificates.verify(credential.certificate, now_s), "")
        verified = self._verify_authorization(credential.authorization, now_s)
        self._certificates.check_bound(verified[0], credential.certificate)
        return verified

    def _verify_authorization(
        self, authorization: bytes | None, now_s: float
    ) -> tuple[Principal, float, str]:
        if authorization is None:
            raise CredentialRefused(Refusal.MISSING)
        if len(authorization) > self._settings.max_token_bytes + len(BEARER):
            raise CredentialRefused(Refusal.TOO_LONG)
        scheme = authorization[: len(BEARER)].lower()
        if scheme not in {BEARER, API_KEY}:
            raise CredentialRefused(Refusal.SCHEME)
        credential = authorization[len(scheme) :]
        if self._api_keys is not None and self._api_keys.recognises(credential):
            return (*self._api_keys.verify(credential, now_s), "")
        if scheme == API_KEY:
            raise CredentialRefused(Refusal.API_KEY)
        return self._tokens.verify(credential, now_s)

    def _check_not_revoked(self, principal: Principal) -> None:
        if self._revocations.cover(principal):
            raise CredentialRefused(Refusal.REVOKED)

    def _count(self, reason: Refusal) -> None:
        self._refusals[reason] += 1
        if self._refused is not None:
            self._refused(reason)

    # -- the memory ------------------------------------------------------------------------------

    def _remember(self, credential: Credential, entry: tuple[Principal, float, str]) -> None:
        self._verified[credential] = entry
        self._verified_bytes += _size(credential)
        most = self._settings.token_cache_entries
        while len(self._verified) > most or self._verified_bytes > most * BYTES_PER_ENTRY:
            self._forget_all([next(iter(self._verified))])

    def _forget_all(self, credentials: Iterable[Credential]) -> None:
        for credential in credentials:
            if self._verified.pop(credential, None) is not None:
                self._verified_bytes -= _size(credential)

    def _forget_keys(self, identities: frozenset[str]) -> None:
        self._forget_all([k for k, entry in self._verified.items() if entry[2] in identities])


def _size(credential: Credential) -> int:
    shown = credential.certificate if isinstance(credential, Certified) else b""
    return len(authorization_of(credential) or b"") + len(shown)


def _key(header: Mapping[str, Any], issuer: TrustedIssuer) -> VerificationKey:
    kind, key_id = header.get("typ", ""), header.get("kid")
    if not isinstance(kind, str) or kind not in issuer.profile.types:
        raise CredentialRefused(Refusal.HEADER)
    if key_id is not None and not isinstance(key_id, str):
        raise CredentialRefused(Refusal.KEY)
    key = issuer.keys.find(key_id)
    if key is None:
        raise CredentialRefused(Refusal.KEY)
    if header.get("alg") != key.algorithm:
        raise CredentialRefused(Refusal.ALGORITHM)
    return key
