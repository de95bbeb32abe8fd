"""The ledger process: compaction, shipping, retention, sinks, figures about labels.

It runs at the lowest priority (`children`), one job after the other (`ledger.jobs`), and nobody waits
for it: without it the log grows, and answers are the same. It answers on its introspection socket from
another thread than the one that works. On SIGTERM a job is asked to end, is given `STOP_S`, and is
then left where it is, because every job may be killed at any instant.
"""

import asyncio
import os
import threading
from typing import Final

import structlog

from serving.access.permissions import INTROSPECTION
from serving.app.child import run_child, stop_event
from serving.app.descriptors import within_descriptors
from serving.app.directory import DataDirectory
from serving.app.ledger_jobs import LedgerJobs
from serving.app.ledger_status import LedgerStatus
from serving.core.clock import SystemClock
from serving.edge.admin.control import introspection_routes
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Router
from serving.settings import Settings

logger = structlog.get_logger()

STOP_S: Final = 2.0
DRAIN_S: Final = 0.5
FIRST_S: Final = 2.0
"""Before the first job, so that a start has the machine to itself."""


def main(settings: Settings, _index: int) -> None:
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    directory = DataDirectory.at(settings.data_dir)
    stopping, asked = threading.Event(), stop_event()
    jobs = LedgerJobs(settings, directory, clock=SystemClock(), stopping=stopping.is_set)
    families = jobs.families()
    routes = introspection_routes(status=lambda: status_of(jobs), metrics=families.render)
    router = Router(routes, permissions=INTROSPECTION)
    server = HttpServer(router, limits=within_descriptors(settings.http))
    await server.listen_unix(directory.ledger_socket)
    worker = threading.Thread(target=_work, args=(jobs, stopping), name="jobs", daemon=True)
    worker.start()
    await asked.wait()
    stopping.set()
    await server.aclose(drain_s=DRAIN_S)
    await asyncio.to_thread(worker.join, STOP_S)
    if worker.is_alive():
        logger.info("ledger stopped in the middle of a job; it is done again")
        os._exit(0)  # Threads of libraries may be anywhere, and need not be waited for.
    logger.info("ledger stopped")


def _work(jobs: LedgerJobs, stopping: threading.Event) -> None:
    stopping.wait(FIRST_S)
    while not stopping.is_set():
        stopping.wait(jobs.runner.run_due())


def status_of(jobs: LedgerJobs) -> LedgerStatus:
    lags = {"segments": jobs.shipping.lag.seconds}
    if jobs.kafka is not None:
        lags["kafka"] = jobs.kafka.lag.seconds
    return LedgerStatus(
        jobs=jobs.runner.statuses(),
        waiting_segments=jobs.compaction.waiting,
        damaged_segments=jobs.compaction.damaged,
        files=jobs.compaction.files,
        cold_bytes=jobs.compaction.cold_bytes,
        lag_seconds=lags,
    )


if __name__ == "__main__":
    run_child("ledger", main)
