"""Asks our own processes how they are, over the sockets that only this user can open.

A process that does not answer within a second has nothing to say; that is never an error here.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar

import httpx
import msgspec

from serving.access.ownports import trust_in, url_of
from serving.tls_settings import PortSettings

TIMEOUT_S: Final = 1.0

Message = TypeVar("Message")


class Introspection:
    """Keeps one connection per process. Close it with `aclose`."""

    def __init__(self, sockets: Mapping[str, Path]) -> None:
        """sockets: process name to its introspection socket, which need not exist yet."""
        self._clients = {
            name: httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(path), verify=False),
                base_url="http://localhost",
                timeout=TIMEOUT_S,
            )
            for name, path in sockets.items()
        }

    async def get(self, process: str, path: str, *, accept: str = "*/*") -> bytes:
        """The body of a 200, else nothing."""
        try:
            answer = await self._clients[process].get(path, headers={"Accept": accept})
        except httpx.HTTPError:
            return b""
        return answer.content if answer.status_code == HTTPStatus.OK else b""

    async def status(self, process: str, kind: type[Message]) -> Message | None:
        """What `/status` says, as a `kind`."""
        content = await self.get(process, "/status")
        try:
            return msgspec.json.decode(content, type=kind) if content else None
        except msgspec.DecodeError:
            return None

    async def get_all(self, path: str, *, accept: str) -> dict[str, str]:
        """The bodies of all processes, asked at once, by name."""
        names = list(self._clients)
        bodies = await asyncio.gather(*(self.get(name, path, accept=accept) for name in names))
        return {name: body.decode() for name, body in zip(names, bodies, strict=True)}

    async def aclose(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))


async def answers_ready(port: PortSettings) -> bool:
    """Whether the inference port says that it is ready."""
    try:
        async with httpx.AsyncClient(
            verify=trust_in(port),
            trust_env=False,  # A proxy of the environment is for other machines.
            timeout=TIMEOUT_S,
        ) as client:
            answer = await client.get(f"{url_of(port)}/v2/health/ready")
    except (httpx.HTTPError, OSError):
        return False
    return answer.status_code == HTTPStatus.OK
