"""Certificates for tests: an authority, and leaves for this machine that it signed."""

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

FIRST_DAY: Final = datetime(2020, 1, 1, tzinfo=UTC)
LAST_DAY: Final = datetime(2100, 1, 1, tzinfo=UTC)


class Authority:
    """Writes PEM files into a folder; the names of the files say whose they are."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        own = self._build(self._name, self._key, authority=True)
        self.certificate = own.public_bytes(Encoding.PEM)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.certificate)

    def issue(
        self, name: str, *, common_name: str | None = None, last_day: datetime = LAST_DAY
    ) -> tuple[Path, Path]:
        """The files of a certificate for 127.0.0.1 and of its key; new ones take their place."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, private = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        leaf = self._build(_name(common_name or name), key, last_day=last_day)
        certificate.write_bytes(leaf.public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, private

    def _build(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        authority: bool = False,
        last_day: datetime = LAST_DAY,
    ) -> x509.Certificate:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(FIRST_DAY)
            .not_valid_after(last_day)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self._key, SHA256())
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
