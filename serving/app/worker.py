"""One gateway worker: the objects of the data plane, built, wired, started and stopped in order.

Imports no Ray and no ONNX Runtime. Start: log recovered, last snapshot restored, introspection
socket, inference ports, snapshot followed. Stop: no new connection, running requests finish, the
log is sealed. The event loop is uvloop; the collector of cycles is frozen after start, because the
request path makes none.
"""

import asyncio
import contextlib
import gc
import itertools
import platform
from collections.abc import Coroutine
from typing import Final

import msgspec
import structlog
import uvloop

from serving.access.apikeys import read_pepper
from serving.access.issuers import Issuers
from serving.access.keys import internal_secret
from serving.access.live import LiveAccess
from serving.access.permissions import INTROSPECTION
from serving.access.state import AccessState
from serving.access.tokens import Authenticator
from serving.app.child import run_child, stop_event
from serving.app.descriptors import within_descriptors
from serving.app.directory import DataDirectory
from serving.app.worker_metrics import read_families
from serving.app.worker_quotas import WorkerQuotas
from serving.app.worker_recording import WorkerRecording
from serving.core.clock import SystemClock
from serving.core.models import ModelVersion
from serving.core.traffic import Snapshot
from serving.edge.grpc.server import GrpcServer
from serving.edge.http1.server import HttpServer
from serving.edge.problems import STATUS
from serving.edge.rest import RestApplication
from serving.edge.routes import Reply, Request, Route, Router
from serving.edge.tls import tls_of
from serving.gateway.batching import VersionQueue
from serving.gateway.denialreports import DenialReports
from serving.gateway.ensembles import EnsembleQueue
from serving.gateway.keyuses import report_uses
from serving.gateway.memory import used_share
from serving.gateway.pipeline import Pipeline
from serving.gateway.replicas import ReplicaLinks
from serving.gateway.reporting import GatewayReporter, Tally
from serving.gateway.snapshots import Follower
from serving.gateway.telemetry import CallTelemetry
from serving.inference.channel import Channel
from serving.inference.places import channel_certificates
from serving.predictionlog.writing.writer import PredictionLogWriter
from serving.settings import Settings
from serving.telemetry.families import GatewayMetrics
from serving.telemetry.traces import RequestTracing
from serving.trust.installation import installation_key

logger = structlog.get_logger()

DRAIN_S: Final = 20.0
SWEEP_S: Final = 0.02
MEMORY_SWEEPS: Final = 50
"""From one look at the machine's memory to the next."""


