"""A local certificate authority, for trying TLS and client certificates on one machine.

Keys are ECDSA on P-256. Everything lies in one folder, mode 0700: the authority (`ca.pem`, `ca.key`),
the server's certificate for the names of this machine (`server.pem`, `server.key`), and one pair for
each client that was asked for. Whoever needs certificates that others trust brings their own.
"""

import ipaddress
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from serving.access.claims import subject_is_valid
from serving.core.clock import Clock
from serving.errors import ParameterInvalid, StartFailed
from serving.trust.privatefiles import read_or_create

AUTHORITY_LIFE: Final = timedelta(days=3650)
LEAF_LIFE: Final = timedelta(days=397)
Make = Callable[[], bytes]

_BACKDATED: Final = timedelta(minutes=5)
"""For clients whose clock is a little behind."""


class LocalAuthority:
    """The authority of one folder; made on first use."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        """Raises StartFailed when the folder or a key in it is open to others or damaged."""
        self.folder = folder
        self._clock = clock
        self._key = self._private_key("ca")
        self.certificate = self._authority()

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def server(self) -> tuple[Path, Path]:
        """Files of a certificate for this machine's names and loopback, and of its key."""
        names: list[x509.GeneralName] = [
            x509.DNSName(name) for name in sorted({"localhost", socket.gethostname()})
        ]
        names += [x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "::1")]
        # Our own processes show it as clients, where the control port asks clients for one.
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._leaf("server", "serving", names, usages)

    def client(self, subject: str) -> tuple[Path, Path]:
        """Files of a certificate whose common name is `subject`. Raises ParameterInvalid."""
        if not subject_is_valid(subject) or not subject.replace("-", "").isalnum():
            raise ParameterInvalid("a client's name has letters, digits and hyphens")
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._leaf(f"client-{subject}", subject, [x509.DNSName(subject)], usages)

    def _authority(self) -> x509.Certificate:
        def make() -> bytes:
            name = _name("serving local authority")
            builder = self._builder(name, name, self._key.public_key(), AUTHORITY_LIFE)
            builder = builder.add_extension(
                x509.BasicConstraints(ca=True, path_length=0), critical=True
            ).add_extension(_usage(signs_certificates=True), critical=True)
            return _pem(builder.sign(self._key, hashes.SHA256()))

        return self._certificate("ca", make)

    def _leaf(
        self,
        file: str,
        name: str,
        names: list[x509.GeneralName],
        usages: list[x509.ObjectIdentifier],
    ) -> tuple[Path, Path]:
        key = self._private_key(file)

        def make() -> bytes:
            issuer = self.certificate.subject
            builder = self._builder(_name(name), issuer, key.public_key(), LEAF_LIFE)
            for extension, critical in (
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (x509.SubjectAlternativeName(names), False),
                (_usage(signs_certificates=False), True),
                (x509.ExtendedKeyUsage(usages), False),
            ):
                builder = builder.add_extension(extension, critical=critical)
            return _pem(builder.sign(self._key, hashes.SHA256()))

        self._certificate(file, make)
        return self.folder / f"{file}.pem", self.folder / f"{file}.key"

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePublicKey,
        life: timedelta,
    ) -> x509.CertificateBuilder:
        now = datetime.fromtimestamp(self._clock.wall_ns() / 1e9, UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + life)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )

    def _certificate(self, file: str, make: Make) -> x509.Certificate:
        path = self.folder / f"{file}.pem"
        try:
            return x509.load_pem_x509_certificate(read_or_create(path, make))
        except ValueError as error:
            raise StartFailed(f"{path} does not hold a certificate in PEM") from error

    def _private_key(self, file: str) -> ec.EllipticCurvePrivateKey:
        path = self.folder / f"{file}.key"
        try:
            key = serialization.load_pem_private_key(read_or_create(path, _new_key), password=None)
        except (ValueError, TypeError) as error:
            raise StartFailed(f"{path} does not hold an unencrypted private key in PEM") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise StartFailed(f"{path} holds a key of another kind; remove it to get a new one")
        return key


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
