"""Where a webhook may go: decided from the URL, then again from the addresses that its name has.

What is refused: other schemes than https (http by a setting), credentials, fragments and odd hosts in
the URL, numbers that only some resolvers take for addresses, and every address that is not public: loop-
back, link-local, private, shared, multicast, unspecified, reserved, and such an IPv4 address inside an
IPv6 one (mapped, 6to4, Teredo, NAT64). A setting may permit single networks or hosts.

The address that was checked is the one that is connected to: a name that changes its mind between
the check and the call gains nothing.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from serving.errors import ParameterInvalid
from serving.governance_settings import WebhookSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
)
_NUMBER: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
_TARGET: Final = re.compile(r"[!-~]*")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL that may be called. literal: its host, when that is an address already."""

    scheme: str
    host: str
    port: int
    target: str
    literal: Address | None

    @classmethod
    def of(cls, url: str, settings: WebhookSettings) -> Self:
        """Raises ParameterInvalid."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ParameterInvalid("the webhook's URL cannot be read") from error
        if parts.scheme not in _PORTS or (parts.scheme == "http" and not settings.plain_text):
            raise ParameterInvalid("a webhook's URL must be https")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise ParameterInvalid("a webhook's URL has no user, no password and no fragment")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if _TARGET.fullmatch(target) is None:
            raise ParameterInvalid("a webhook's URL holds printable ASCII only")
        host = (parts.hostname or "").rstrip(".")
        literal = _literal(host)
        if literal is None and not _is_name(host):
            raise ParameterInvalid("the host of a webhook's URL is neither a name nor an address")
        found = cls(parts.scheme, host, port or _PORTS[parts.scheme], target, literal)
        if literal is not None:
            found.permitted([literal], settings)
        return found

    def permitted(self, addresses: Sequence[Address], settings: WebhookSettings) -> Address:
        """The address to connect to. One bad address among several spoils them all.

        Raises ParameterInvalid.
        """
        if not addresses:
            raise ParameterInvalid("the webhook's host has no address")
        for address in addresses:
            if not is_public(address) and not self._is_allowed(address, settings):
                raise ParameterInvalid(
                    "the webhook's host is a loopback, private, link-local or reserved address; "
                    "webhooks.allow permits one"
                )
        return addresses[0]

    def _is_allowed(self, address: Address, settings: WebhookSettings) -> bool:
        inner = _inner(address)
        for permitted in settings.allow:
            try:
                network = ipaddress.ip_network(permitted, strict=False)
            except ValueError:
                if permitted == self.host:
                    return True
                continue
            if address in network or (inner is not None and inner in network):
                return True
        return False


def is_public(address: Address) -> bool:
    """Whether it is somewhere out in the world."""
    inner = _inner(address)
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast


def _inner(address: Address) -> Address | None:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or int(address) >> 32 == 0:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    # `2130706433`, `0x7f.1` and `127.1` are 127.0.0.1 to some resolvers: no name ends in a number.
    return (
        _NAME.fullmatch(host) is not None
        and _NUMBER.fullmatch(host.rsplit(".", maxsplit=1)[-1]) is None
    )
