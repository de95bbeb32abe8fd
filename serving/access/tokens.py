"""From the `Authorization` value of a request to its principal.

A credential that was verified once is remembered until it expires, keyed by the whole value of the
header, so a caller's second request costs one dictionary look-up and one comparison instead of a
signature check (about 150 us). The memory is bounded in entries and bytes; when it is full the
oldest entry makes room. Least-recently-used order was rejected: it would make every hit write, and
an entry lost too early costs one signature check.

Refused credentials are not remembered: whoever can send junk could fill any such memory, and the
checks that come before the signature (size, form, algorithm, known key) refuse most junk in a few
microseconds. What is left costs one Ed25519 verification.

All causes of refusal raise the same error with the same words. The reason goes into `refusals`.
"""

import base64
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from serving.access.claims import (
    ALGORITHM,
    CredentialRefused,
    Refusal,
    judge,
    key_id_of,
    strict_object,
)
from serving.core.principals import Principal
from serving.errors import Unauthenticated
from serving.settings import AccessSettings

MESSAGE: Final = "this needs a valid token: Authorization: Bearer TOKEN"
SCHEME_BYTES: Final = len(b"Bearer ")
BYTES_PER_ENTRY: Final = 1024
"""Bounds the memory of credentials at this much times `token_cache_entries`; ours take about 600."""

_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """Since the start. hits and misses: of the memory of verified credentials."""

    hits: int
    misses: int
    refused: int
    entries: int


class Authenticator:
    """Verifies bearer tokens of known keys. Not for use from several threads."""

    def __init__(
        self, public_keys: Mapping[str, Ed25519PublicKey], settings: AccessSettings
    ) -> None:
        self._public_keys = dict(public_keys)
        self._settings = settings
        self._signatures = jwt.PyJWS(algorithms=[ALGORITHM])
        self._verified: dict[bytes | None, tuple[Principal, float]] = {}
        self._verified_bytes = 0
        self._hits = 0
        self._misses = 0
        self._refusals: Counter[Refusal] = Counter()

    def authenticate(self, authorization: bytes | None, now_s: float) -> Principal:
        """The principal behind an `Authorization` value.

        now_s: wall time in seconds. Raises Unauthenticated, whatever the cause.
        """
        known = self._verified.get(authorization)
        if known is not None and known[1] > now_s:
            self._hits += 1
            return known[0]
        return self._authenticate_unknown(authorization, now_s)

    def statistics(self) -> TokenStatistics:
        refused = self._refusals.total()
        return TokenStatistics(self._hits, self._misses, refused, len(self._verified))

    def refusals(self) -> Mapping[Refusal, int]:
        """How many credentials were refused for which reason."""
        return dict(self._refusals)

    def _authenticate_unknown(self, authorization: bytes | None, now_s: float) -> Principal:
        self._misses += 1
        try:
            token = _bearer_token(authorization, self._settings.max_token_bytes)
            principal, valid_until_s = self._verify(token, now_s)
        except CredentialRefused as refused:
            self._forget(authorization)
            self._refusals[refused.reason] += 1
            # Without the cause: its text must not reach a log of the caller's errors.
            raise Unauthenticated(MESSAGE) from None
        self._remember(authorization, principal, valid_until_s)
        return principal

    def _verify(self, token: bytes, now_s: float) -> tuple[Principal, float]:
        parts = _COMPACT.fullmatch(token)
        if parts is None:
            raise CredentialRefused(Refusal.MALFORMED)
        header = strict_object(_decoded(parts[1]), Refusal.HEADER)
        key = self._public_keys.get(key_id_of(header))
        if key is None:
            raise CredentialRefused(Refusal.KEY)
        try:
            signed = self._signatures.decode_complete(token, key, algorithms=[ALGORITHM])
        except jwt.InvalidTokenError as error:
            raise CredentialRefused(Refusal.SIGNATURE) from error
        claims = strict_object(signed["payload"], Refusal.CLAIMS)
        return judge(claims, self._settings, now_s)

    def _remember(
        self, authorization: bytes | None, principal: Principal, valid_until_s: float
    ) -> None:
        self._forget(authorization)
        self._verified[authorization] = (principal, valid_until_s)
        self._verified_bytes += len(authorization or b"")
        most = self._settings.token_cache_entries
        while len(self._verified) > most or self._verified_bytes > most * BYTES_PER_ENTRY:
            self._forget(next(iter(self._verified)))

    def _forget(self, authorization: bytes | None) -> None:
        if self._verified.pop(authorization, None) is not None:
            self._verified_bytes -= len(authorization or b"")


def _bearer_token(authorization: bytes | None, max_token_bytes: int) -> bytes:
    if authorization is None:
        raise CredentialRefused(Refusal.MISSING)
    if len(authorization) > max_token_bytes + SCHEME_BYTES:
        raise CredentialRefused(Refusal.TOO_LONG)
    if authorization[:SCHEME_BYTES].lower() != b"bearer ":
        raise CredentialRefused(Refusal.SCHEME)
    return authorization[SCHEME_BYTES:]


def _decoded(part: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except ValueError as error:
        raise CredentialRefused(Refusal.MALFORMED) from error
