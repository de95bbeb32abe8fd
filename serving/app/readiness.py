"""Is it ready yet, how far is each model version, and has it failed for good?

The supervisor asks control and every gateway worker over their sockets and the inference port as a
caller would. `Watch.look` tells what changed since the last look.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from serving.access.ownports import url_of
from serving.app.introspection import Introspection, answers_ready
from serving.app.processes import CONTROL
from serving.app.progress import Event, ModelLeftOut, VersionChanged
from serving.control.status import ControlStatus, VersionStatus
from serving.core.clock import Clock
from serving.errors import StartFailed
from serving.settings import Settings

SETTLED: Final = frozenset({"ready", "refused", "leaving"})
"""States of versions that nobody needs to wait for: what is refused stays so."""


class GatewayStatus(msgspec.Struct, frozen=True):
    """The part of a worker's status that counts here."""

    ready: bool
    not_ready: str | None = None


class Watch:
    """Looks at a starting instance. `control` is what control said last."""

    def __init__(
        self, settings: Settings, sockets: Introspection, *, gateways: Sequence[str], clock: Clock
    ) -> None:
        self.control: ControlStatus | None = None
        self.waiting_for = "the control process to answer"
        self._port = settings.http
        self._sockets = sockets
        self._gateways = gateways
        self._clock = clock
        self._began_ns = clock.monotonic_ns()
        self._states: dict[tuple[str, str], str] = {}
        self._left_out: set[str] = set()

    @property
    def seconds(self) -> float:
        return (self._clock.monotonic_ns() - self._began_ns) / 1e9

    async def look(self) -> list[Event]:
        """What changed. Raises StartFailed when a version has failed."""
        status = await self._sockets.status(CONTROL, ControlStatus)
        if status is None:
            return []
        self.control = status
        events = self._left_out_events(status)
        for version in status.versions:
            place = (version.model, version.version)
            if self._states.get(place, "waiting") != version.state:
                self._states[place] = version.state
                events.append(self._changed(version))
        return events

    def failure(self) -> StartFailed | None:
        """Why waiting longer makes no sense, if it does not."""
        for version in self.control.versions if self.control else ():
            if version.state == "failed":
                return StartFailed(f"{version.model}@{version.version}: {version.message}")
        return None

    async def ready(self) -> bool:
        """Whether every version is served by every worker, and a caller is told so."""
        if self.control is None:
            return False
        if not self.control.known:
            self.waiting_for = self.control.trouble or "the registry to be read"
            return False
        pending = [v for v in self.control.versions if v.state not in SETTLED]
        if pending:
            self.waiting_for = ", ".join(f"{v.model}@{v.version} ({v.state})" for v in pending)
            return False
        for name in self._gateways:
            status = await self._sockets.status(name, GatewayStatus)
            if status is None or not status.ready:
                reason = status.not_ready if status else "no answer"
                self.waiting_for = f"{name}: {reason}"
                return False
        self.waiting_for = f"{url_of(self._port)} to answer"
        # Where clients need certificates we need not have one; the workers' own word counts then.
        return self._port.requires_clients or await answers_ready(self._port)

    def _changed(self, version: VersionStatus) -> VersionChanged:
        return VersionChanged(
            model=version.model,
            version=version.version,
            role=version.role,
            state=version.state,
            seconds=round(self.seconds, 2),
            message=version.message,
        )

    def _left_out_events(self, status: ControlStatus) -> list[Event]:
        fresh = [each for each in status.left_out if each.model not in self._left_out]
        self._left_out |= {each.model for each in fresh}
        return [ModelLeftOut(each.model, each.reason) for each in fresh]
