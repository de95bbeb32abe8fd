"""Follows the control plane's snapshot and keeps the last one on disk.

A long poll asks for anything newer than the epoch in force; what comes is applied, then written
atomically beside the worker's log. A worker that starts while the control plane is away begins with
the copy on disk. Nothing here can stop the request path: every failure is a pause and another try.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx
import msgspec
import structlog

from serving.core.traffic import Snapshot

logger = structlog.get_logger()

WAIT_S: Final = 20
_PAUSE_S: Final = 0.5


class SnapshotFollower:
    """Keeps `apply` informed. `run` is one task for the life of the worker."""

    def __init__(
        self,
        *,
        url: str,
        secret: str,
        copy: Path,
        apply: Callable[[Snapshot], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """url: of the control port. copy: where the last snapshot is kept."""
        self.epoch = 0
        self._url = url
        self._headers = {"Authorization": f"Bearer {secret}"}
        self._copy = copy
        self._apply = apply
        self._pause = pause

    def restore(self) -> None:
        """Applies the copy on disk, if there is a readable one."""
        try:
            self._take(msgspec.json.decode(self._copy.read_bytes(), type=Snapshot))
        except FileNotFoundError:
            return
        except (msgspec.MsgspecError, OSError) as error:
            logger.warning("the snapshot on disk is not readable", error=str(error))

    async def run(self) -> None:
        # No proxy of the environment stands between our own processes, nor learns their secret.
        async with httpx.AsyncClient(
            base_url=self._url, headers=self._headers, trust_env=False
        ) as client:
            while True:
                try:
                    await self._poll(client)
                except (httpx.HTTPError, msgspec.MsgspecError, OSError) as error:
                    logger.debug("no snapshot from the control plane", error=repr(error))
                    await self._pause(_PAUSE_S)

    async def _poll(self, client: httpx.AsyncClient) -> None:
        response = await client.get(
            "/internal/snapshot",
            params={"after": self.epoch, "wait_s": WAIT_S},
            timeout=WAIT_S + 10,
        )
        if response.status_code == HTTPStatus.NO_CONTENT:
            return
        response.raise_for_status()
        self._take(msgspec.json.decode(response.content, type=Snapshot))
        await asyncio.to_thread(self._keep, response.content)

    def _take(self, snapshot: Snapshot) -> None:
        self._apply(snapshot)
        self.epoch = snapshot.epoch

    def _keep(self, content: bytes) -> None:
        fresh = self._copy.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.chmod(0o600)
        fresh.replace(self._copy)
