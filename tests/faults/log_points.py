"""A writer that is killed where it is told: kill -9 before or after any of its disk operations.

    python -m tests.faults.log_points FOLDER

First a writer runs through; that gives the points. Then a fresh process for each point, in a folder of
its own, is killed there by SIGKILL. One JSON object a line says the point, the folder and what had
been acknowledged until then.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from serving.core.clock import SystemClock
from serving.predictionlog.files import SystemFiles
from serving.predictionlog.writing.committer import Committer
from serving.predictionlog.writing.syncing import AioSync, Synced
from serving.predictionlog.writing.writer import PredictionLogWriter
from serving.settings import LogSettings
from tests.logs import SIGNER, record

COMMITS: Final = 9


class Points:
    """Counts operations by name; ends the process at the one it was told."""

    def __init__(self, deadly: str = "") -> None:
        self.passed: list[str] = []
        self._deadly = deadly
        self._counts: Counter[str] = Counter()

    def before(self, operation: str) -> str:
        self._counts[operation] += 1
        name = f"{operation}-{self._counts[operation]}"
        self._reach(f"before-{name}")
        return name

    def after(self, name: str) -> None:
        self._reach(f"after-{name}")

    def _reach(self, point: str) -> None:
        self.passed.append(point)
        if point == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)


class DeadlyFiles(SystemFiles):
    """The real files; every operation is a point. Within `replace` the sync is one of its own."""

    def __init__(self, points: Points) -> None:
        super().__init__()
        self._points = points

    def make_directory(self, path: Path) -> None:
        name = self._points.before("directory")
        super().make_directory(path)
        self._points.after(name)

    def create(self, path: Path) -> int:
        name = self._points.before("create")
        descriptor = super().create(path)
        self._points.after(name)
        return descriptor

    def write(
        self, descriptor: int, buffers: Sequence[bytes], offset: int, *, durable: bool
    ) -> int:
        name = self._points.before("write")
        written = super().write(descriptor, buffers, offset, durable=durable)
        self._points.after(name)
        return written

    def truncate(self, descriptor: int, length: int) -> None:
        name = self._points.before("truncate")
        super().truncate(descriptor, length)
        self._points.after(name)

    def sync(self, descriptor: int) -> None:
        name = self._points.before("sync")
        super().sync(descriptor)
        self._points.after(name)

    def remove(self, path: Path) -> None:
        name = self._points.before("remove")
        super().remove(path)
        self._points.after(name)

    def replace(self, path: Path, content: bytes) -> None:
        name = self._points.before("head")
        super().replace(path, content)
        self._points.after(name)


class DeadlySync:
    """The kernel's sync; its order and its end are points."""

    def __init__(self, sync: AioSync, points: Points) -> None:
        self._sync = sync
        self._points = points

    def start(self, descriptor: int, done: Synced) -> None:
        name = self._points.before("fdatasync")

        def ended(code: int) -> None:
            self._points.after(name)
            done(code)

        self._sync.start(descriptor, ended)

    def close(self) -> None:
        self._sync.close()


async def live(folder: Path, points: Points, told: int) -> None:
    """One life of a writer: starts on what the last one left, turns over twice, is closed."""

    def make_sync(loop: asyncio.AbstractEventLoop) -> DeadlySync | None:
        sync = AioSync.open(loop)
        return None if sync is None else DeadlySync(sync, points)

    settings = LogSettings.model_construct(
        **LogSettings(min_free_bytes=0).model_dump() | {"segment_bytes": 6000}
    )
    log = PredictionLogWriter(
        folder, settings=settings, clock=SystemClock(), signer=SIGNER,
        files=DeadlyFiles(points), make_sync=make_sync,
    )  # fmt: skip
    await log.start()
    for _ in range(COMMITS):
        for sequence in await record(log, count=2, rows=40):
            os.write(told, f"{log.log_id}-{sequence:x}\n".encode())
    await log.aclose()


def killed_at(point: str, folder: Path) -> tuple[list[str], list[str]]:
    """(what was acknowledged, points passed): a process of its own lives, and dies at the point."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        points = Points(point)
        asyncio.run(live(folder, points, writer))
        os.write(writer, ("passed " + " ".join(points.passed) + "\n").encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        lines = pipe.read().split("\n")
    _, status = os.waitpid(child, 0)
    if point and os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise SystemExit(f"point {point} was not reached")
    passed = [line.removeprefix("passed ").split() for line in lines if line.startswith("passed ")]
    acknowledged = [line for line in lines if line and not line.startswith("passed ")]
    return acknowledged, passed[0] if passed else []


def prepare(folder: Path) -> None:
    """What every life begins with: a segment whose writer was killed, and a prepared file."""
    committer = Committer(
        folder, settings=LogSettings(min_free_bytes=0), clock=SystemClock(), files=SystemFiles(),
        log_id=b"before-8", tag=1, definitions={}, signer=SIGNER,
    )  # fmt: skip
    committer.open()
    committer.commit([])
    committer.give_up()
    (folder / "00000002.segment").write_bytes(b"")
    (folder / "lock").unlink()


def main(folder: Path) -> None:
    prepare(folder / "whole")
    _, points = killed_at("", folder / "whole")
    for point in points:
        prepare(folder / point)
        acknowledged, _ = killed_at(point, folder / point)
        sys.stdout.write(json.dumps([point, acknowledged]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
