"""What is to be inspected, one after the other, and what follows from each report.

First artifacts that were uploaded: the version is registered as its sender's and validated, or
rejected with the reason. Then versions that were registered otherwise, in the same way. Last, some time
after a start, versions that are further already and that this runtime has not been tried with: their
golden vectors are answered again, and what differs is recorded as evidence that failed, which blocks
every promotion until somebody has looked. What serves goes on serving.

Everything is found anew after a restart: an upload says itself that it waits, a version by the state it
is in, and evidence by the runtime that it names.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec
import structlog
from sqlalchemy import Connection

from serving.artifacts.bundles import ENTRY, bundle_index
from serving.artifacts.store import ArtifactStore
from serving.artifacts.uploads import Stage, Upload, Uploads
from serving.control.ensembles import examine
from serving.control.inspecting import InspectionStopped, Inspector, Specimen
from serving.control.uploading import Sender
from serving.core.actors import product
from serving.core.clock import Clock
from serving.core.models import Digest, ModelName, ModelVersion, VersionName
from serving.errors import AlreadyThere, ServingError
from serving.governance.entities import EvidenceOrder
from serving.governance.evidencebook import EvidenceBook
from serving.inference.reports import GoldenVector, InspectionReport
from serving.registry import rows
from serving.registry.definition import define, read_definition
from serving.registry.entities import Lineage, RegisteredVersion, Runtime
from serving.registry.lifecycle import State, Step
from serving.registry.orders import Search, StateOrder
from serving.registry.service import Registry
from serving.storage.database import Database
from serving.storage.worker import Worker

logger = structlog.get_logger()

INSPECTOR: Final = product("inspection")
MAX_SUMMARY: Final = 900
MAX_CONTENT_BYTES: Final = 150_000
PERIOD_S: Final = 30.0
_ENDED: Final = frozenset({State.RETIRED, State.REJECTED, State.DEPRECATED})


@dataclass(frozen=True, slots=True)
class Admitted:
    """What inspections read and write. Blocks: used from the control plane's own thread."""

    uploads: Uploads
    store: ArtifactStore
    database: Database
    registry: Registry
    book: EvidenceBook


@dataclass(frozen=True, slots=True)
class Task:
    """One inspection, what is done with its report, and what when there can be none.

    report: known already where there is nothing to load.
    """

    specimen: Specimen
    conclude: Callable[[InspectionReport], None]
    give_up: Callable[[str], None]
    report: InspectionReport | None = None


class Inspections:
    """Built on the loop; `run` is one task."""

    def __init__(
        self,
        parts: Callable[[], Admitted | None],
        inspector: Inspector,
        worker: Worker,
        *,
        delay_s: float,
        clock: Clock,
    ) -> None:
        """parts: None until the database was reached. delay_s: until versions that are further than
        registered are looked at."""
        self._parts = parts
        self._inspector = inspector
        self._worker = worker
        self._later_ns = clock.monotonic_ns() + round(delay_s * 1e9)
        self._period_s = min(PERIOD_S, delay_s)
        self._clock = clock
        self._hands = Worker(clock)
        self._nudged = asyncio.Event()
        self._looked_at: set[str] = set()

    def nudge(self) -> None:
        """Something came in."""
        self._nudged.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._hands.run(self._inspector.clean)
            while True:
                self._nudged.clear()
                task = await self._ask_for_one()
                if task is not None:
                    await self._carry_out(task)
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._nudged.wait(), self._period_s)
        finally:
            self._inspector.stop()
            self._hands.close()

    # -- inside ----------------------------------------------------------------------------------

    async def _ask_for_one(self) -> Task | None:
        try:
            return await self._worker.run(self._next)
        except (ServingError, OSError) as error:
            logger.warning("nothing can be inspected now", reason=str(error))
            return None

    async def _carry_out(self, task: Task) -> None:
        named = f"{task.specimen.model}@{task.specimen.version}"
        try:
            report = task.report
            if report is None:
                report = await self._hands.run(partial(self._inspector.inspect, task.specimen))
            await self._worker.run(partial(task.conclude, report))
        except InspectionStopped:
            return
        except (ServingError, OSError) as error:
            logger.warning("an inspection failed", model=named, reason=str(error))
            if not getattr(error, "retry", False):
                await self._give_up(task, named, str(error))
            return
        self._looked_at.add(named)  # Whatever the clock says of its evidence: once is enough.
        logger.info("inspected", model=named, outcome=report.code or "passed", reason=report.reason)

    async def _give_up(self, task: Task, named: str, reason: str) -> None:
        """Nothing that tries again would help; a restart does, once."""
        self._looked_at.add(named)
        with contextlib.suppress(ServingError, OSError):
            await self._worker.run(partial(task.give_up, reason))

    # -- in the control plane's thread -----------------------------------------------------------

    def _next(self) -> Task | None:
        parts = self._parts()
        if parts is None:
            return None
        waiting = [each for each in parts.uploads.listed() if each.stage == "inspecting"]
        for upload in waiting:
            return _upload_task(parts, upload)
        with_later = self._clock.monotonic_ns() >= self._later_ns
        return parts.database.read(
            lambda connection: self._registered(connection, parts, with_later=with_later)
        )

    def _registered(
        self, connection: Connection, parts: Admitted, *, with_later: bool
    ) -> Task | None:
        """A version that nobody inspected yet, or not with this runtime."""
        for model in rows.search_models(connection, Search()):
            for each in rows.versions_of(connection, model.name):
                if each.state in _ENDED or each.key in self._looked_at:
                    continue
                task = _due(connection, parts, each, with_later=with_later)
                if task is not None:
                    return task
        return None


