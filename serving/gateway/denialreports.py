"""Tells the control plane which credentials and actions were refused here, for the audit trail.

Summed up by `access.tallies`, some seconds late. What could not be told is kept and told later, within
the tally's bound; a worker that dies takes with it what it had not told yet, which its counters and
its log still show.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import httpx
import msgspec
import structlog

from serving.access.ownports import trust_in, url_of
from serving.access.tallies import Tally
from serving.tls_settings import PortSettings

logger = structlog.get_logger()

PERIOD_S: Final = 5.0
PATH: Final = "/internal/access/denials"
_TIMEOUT_S: Final = 5.0


class DenialReports:
    """The teller of one worker."""

    def __init__(
        self,
        tally: Tally,
        *,
        port: PortSettings,
        secret: str,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """port: of the control plane."""
        self._tally = tally
        self._port = port
        self._headers = {"Authorization": f"Bearer {secret}"}
        self._pause = pause

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._pause(PERIOD_S)
            await self.tell()

    async def tell(self) -> None:
        """What there is now; called once more when the worker stops."""
        denials = self._tally.take()
        if not denials:
            return
        try:
            async with httpx.AsyncClient(
                base_url=url_of(self._port),
                headers=self._headers,
                trust_env=False,
                verify=trust_in(self._port),
                timeout=_TIMEOUT_S,
            ) as client:
                answer = await client.post(PATH, content=msgspec.json.encode(denials))
                answer.raise_for_status()
        except (httpx.HTTPError, OSError) as error:
            self._tally.add(denials)
            logger.debug("refusals were not told", error=repr(error))
        except asyncio.CancelledError:
            self._tally.add(denials)
            raise
