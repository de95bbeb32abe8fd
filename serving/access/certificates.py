"""Client certificates: what one says, whom it stands for, and when it is that of a credential.

Everything here sees certificates that TLS has verified against the authorities of the port.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from serving.access.claims import ROLES, CredentialRefused, Refusal, subject_is_valid
from serving.access.patterns import matches
from serving.core.principals import Principal
from serving.errors import SettingInvalid
from serving.tls_settings import CertificateRule

ISSUER: Final = "certificate"
"""Who vouches for a certificate's principal."""

_IDENTIFIER_DIGITS: Final = 32


class Certified(NamedTuple):
    """What a caller with a client certificate showed. certificate: DER.

    No header can be one, so none passes for it, wherever credentials are remembered.
    """

    authorization: bytes | None
    certificate: bytes


Credential = bytes | Certified | None
"""An `Authorization` value, a certificate with or without one, or nothing."""


def authorization_of(credential: Credential) -> bytes | None:
    """The `Authorization` value in it."""
    return credential.authorization if isinstance(credential, Certified) else credential


class CertificateCheck:
    """Judges certificates by the rules of the settings."""

    def __init__(self, rules: Sequence[CertificateRule], *, binds_token: bool) -> None:
        self._rules = tuple(rules)
        self._binds_token = binds_token

    def verify(self, certificate: bytes, now_s: float) -> tuple[Principal, float]:
        """Whom it stands for, and until which wall time in seconds. Raises CredentialRefused."""
        subject = subject_of(certificate)
        read = x509.load_der_x509_certificate(certificate)
        rule = next((each for each in self._rules if matches(each.subject, subject)), None)
        if rule is None:
            raise CredentialRefused(Refusal.CERTIFICATE)
        ends_s = read.not_valid_after_utc.timestamp()
        if ends_s <= now_s:
            # A connection may outlive the certificate that it was opened with.
            raise CredentialRefused(Refusal.EXPIRED)
        principal = Principal(
            subject=subject,
            roles=frozenset(ROLES[name] for name in rule.roles),
            models=None if rule.models is None else frozenset(rule.models),
            tenant=rule.tenant,
            issuer=ISSUER,
            token_id=hashlib.sha256(certificate).hexdigest()[:_IDENTIFIER_DIGITS],
            issued_s=read.not_valid_before_utc.timestamp(),
        )
        return principal, ends_s

    def check_bound(self, principal: Principal, certificate: bytes) -> None:
        """Passes unless a token must be its subject's own. Raises CredentialRefused."""
        if self._binds_token and subject_of(certificate) != principal.subject:
            raise CredentialRefused(Refusal.CERTIFICATE)


def valid_until(path: Path) -> datetime:
    """The end of the first certificate in a PEM file, UTC. Raises SettingInvalid."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise SettingInvalid(f"{path} is no certificate in PEM") from error


def subject_of(certificate: bytes) -> str:
    """The one common name in a certificate (DER). Raises CredentialRefused."""
    try:
        subject = x509.load_der_x509_certificate(certificate).subject
    except ValueError as error:
        raise CredentialRefused(Refusal.CERTIFICATE) from error
    names = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1 or not subject_is_valid(names[0]):
        raise CredentialRefused(Refusal.CERTIFICATE)
    return names[0]
