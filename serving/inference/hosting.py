"""One replica from loading to leaving, the same on Ray and in a thread.

`start` loads the session (which verifies the digest of the bytes it loads), warms it up, opens the
frame listener, sends one row through the same queue that frames use, and only then takes a lease: a
replica that gateways can see has answered. `stop` gives the lease back before it stops listening.
"""

import socket
from pathlib import Path
from typing import Final, Protocol

import structlog

from serving.access.keys import internal_secret
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.core.traffic import ReplicaEndpoint
from serving.inference.counters import ReplicaStatistics
from serving.inference.listener import ReplicaListener
from serving.inference.plans import ReplicaOrder, socket_path
from serving.inference.registration import Phase, PhaseReport, Registration, Renewal
from serving.inference.running import Runner
from serving.settings import InferenceSettings
from serving.telemetry.traces import BatchTracing

logger = structlog.get_logger()

SERVICE_NAME: Final = "serving-replica"


class Session(Runner, Protocol):
    """A runner that knows what it runs on."""

    providers: tuple[str, ...]


class Load(Protocol):
    """How a session comes about; `OnnxSession.load` in the product."""

    def __call__(
        self, version: ModelVersion, artifact: Path, *, settings: InferenceSettings
    ) -> Session: ...


class HostedReplica:
    """A replica of one model version: session, listener and lease."""

    def __init__(self, order: ReplicaOrder, *, replica: str, load: Load, clock: Clock) -> None:
        self.order = order
        self.replica = replica
        self._load = load
        self._clock = clock
        self._settings = order.effective_settings()
        self._registration = Registration(
            replica,
            control=self._settings.control,
            secret=internal_secret(Path(order.keys)),
        )
        self._tracing = BatchTracing(
            self._settings.telemetry,
            service_name=SERVICE_NAME,
            model=order.version.model,
            version=order.version.version,
        )
        self._listener: ReplicaListener | None = None
        self._providers: tuple[str, ...] = ()

    def start(self) -> None:
        """Returns once the replica has answered a row and asks for its lease.

        Raises ArtifactInvalid, ProviderUnavailable, ModelFailed, ReplicaLost.
        """
        began_ns = self._clock.monotonic_ns()
        version, settings = self.order.version, self._settings
        self._tell("loading")
        session = self._load(version, Path(self.order.artifact), settings=settings.inference)
        self._providers = session.providers
        self._listener = ReplicaListener(
            session,
            replica=self.replica,
            path=socket_path(self.order, self.replica),
            channel=settings.channel,
            run_timeout_s=settings.inference.run_timeout_s,
            clock=self._clock,
            tracing=self._tracing,
        )
        self._tell("warming")
        self._tracing.start()
        self._listener.warm_up()
        self._listener.start()
        self._listener.check()
        self._registration.start(self._renewal)
        seconds = (self._clock.monotonic_ns() - began_ns) / 1e9
        logger.info("replica started", model=version.key, replica=self.replica, seconds=seconds)

    def check(self) -> None:
        """Raises ReplicaLost when the replica makes no progress."""
        if self._listener is not None:
            self._listener.check()

    def statistics(self) -> ReplicaStatistics:
        if self._listener is None:
            raise RuntimeError("statistics before start. This is a bug")
        return self._listener.statistics()

    def stop(self, *, drain_s: float) -> None:
        """Leaves: no lease, no new frames, every frame answered within `drain_s`. Safe to repeat."""
        listener, self._listener = self._listener, None
        self._registration.stop()
        if listener is not None:
            listener.stop(drain_s=drain_s)
            self._tracing.close()
            logger.info("replica stopped", model=self.order.version.key, replica=self.replica)

    def _tell(self, phase: Phase) -> None:
        version = self.order.version
        self._registration.report(PhaseReport(version.model, version.version, phase))

    def _renewal(self) -> Renewal:
        version = self.order.version
        endpoint = ReplicaEndpoint(
            replica=self.replica,
            model=version.model,
            version=version.version,
            address=f"unix:{socket_path(self.order, self.replica)}",
            node=socket.gethostname(),
        )
        return Renewal(endpoint, self.statistics(), self._providers)
