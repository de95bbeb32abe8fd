"""Rollbacks that gateways are told of before the registry is: a file, laid over what is desired.

A gate that breaks must not wait for a database. The rollback is kept here first, synced to disk, and
from then on whatever is desired of the model leaves the candidate out; then the registry, the audit
trail and webhooks follow in one transaction, now or when the database is back, and the entry goes. A
control process that is killed anywhere between finds the file and goes on.

`Overlay` fits `control.desired.DesiredSource` over another source.
"""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from serving.control.desired import Desired, DesiredSource
from serving.core.models import VersionName
from serving.core.traffic import TrafficPolicy
from serving.governance.rollouts import Cause

logger = structlog.get_logger()


class Retreat(msgspec.Struct, frozen=True, kw_only=True):
    """One rollback. stable: what answers instead. by: who wants it, empty for the product itself."""

    rollout: str
    model: str
    candidate: str
    stable: str
    turn: Literal["break", "roll_back"]
    cause: Cause
    at_ns: int
    by: str = ""


class Overlay:
    """The source below, without what was rolled back. Owned by one event loop."""

    def __init__(self, source: DesiredSource, path: Path) -> None:
        self._source = source
        self._path = path
        self._entries = {each.rollout: each for each in _read(path)}
        self._changed = asyncio.Event()

    @property
    def entries(self) -> tuple[Retreat, ...]:
        return tuple(self._entries.values())

    @property
    def current(self) -> Desired | None:
        desired = self._source.current
        if desired is None or not self._entries:
            return desired
        policies = tuple(self._without(policy, desired) for policy in desired.policies)
        return replace(desired, policies=policies)

    @property
    def trouble(self) -> str:
        return self._source.trouble

    async def changed(self) -> None:
        """Returns when the source or an entry is another."""
        waits = [
            asyncio.ensure_future(each) for each in (self._source.changed(), self._changed.wait())
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    def put(self, retreat: Retreat) -> None:
        """From now on; kept on disk where that is possible."""
        self._entries[retreat.rollout] = retreat
        self._note()

    def drop(self, rollout: str) -> None:
        """The registry knows."""
        if self._entries.pop(rollout, None) is not None:
            self._note()

    # -- inside ----------------------------------------------------------------------------------

    def _without(self, policy: TrafficPolicy, desired: Desired) -> TrafficPolicy:
        for each in self._entries.values():
            if each.model != policy.model:
                continue
            stable = policy.stable
            if stable == each.candidate and f"{each.model}@{each.stable}" not in desired.refusals:
                stable = VersionName(each.stable)
            policy = replace(
                policy,
                stable=stable,
                arms=tuple(arm for arm in policy.arms if arm.version != each.candidate),
                shadows=tuple(each for each in policy.shadows if each.version != stable),
            )
        return policy

    def _note(self) -> None:
        try:
            _write(self._path, self.entries)
        except OSError as error:
            # Gateways are told all the same; only a kill before the registry knows would lose it.
            logger.warning("a rollback cannot be kept", file=str(self._path), error=str(error))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _read(path: Path) -> tuple[Retreat, ...]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Retreat, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError) as error:
        logger.warning("rollbacks cannot be read", file=str(path), error=str(error))
        return ()


def _write(path: Path, entries: tuple[Retreat, ...]) -> None:
    if not entries:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(entries))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)  # noqa: PTH105 - one call, atomic on POSIX
