"""Tells the control plane now and then when API keys were last used.

Rare and lossy on purpose: it is for finding keys that nobody needs. What could not be told is dropped;
a key in use is used again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import httpx
import structlog

from serving.access.ownports import trust_in, url_of
from serving.tls_settings import PortSettings

logger = structlog.get_logger()

PERIOD_S: Final = 30.0


async def report_uses(
    take: Callable[[], Mapping[str, int]],
    *,
    port: PortSettings,
    secret: str,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Until cancelled. take: keys used since the last call. port: of the control plane."""
    headers = {"Authorization": f"Bearer {secret}"}
    while True:
        await pause(PERIOD_S)
        uses = take()
        if not uses:
            continue
        try:
            async with httpx.AsyncClient(
                base_url=url_of(port), headers=headers, trust_env=False, verify=trust_in(port)
            ) as client:
                answer = await client.post("/internal/access/uses", json=dict(uses))
                answer.raise_for_status()
        except (httpx.HTTPError, OSError) as error:
            logger.debug("last uses of keys were not told", error=repr(error))
