"""The monitor process: compares candidates with what answers, from the prediction log alone.

It runs at the lowest priority (`children`) and nobody waits for it: without it answers and log are the
same, and comparisons go on later where they stood. It answers on its introspection socket from another
thread than the one that works. On SIGTERM it saves and ends; it may be killed at any instant.
"""

import asyncio
import os
import threading
from pathlib import Path
from typing import Final

import structlog

from serving.access.keys import internal_secret
from serving.access.permissions import INTROSPECTION
from serving.app.child import run_child, stop_event
from serving.app.descriptors import within_descriptors
from serving.app.directory import DataDirectory
from serving.app.monitor_line import ControlLine
from serving.app.monitor_status import MonitorStatus, compared, monitor_families
from serving.app.monitor_work import MonitorWork
from serving.core.clock import Clock, SystemClock
from serving.edge.admin.control import introspection_routes
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Router
from serving.errors import ServingError
from serving.ledger.floors import read_floors
from serving.ledger.pairstore import PairStore
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.settings import Settings
from serving.telemetry.metrics import MetricFamilies

logger = structlog.get_logger()

STOP_S: Final = 2.0
DRAIN_S: Final = 0.5
PAUSE_S: Final = 0.5
"""Between two looks at a log that was read to its end."""
TROUBLE_S: Final = 5.0
FORGET_S: Final = 3600.0
STORE_NAME: Final = "monitor.sqlite"


def main(settings: Settings, _index: int) -> None:
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    directory = DataDirectory.at(settings.data_dir)
    stopping, asked = threading.Event(), stop_event()
    line = ControlLine(settings.control, secret=internal_secret(directory.keys))
    monitor = Monitor(settings, directory, line=line, stopping=stopping, clock=SystemClock())
    routes = introspection_routes(status=monitor.status, metrics=monitor.families.render)
    router = Router(routes, permissions=INTROSPECTION)
    server = HttpServer(router, limits=within_descriptors(settings.http))
    await server.listen_unix(directory.monitor_socket)
    worker = threading.Thread(target=monitor.run, name="monitor", daemon=True)
    worker.start()
    await asked.wait()
    stopping.set()
    await server.aclose(drain_s=DRAIN_S)
    await asyncio.to_thread(worker.join, STOP_S)
    if worker.is_alive():
        logger.info("monitor stopped in the middle of a turn; it is done again")
        os._exit(0)
    logger.info("monitor stopped")


class Monitor:
    """Turns, saves and tells until it is stopped. `status` and `families` may be read meanwhile."""

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        *,
        line: ControlLine,
        stopping: threading.Event,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._log = directory.log
        self._store_path: Path = directory.monitor / STORE_NAME
        self._keys = PayloadKeys.at(directory.root)
        self._line = line
        self._stopping = stopping
        self._clock = clock
        self._work: MonitorWork | None = None
        self._is_connected = False
        self._error = ""
        self.families: MetricFamilies = self._families()

    def run(self) -> None:
        """Until stopped. What fails is told, and tried again from what was saved last."""
        while not self._stopping.is_set():
            try:
                with PairStore(self._store_path) as store:
                    self._keep_working(store)
            except (ServingError, OSError) as error:
                self._error = str(error)
                logger.warning("monitor is in trouble; it goes on in a while", reason=str(error))
                self._stopping.wait(TROUBLE_S)
            except Exception as error:  # Else the process would live on and do nothing.
                self._error = repr(error)
                logger.exception("monitor is in trouble; it goes on in a while")
                self._stopping.wait(TROUBLE_S)

    def status(self) -> MonitorStatus:
        work = self._work
        reports = () if work is None else work.reports
        return MonitorStatus(
            comparisons=tuple(compared(each) for each in reports),
            lag_seconds=0.0 if work is None else work.lag.seconds,
            lag_records=0 if work is None else work.lag.records,
            waiting=0 if work is None else work.waiting,
            connected=self._is_connected,
            error=self._error,
        )

    # -- inside ----------------------------------------------------------------------------------

    def _keep_working(self, store: PairStore) -> None:
        settings = self._settings.comparison
        work = self._work = MonitorWork(
            self._log, store, settings=settings, clock=self._clock, keys=self._keys
        )
        told_ns = forgot_ns = -(10**18)
        while not self._stopping.is_set():
            now_ns = self._clock.monotonic_ns()
            if now_ns - told_ns >= settings.report_every_s * 1e9:
                told_ns = now_ns
                self._tell(work)
            if now_ns - forgot_ns >= FORGET_S * 1e9:
                forgot_ns = now_ns
                work.forget()
            if not (work.is_ordered and work.turn()):
                self._stopping.wait(PAUSE_S)
            self._error = ""
        work.save()

    def _tell(self, work: MonitorWork) -> None:
        """Saves first: what control was told is never taken back."""
        work.save()
        orders = self._line.exchange(work.look())
        self._is_connected = orders is not None
        if orders is not None:
            work.follow(orders.orders, read_floors(self._store_path.parent))

    def _families(self) -> MetricFamilies:
        return monitor_families(
            lambda: () if self._work is None else self._work.reports,
            lag_s=lambda: self.status().lag_seconds,
            waiting=lambda: self.status().waiting,
            unjudged=lambda: 0 if self._work is None else self._work.unjudged,
            skipped=lambda: {} if self._work is None else self._work.skipped,
        )


if __name__ == "__main__":
    run_child("monitor", main)