def current_runtime() -> str:
    """As reports name it, without loading it."""
    for package in ("onnxruntime-gpu", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            return f"onnxruntime {version(package)}"
    return ""


def _evidence(
    connection: Connection, book: EvidenceBook, found: RegisteredVersion
) -> list[dict[str, Any]]:
    """Contents of the reports that were signed for a version, oldest first."""
    listed = book.listed(connection, found.model, found.version, actor=INSPECTOR)
    ordered = sorted(listed, key=lambda each: each.at_ns)
    return [each.content for each in ordered if "runtime" in each.content]


def _golden(reports: Iterable[dict[str, Any]]) -> tuple[GoldenVector, ...]:
    """Those of the first report: what was agreed to."""
    for each in reports:
        if each.get("golden"):
            return msgspec.convert(each["golden"], tuple[GoldenVector, ...])
    return ()


def _upload_task(parts: Admitted, upload: Upload) -> Task:
    contents = {
        file.path: partial(parts.uploads.content, upload, number)
        for number, file in enumerate(upload.files)
    }
    parity = None
    if upload.parity is not None:
        content = partial(parts.uploads.content, upload, len(upload.files))
        parity = (upload.parity.path, content)
    specimen = Specimen(
        upload.model,
        upload.version,
        upload.digests,
        contents,
        definition=_declared(upload),
        parity=parity,
    )
    settle = partial(parts.uploads.settle, upload, "failed", code="internal")
    return Task(
        specimen,
        partial(_conclude_upload, parts, upload),
        lambda reason: settle(reason=f"it could not be inspected: {reason}"),
    )


def _declared(upload: Upload) -> ModelVersion | None:
    given = upload.order["definition"]
    if not given:
        return None
    return define(
        read_definition(given), model=upload.model, version=upload.version, digest=upload.digest
    )


def _version_task(
    parts: Admitted, found: RegisteredVersion, golden: tuple[GoldenVector, ...]
) -> Task:
    files = parts.store.files(found.digest) or {ENTRY: found.digest}
    contents = {path: partial(parts.store.stream, digest) for path, digest in files.items()}
    specimen = Specimen(
        found.model, found.version, files, contents, definition=found.definition, golden=golden
    )
    return Task(specimen, partial(_conclude_version, parts, found), lambda _reason: None)


def _due(
    connection: Connection, parts: Admitted, found: RegisteredVersion, *, with_later: bool
) -> Task | None:
    """The inspection that a version takes now, if any."""
    is_new = found.state is State.REGISTERED
    if not (is_new or with_later) or not parts.store.holds(found.digest):
        return None
    if found.definition.stages:
        return _ensemble_task(connection, parts, found) if is_new else None
    known = _evidence(connection, parts.book, found)
    if is_new or not known or known[-1].get("runtime") != current_runtime():
        return _version_task(parts, found, _golden(known))
    return None


def _ensemble_task(connection: Connection, parts: Admitted, found: RegisteredVersion) -> Task:
    return Task(
        Specimen(found.model, found.version, {}, {}),
        partial(_conclude_version, parts, found),
        lambda _reason: None,
        report=examine(connection, found),
    )


def _conclude_upload(parts: Admitted, upload: Upload, report: InspectionReport) -> None:
    if report.passed:
        for number, file in enumerate(upload.files):
            parts.store.put(parts.uploads.content(upload, number), expected=file.sha256)
        if len(upload.files) > 1:
            parts.store.put((bundle_index(upload.digests),), expected=upload.digest)

    def change(connection: Connection) -> None:
        definition = report.definition or _declared(upload) or _nothing(upload)
        registered = parts.registry.register_version(
            connection,
            definition,
            actor=msgspec.convert(upload.sender, Sender).actor(),
            description=upload.order["description"],
            lineage=msgspec.convert(upload.order["lineage"], Lineage),
            runtime=_runtime(report),
            inspection=msgspec.to_builtins(report),
        )
        _judge(connection, parts, registered, report)

    try:
        parts.database.run(change)
    except ServingError as error:
        if error.retry:
            raise
        known = parts.database.read(
            lambda connection: rows.find_version(connection, upload.model, upload.version)
        )
        is_ours = isinstance(error, AlreadyThere) and known and known.digest == upload.digest
        if not is_ours:
            parts.uploads.settle(upload, "failed", code=error.code, reason=error.message)
            return
    stage: Stage = "validated" if report.passed else "rejected"
    parts.uploads.settle(upload, stage, code=report.code, reason=report.reason)


def _conclude_version(parts: Admitted, found: RegisteredVersion, report: InspectionReport) -> None:
    def change(connection: Connection) -> None:
        current = rows.find_version(connection, found.model, found.version)
        if current is None or current.state in _ENDED:
            return
        if current.state is State.REGISTERED:
            current = parts.registry.attach_inspection(
                connection,
                (found.model, found.version),
                report=msgspec.to_builtins(report),
                runtime=_runtime(report),
                actor=INSPECTOR,
            )
            _judge(connection, parts, current, report)
        else:
            _record(connection, parts, current, report)

    parts.database.run(change)


def _judge(
    connection: Connection, parts: Admitted, found: RegisteredVersion, report: InspectionReport
) -> None:
    """Evidence, and the step that follows from it."""
    _record(connection, parts, found, report)
    step = Step.VALIDATE if report.passed else Step.REJECT
    parts.registry.change_state(
        connection,
        (found.model, found.version),
        order=StateOrder(step=step, reason=report.summary[:MAX_SUMMARY]),
        actor=INSPECTOR,
    )


def _record(
    connection: Connection, parts: Admitted, found: RegisteredVersion, report: InspectionReport
) -> None:
    content = msgspec.to_builtins(report)
    del content["definition"]
    if len(msgspec.json.encode(content)) > MAX_CONTENT_BYTES:
        content |= {"golden": [], "operators": {}}
    content |= {"runtime": report.runtime or current_runtime()}
    order = EvidenceOrder(
        kind="validation",
        model=found.model,
        version=found.version,
        digest=found.digest,
        outcome="pass" if report.passed else "fail",
        summary=report.summary[:MAX_SUMMARY],
        content=content,
    )
    parts.book.record(connection, order, actor=INSPECTOR)


def _runtime(report: InspectionReport) -> Runtime:
    name, _, number = report.runtime.partition(" ")
    return Runtime(
        name=name, version=number, ir_version=report.ir_version, opsets=dict(report.opsets)
    )


def _nothing(upload: Upload) -> ModelVersion:
    """The definition of a version that was rejected before anybody knew what it takes."""
    return ModelVersion(
        model=ModelName(upload.model),
        version=VersionName(upload.version),
        digest=Digest(upload.digest),
        inputs=(),
        outputs=(),
    )
