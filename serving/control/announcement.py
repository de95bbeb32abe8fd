"""A value that others wait for: handed out by long poll to whoever has an older one."""

import asyncio
import contextlib
from typing import Generic, Protocol, TypeVar


class Numbered(Protocol):
    """A value of an epoch, which grows with every change."""

    @property
    def epoch(self) -> int: ...


Value = TypeVar("Value", bound=Numbered)


class Announcement(Generic[Value]):
    """Holds the current value; `announce` replaces it, `after` waits for a newer one."""

    def __init__(self, value: Value) -> None:
        self.current = value
        self._changed = asyncio.Event()

    def announce(self, value: Value) -> None:
        self.current = value
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def after(self, epoch: int, *, wait_s: float) -> Value | None:
        """The value as soon as its epoch is above `epoch`, None when `wait_s` passed before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self.current.epoch <= epoch:
                    await self._changed.wait()
        return self.current if self.current.epoch > epoch else None
