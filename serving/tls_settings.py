"""Settings of a port: where it listens, the TLS files it has, and whom a client certificate names.

A port that others can reach without TLS would show them tokens and rows, so it is refused, unless it
is said that somebody else encrypts in front of it.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from serving.setting_types import Group

File = Annotated[Path, AfterValidator(Path.absolute)]
"""Made absolute at once: replicas read it too, and they run in another folder."""


class TlsFiles(Group):
    """What a port that can speak TLS is given. All None: plain text."""

    certificate: File | None = None
    """PEM file of the server's certificate and its chain; a replaced file is taken up in a second."""
    key: File | None = None
    """PEM file of the certificate's private key, unencrypted."""
    client_ca: File | None = None
    """PEM file of the authorities whose client certificates are accepted."""
    client_certificates: Literal["optional", "required"] = "required"
    """With client_ca: whether a client may come without one."""

    @property
    def requires_clients(self) -> bool:
        """Whether a client without a certificate is turned away."""
        return self.client_ca is not None and self.client_certificates == "required"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs certificate and key")
        return self


class PortSettings(TlsFiles):
    """What all ports have in common."""

    host: str = "127.0.0.1"
    """Address to listen on; off loopback give it a certificate."""
    port: int = 0
    plain_text: bool = False
    """Listen off loopback without a certificate: a proxy in front of this port encrypts, and nobody
    else can reach it."""

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if self.certificate is None and not self.plain_text and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached from other machines, who would see credentials and "
                "rows pass: give it certificate and key (`serving tls init` makes some), or say "
                "plain_text: true if a proxy in front of it encrypts"
            )
        return self


Name = Annotated[str, Field(min_length=1, max_length=255)]
RoleName = Literal[
    "caller", "developer", "approver", "operator", "reviewer", "auditor", "admin"
]  # fmt: skip


class CertificateRule(Group):
    """Whom client certificates name that one of `client_ca` signed."""

    subject: Name
    """Pattern for the common name, such as `batch-*`; the caller's subject is the whole name."""
    roles: tuple[RoleName, ...] = ()
    """What they may do."""
    models: tuple[Name, ...] | None = None
    """Patterns of the models that they are limited to; None for no limit."""
    tenant: Annotated[str, Field(max_length=255)] = ""
    """The tenant that they belong to."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