class Worker:
    """The gateway worker number `index`. Built, then `start`ed, then `aclose`d."""

    def __init__(self, settings: Settings, index: int) -> None:
        self.settings = settings
        self.clock = clock = SystemClock()
        self.metrics = GatewayMetrics()
        directory = self._directory = DataDirectory.at(settings.data_dir)
        self.issuers = Issuers.open(directory.keys, settings.access, clock)
        self.access = LiveAccess(
            pepper=read_pepper(directory.keys), tenants=settings.tenants, clock=clock
        )
        self.authenticator = Authenticator(
            self.issuers.trusted,
            settings.access,
            api_keys=self.access,
            adopt=self.access.adopt,
            refused=self.access.denials.refuse_credential,
        )
        self.tracing = RequestTracing(settings.telemetry, clock, service_name="serving-gateway")
        self.log = PredictionLogWriter(
            directory.prediction_log(index),
            settings=settings.log,
            clock=clock,
            signer=installation_key(directory.keys),
        )
        self.recording = WorkerRecording(
            settings,
            directory,
            index=index,
            log=self.log,
            signer=installation_key(directory.keys),
            clock=clock,
        )
        self.quotas = WorkerQuotas.open(settings, directory, index=index, clock=clock)
        self._index = index
        certificates = channel_certificates(settings.channel)
        self._links = ReplicaLinks(
            lambda endpoint, version, changed: Channel(
                endpoint,
                version,
                settings=settings.channel,
                clock=clock,
                changed=changed,
                certificates=certificates,
            )
        )
        self.tally = Tally(self.metrics, worker=f"{platform.node()}/{index}", clock=clock)
        self._tasks: list[asyncio.Task[None]] = []

    # Built on the running loop: queues schedule on it.
    async def start(self) -> None:
        settings, metrics = self.settings, self.metrics
        self.tracing.start()
        await self.log.start()
        await self.recording.start()
        self.pipeline = self._make_pipeline()
        self.rest = RestApplication(
            self.pipeline,
            authenticator=self.authenticator,
            readiness=self,
            metrics=metrics,
            limits=settings.http,
            now_s=self.now_s,
            refused=lambda error: metrics.refused(error.code),
        )
        self.http = HttpServer(
            self.rest,
            limits=within_descriptors(settings.http),
            refused=lambda error: metrics.refused(error.code),
        )
        self.grpc = GrpcServer.of(
            self.pipeline,
            authenticator=self.authenticator,
            readiness=self,
            metrics=metrics,
            now_s=self.now_s,
            settings=settings.grpc,
        )
        read_families(self)
        following = self._follow()
        self._introspection = HttpServer(
            Router(self._routes(), permissions=INTROSPECTION), limits=settings.http
        )
        await self._introspection.listen_unix(self._directory.gateway_socket(self._index))
        await self.http.listen(
            host=settings.http.host,
            port=settings.http.port,
            reuse_port=True,
            tls=tls_of(settings.http, port="http"),
        )
        await self.grpc.listen()
        self._tasks = [
            asyncio.create_task(each)
            for each in (
                *following,
                self._sweep(),
                self.issuers.run(),
                self.recording.run(),
            )
        ]

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set. Raises what ended a task that should never end: without
        deadlines or snapshots a worker that goes on is worse than one that starts again."""
        asked = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait({asked, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        for task in done:
            task.result()

    async def aclose(self) -> None:
        """Drains: nothing new, what runs is answered, the log is sealed."""
        await asyncio.gather(self.http.aclose(drain_s=DRAIN_S), self.grpc.aclose(drain_s=DRAIN_S))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._denials.tell()
        await self._links.aclose()
        await self.recording.aclose()
        await self._introspection.aclose()
        self.tracing.close()

    def apply(self, snapshot: Snapshot) -> None:
        """Routes by `snapshot` from the next request on; called on the loop."""
        self.tally.apply(snapshot.policies)
        self.pipeline.apply(snapshot)
        self.rest.versions.apply(snapshot)
        self.grpc.versions.apply(snapshot)
        self.access.set_tenants(self.settings.tenants | dict(snapshot.tenants))
        self._links.apply(snapshot, self.pipeline.table.queues)
        self.metrics.retain(self.pipeline.versions)
        logger.info("snapshot applied", epoch=snapshot.epoch, endpoints=len(snapshot.endpoints))

    def apply_access(self, state: AccessState) -> None:
        """Judges by `state` from the next request on; called on the loop."""
        self.access.apply(state, self.authenticator)
        logger.info("access state applied", epoch=state.epoch)

    def now_s(self) -> float:
        return self.clock.wall_ns() / 1e9

    def not_ready(self) -> str | None:
        """Why predictions cannot be served right now, or None."""
        if self.log.refusal is not None:
            return self.log.refusal.message
        table = self.pipeline.table
        if not table.epoch:
            return "no snapshot has come from the control plane yet"
        if not self.issuers.asked:
            return "waiting for the first answer of an issuer of tokens"
        waiting = table.unready
        return f"waiting for {', '.join(waiting)}" if waiting else None

    # -- inside ----------------------------------------------------------------------------------

    def _make_pipeline(self) -> Pipeline:
        return Pipeline(
            self.settings,
            authenticator=self.authenticator,
            recorder=self.recording.recorder,
            telemetry=CallTelemetry(
                self.metrics,
                self.tracing,
                status_of=lambda error: STATUS[error.code],
                now_s=self.now_s,
            ),
            clock=self.clock,
            make_queue=self._make_queue,
            quotas=self.quotas.quotas,
        )

    def _follow(self) -> list[Coroutine[None, None, None]]:
        """What keeps up with the control plane, begun with what was known before."""
        control, directory = self.settings.control, self._directory
        secret = internal_secret(directory.keys)
        # Who may come in is known before there is anything to come for.
        access = Follower(
            AccessState,
            port=control,
            path="/internal/access",
            secret=secret,
            copy=directory.gateway_access(self._index),
            apply=self.apply_access,
        )
        snapshot = Follower(
            Snapshot,
            port=control,
            path="/internal/snapshot",
            secret=secret,
            copy=directory.gateway_snapshot(self._index),
            apply=self.apply,
        )
        access.restore()
        snapshot.restore()
        uses = report_uses(self.access.take_uses, port=control, secret=secret)
        self._denials = DenialReports(self.access.denials.tally, port=control, secret=secret)
        reporter = GatewayReporter(
            self.tally, epoch=lambda: self.pipeline.table.epoch, port=control, secret=secret
        )
        sharing = self.quotas.sharing
        return [
            access.run(),
            snapshot.run(),
            uses,
            self._denials.run(),
            reporter.run(),
            *([sharing.run()] if sharing else []),
        ]

    def _make_queue(self, version: ModelVersion, pipeline: Pipeline) -> VersionQueue:
        if version.stages:
            return EnsembleQueue(
                version,
                settings=self.settings.channel,
                admission=self.settings.admission,
                clock=self.clock,
                outcomes=pipeline,
                find=pipeline.queue,
            )
        return VersionQueue(
            version,
            settings=self.settings.channel,
            admission=self.settings.admission,
            clock=self.clock,
            outcomes=pipeline,
        )

    async def _sweep(self) -> None:
        for number in itertools.count():
            await asyncio.sleep(SWEEP_S)
            self.pipeline.sweep()
            if number % MEMORY_SWEEPS == 0:
                self.pipeline.admission.press(used_share())
                # What drained meanwhile leaves no series behind.
                self.metrics.retain(self.pipeline.versions)

    def _routes(self) -> list[Route]:
        return [
            Route("GET", "/metrics", self._metrics),
            Route("GET", "/status", self._status),
        ]

    def _metrics(self, request: Request) -> Reply:
        body, content_type = self.metrics.families.render(request.headers.get(b"accept", b""))
        return Reply(200, body, content_type)

    def _status(self, _request: Request) -> Reply:
        table = self.pipeline.table
        facts = {
            "epoch": table.epoch,
            "access_epoch": self.access.epoch,
            "ready": self.not_ready() is None,
            "not_ready": self.not_ready(),
            "degraded": list(self.issuers.troubles()),
            "in_flight": self.pipeline.admission.in_flight,
            "connections": self.http.connections,
            "grpc_connections": self.grpc.connections,
            "queues": {
                key: {
                    "queued_rows": queue.queued_rows,
                    "replicas": sum(link.ready for link in queue.links),
                }
                for key, queue in table.queues.items()
            },
            "issuers": self.issuers.status(),
            "log": msgspec.to_builtins(self.log.statistics()),
        }
        return Reply(200, msgspec.json.encode(facts))


async def serve(settings: Settings, index: int) -> None:
    """Runs a worker until SIGTERM."""
    stopping = stop_event()
    worker = Worker(settings, index)
    await worker.start()
    gc.collect()
    gc.freeze()
    # Only what a surprise leaves behind: the request path makes no cycles.
    gc.set_threshold(50_000, 50, 50)
    logger.info("worker serves", port=settings.http.port)
    try:
        await worker.run(stopping)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S + 5):
                await worker.aclose()


def main(settings: Settings, index: int) -> None:
    uvloop.run(serve(settings, index))


if __name__ == "__main__":
    run_child("gateway-{index}", main)
