"""A gateway worker whose models are exchanged a shelf at a time: it serves thousands, one by one."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from serving.core.clock import SystemClock
from serving.core.traffic import ReplicaEndpoint, TrafficPolicy
from serving.errors import ServingError
from serving.inference.hosting import Load
from serving.inference.listener import ReplicaListener
from serving.inference.places import UnixPlace
from serving.inference.session import OnnxSession
from serving.registry.folder import CatalogueEntry
from tests.places import InProcess, eventually
from tests.releases import bundle_of


class Shelf:
    """Puts model versions in front of the worker of `place`, as control and Ray would."""

    def __init__(self, place: InProcess, *, load: Load = OnnxSession.load) -> None:
        """load: how sessions come about."""
        self.listeners: dict[str, ReplicaListener] = {}
        self._place = place
        self._load_session = load
        self._base = place.snapshot
        self._epoch = place.snapshot.epoch
        self._serial = 0
        self._stack = ExitStack()

    async def fill(self, entries: list[CatalogueEntry]) -> dict[str, ServingError]:
        """Serves these and nothing else. Returns, by key, why some are not served."""
        await self.clear()
        failures: dict[str, ServingError] = {}
        snapshot = replace(self._base, epoch=self._epoch + 1)
        for each in entries:
            try:
                endpoint = self._load(each)
            except ServingError as error:
                failures[each.version.key] = error
                continue
            policy = TrafficPolicy(each.version.model, stable=each.version.version)
            snapshot = replace(
                snapshot,
                versions=(*snapshot.versions, each.version),
                policies=(*snapshot.policies, policy),
                endpoints=(*snapshot.endpoints, endpoint),
            )
        self._epoch += 1
        self._place.worker.apply(snapshot)
        await eventually(lambda: self._place.worker.not_ready() is None)
        return failures

    async def clear(self) -> None:
        """Takes everything away again."""
        self._epoch += 1
        self._place.worker.apply(replace(self._base, epoch=self._epoch))
        self._stack.close()
        self.listeners.clear()

    def _load(self, entry: CatalogueEntry) -> ReplicaEndpoint:
        """Loads, rehearses and checks, as a hosted replica does before it takes a lease."""
        settings = self._place.settings
        version = entry.version
        session = self._load_session(
            version, bundle_of(entry.artifact), settings=settings.inference
        )
        self._serial += 1
        replica = f"c{self._serial}"
        path: Path = self._place.directory.replica_sockets / f"{replica}.sock"
        listener = ReplicaListener(
            session,
            replica=replica,
            place=UnixPlace(path),
            channel=settings.channel,
            run_timeout_s=settings.inference.run_timeout_s,
            clock=SystemClock(),
        )
        listener.warm_up()
        listener.start()
        self._stack.callback(listener.stop)
        listener.check()
        self.listeners[version.key] = listener
        return ReplicaEndpoint(
            replica, version.model, version.version, address=f"unix:{path}", node="here"
        )
