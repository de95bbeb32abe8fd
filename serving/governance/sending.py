"""One delivery over the network: bounded in time and bytes, to an address that was checked.

Headers and signature are those of Standard Webhooks 1.0: `webhook-id`, `webhook-timestamp` (seconds),
`webhook-signature: v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`. The receiver compares
signatures, refuses old timestamps, and takes the same id once.

The name is looked up here, its addresses are judged, and the connection goes to the one that was:
TLS is still verified against the name. Redirects are answers like any other, and no success.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

import httpx

from serving.errors import ParameterInvalid
from serving.governance.addresses import Address, Destination
from serving.governance_settings import WebhookSettings

SUCCESS: Final = range(200, 300)
REDIRECTS: Final = range(300, 400)


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent. id: the same at every try; timestamp_s: of this one, wall time."""

    id: str
    timestamp_s: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """How a try ended, in a few words that hold nothing of the answer."""

    delivered: bool
    outcome: str


def signature(message: Message, secret: bytes) -> str:
    signed = f"{message.id}.{message.timestamp_s}.".encode() + message.body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


async def send(url: str, message: Message, *, secret: bytes, settings: WebhookSettings) -> Sent:
    """One try; never raises for what the other side does."""
    try:
        async with asyncio.timeout(settings.timeout_s):
            destination = Destination.of(url, settings)
            address = destination.permitted(await _addresses(destination), settings)
            return await _post(destination, address, message, secret=secret, settings=settings)
    except TimeoutError:
        return Sent(False, f"not answered within {settings.timeout_s:g} s")
    except ParameterInvalid as error:
        return Sent(False, f"refused: {error.message}"[:255])
    except (httpx.HTTPError, OSError, UnicodeError) as error:
        return Sent(False, f"failed: {type(error).__name__}")


async def _addresses(destination: Destination) -> list[Address]:
    if destination.literal is not None:
        return [destination.literal]
    found = await asyncio.get_running_loop().getaddrinfo(
        destination.host, destination.port, type=socket.SOCK_STREAM
    )
    return [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]


async def _post(
    destination: Destination,
    address: Address,
    message: Message,
    *,
    secret: bytes,
    settings: WebhookSettings,
) -> Sent:
    place = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - IPv6
    named = destination.host if destination.literal is None else place
    headers = {
        "Host": f"{named}:{destination.port}",
        "Content-Type": "application/json",
        "User-Agent": "serving-webhooks",
        "webhook-id": message.id,
        "webhook-timestamp": str(message.timestamp_s),
        "webhook-signature": signature(message, secret),
    }
    url = f"{destination.scheme}://{place}:{destination.port}{destination.target}"
    async with (
        httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=None) as client,  # noqa: S113 - the whole try is bounded
        client.stream(
            "POST",
            url,
            content=message.body,
            headers=headers,
            extensions={"sni_hostname": destination.host},
        ) as answer,
    ):
        read = 0
        async for piece in answer.aiter_raw():
            read += len(piece)
            if read > settings.max_answer_bytes:
                break  # The status was sent; what else they have to say is not needed.
    if answer.status_code in REDIRECTS:
        return Sent(False, f"redirect refused ({answer.status_code})")
    return Sent(answer.status_code in SUCCESS, f"answered {answer.status_code}")
