"""One replica from loading to leaving, the same on Ray and in a thread.

`start` verifies the release and loads the session from the very bytes that were verified, warms it up,
opens the frame listener, sends one row through the same queue that frames use, and only then takes a
lease: a replica that gateways can see has answered. `stop` gives the lease back before it stops
listening.

The release is verified again every `artifacts.verify_s`. A replica whose version must not run any more
says so to control, leaves as it would when stopped, and from then on fails its health check.
"""

import socket
from pathlib import Path
from typing import Final, Protocol

import structlog

from serving.access.keys import internal_secret
from serving.artifacts.bundles import Bundle
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.core.traffic import ReplicaEndpoint
from serving.engine_settings import InferenceSettings
from serving.errors import ArtifactInvalid, ReplicaLost
from serving.inference.approved import ApprovedArtifact, ReleaseWatch
from serving.inference.counters import ReplicaStatistics
from serving.inference.listener import ReplicaListener
from serving.inference.places import ChannelCertificates, Place, TlsPlace, UnixPlace
from serving.inference.plans import ReplicaOrder, socket_path
from serving.inference.registration import Phase, PhaseReport, Registration, Renewal
from serving.inference.running import Runner
from serving.telemetry.traces import BatchTracing

logger = structlog.get_logger()

SERVICE_NAME: Final = "serving-replica"
REFUSED_DRAIN_S: Final = 5.0


class Session(Runner, Protocol):
    """A runner that knows what it runs on."""

    providers: tuple[str, ...]


class Load(Protocol):
    """How a session comes about; `OnnxSession.load` in the product."""

    def __call__(
        self, version: ModelVersion, bundle: Bundle, *, settings: InferenceSettings
    ) -> Session: ...


class HostedReplica:
    """A replica of one model version: session, listener and lease."""

    def __init__(
        self,
        order: ReplicaOrder,
        *,
        replica: str,
        load: Load,
        clock: Clock,
        host: str = "127.0.0.1",
    ) -> None:
        """host: the address of this node, for gateways on others."""
        self.order = order
        self.replica = replica
        self._load = load
        self._clock = clock
        self._host = host
        self._address = ""
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
        self.refusal = ""
        """Why it must not run any more; empty while it may."""
        self._artifact = ApprovedArtifact(order, clock)
        self._watch = ReleaseWatch(
            self._artifact,
            period_s=self._settings.artifacts.verify_s,
            refused=self._refuse,
            damaged=self._damaged,
        )
        self._listener: ReplicaListener | None = None
        self._providers: tuple[str, ...] = ()

    def start(self) -> None:
        """Returns once the replica has answered a row and asks for its lease.

        Raises ArtifactInvalid, KeyStoreUnavailable, ProviderUnavailable, ModelFailed, ReplicaLost.
        """
        began_ns = self._clock.monotonic_ns()
        version, settings = self.order.version, self._settings
        self._tell("loading")
        session = self._session()
        self._providers = session.providers
        self._listener = ReplicaListener(
            session,
            replica=self.replica,
            place=self._place(),
            channel=settings.channel,
            run_timeout_s=settings.inference.run_timeout_s,
            clock=self._clock,
            tracing=self._tracing,
        )
        self._tell("warming")
        self._tracing.start()
        self._listener.warm_up()
        self._listener.start()
        self._address = self._listener.address
        self._listener.check()
        self._registration.start(self._renewal)
        self._watch.start()
        seconds = (self._clock.monotonic_ns() - began_ns) / 1e9
        logger.info("replica started", model=version.key, replica=self.replica, seconds=seconds)

    def check(self) -> None:
        """Raises ReplicaLost when the replica makes no progress, or must not run any more."""
        if self.refusal:
            raise ReplicaLost(self.refusal)
        if self._listener is not None:
            self._listener.check()

    def statistics(self) -> ReplicaStatistics:
        if self._listener is None:
            raise RuntimeError("statistics before start. This is a bug")
        return self._listener.statistics()

    def stop(self, *, drain_s: float) -> None:
        """Leaves: no lease, no new frames, every frame answered within `drain_s`. Safe to repeat."""
        self._watch.stop()
        # First, for it asks the listener for its figures.
        self._registration.stop()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop(drain_s=drain_s)
            self._tracing.close()
            logger.info("replica stopped", model=self.order.version.key, replica=self.replica)

    def _place(self) -> Place:
        channel = self._settings.channel
        if channel.listen == "unix":
            return UnixPlace(socket_path(self.order, self.replica))
        return TlsPlace(channel.host or self._host, ChannelCertificates(channel))

    def _session(self) -> Session:
        try:
            bundle = self._artifact.load()
            return self._load(self.order.version, bundle, settings=self._settings.inference)
        except ArtifactInvalid as error:
            self._tell("refused", reason=error.message)
            raise

    def _refuse(self, reason: str) -> None:
        logger.error("replica must not run", model=self.order.version.key, reason=reason)
        self.refusal = reason
        self._tell("refused", reason=reason)
        self._registration.stop()
        if self._listener is not None:
            self._listener.stop(drain_s=REFUSED_DRAIN_S)

    def _damaged(self, reason: str) -> None:
        logger.error("stored artifact is damaged", model=self.order.version.key, reason=reason)
        self._tell("refused", reason=reason, serving=True)

    def _tell(self, phase: Phase, *, reason: str = "", serving: bool = False) -> None:
        version = self.order.version
        report = PhaseReport(version.model, version.version, phase, reason, serving)
        self._registration.report(report)

    def _renewal(self) -> Renewal:
        version = self.order.version
        endpoint = ReplicaEndpoint(
            replica=self.replica,
            model=version.model,
            version=version.version,
            address=self._address,
            node=socket.gethostname(),
        )
        return Renewal(endpoint, self.statistics(), self._providers)
