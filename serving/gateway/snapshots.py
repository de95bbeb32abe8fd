"""Follows what the control plane publishes and keeps the last of it on disk.

A long poll asks for anything newer than the epoch in force; what comes is applied, then written
atomically beside the worker's log. A worker that starts while the control plane is away begins with
the copy on disk. Nothing here can stop the request path: every failure is a pause and another try.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import httpx
import msgspec
import structlog

from serving.access.ownports import trust_in, url_of
from serving.tls_settings import PortSettings

logger = structlog.get_logger()

WAIT_S: Final = 20
_PAUSE_S: Final = 0.5


class Numbered(Protocol):
    """What is published: a value of an epoch, which grows with every change."""

    @property
    def epoch(self) -> int: ...


Published = TypeVar("Published", bound=Numbered)


class Follower(Generic[Published]):
    """Keeps `apply` informed. `run` is one task for the life of the worker."""

    def __init__(
        self,
        kind: type[Published],
        *,
        port: PortSettings,
        path: str,
        secret: str,
        copy: Path,
        apply: Callable[[Published], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """port: of the control plane. path: where it publishes the `kind`. copy: where the last one is
        kept."""
        self.epoch = 0
        self._kind = kind
        self._port = port
        self._path = path
        self._headers = {"Authorization": f"Bearer {secret}"}
        self._copy = copy
        self._apply = apply
        self._pause = pause

    def restore(self) -> None:
        """Applies the copy on disk, if there is a readable one."""
        try:
            self._take(msgspec.json.decode(self._copy.read_bytes(), type=self._kind))
        except FileNotFoundError:
            return
        except (msgspec.MsgspecError, OSError) as error:
            logger.warning("a copy on disk is not readable", file=str(self._copy), error=str(error))

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except (httpx.HTTPError, msgspec.MsgspecError, OSError) as error:
                logger.debug("no news from the control plane", error=repr(error))
                await self._pause(_PAUSE_S)

    async def _follow(self) -> None:
        """Until something fails; then the certificate may be another one."""
        # No proxy of the environment stands between our own processes, nor learns their secret.
        async with httpx.AsyncClient(
            base_url=url_of(self._port),
            headers=self._headers,
            trust_env=False,
            verify=trust_in(self._port),
        ) as client:
            while True:
                await self._poll(client)

    async def _poll(self, client: httpx.AsyncClient) -> None:
        response = await client.get(
            self._path,
            params={"after": self.epoch, "wait_s": WAIT_S},
            timeout=WAIT_S + 10,
        )
        if response.status_code == HTTPStatus.NO_CONTENT:
            return
        response.raise_for_status()
        self._take(msgspec.json.decode(response.content, type=self._kind))
        await asyncio.to_thread(self._keep, response.content)

    def _take(self, published: Published) -> None:
        self._apply(published)
        self.epoch = published.epoch

    def _keep(self, content: bytes) -> None:
        fresh = self._copy.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.chmod(0o600)
        fresh.replace(self._copy)
