"""A replay put together: the window of the ledger, the version to run, the file of the result.

The version runs in this process, not in the product, so that a replay takes nothing from callers but
time of the CPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from serving.app.directory import DataDirectory
from serving.app.replay_targets import Targets
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.core.predictions import PredictionRecord
from serving.errors import NotFound
from serving.inference.offline import OfflineSession
from serving.ledger.differences import Tolerance
from serving.ledger.places import Place
from serving.ledger.replay import Pace, Replay
from serving.ledger.results import ReplayCounts, ReplayHead, ResultFile, to_parquet
from serving.ledger.search import LedgerSearch
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.query import Query
from serving.settings import Settings


@dataclass(frozen=True, slots=True)
class ReplayOrder:
    """What is wanted. against: a version, or the path of an ONNX file. output: of the result, JSON
    lines or Parquet. limit: of records. Times are arrival, up to and excluding `until_ns`."""

    model: str
    against: str
    since_ns: int
    until_ns: int
    output: Path
    version: str = ""
    limit: int | None = None
    records_per_s: float | None = None
    resume: bool = False
    tolerance: Tolerance = field(default_factory=Tolerance)


def replay(
    order: ReplayOrder,
    settings: Settings,
    *,
    place: Place,
    keys: PayloadKeys,
    clock: Clock,
    advanced: Callable[[int], None],
) -> ReplayCounts:
    """Runs it. advanced: told of the records done.

    Raises ParameterInvalid (a result that is there already, or of another replay), NotFound,
    SpecificationInvalid, ArtifactInvalid, LedgerUnavailable, OSError.
    """
    targets = Targets(settings, clock)
    version, bundle = targets.find(order.model, order.against, like=order.version)
    runner = OfflineSession.load(version, bundle, settings=settings.inference)
    lines = _lines_of(order.output)
    with ResultFile(lines, _head(order, version), resume=order.resume) as result:
        work = Replay(runner, result, tolerance=order.tolerance)
        pace = Pace(clock, order.records_per_s)
        records = pace.keep(_records(order, settings, place=place, keys=keys))
        work.run(records, limit=order.limit, advanced=advanced)
    if lines != order.output:
        to_parquet(lines, order.output)
        lines.unlink()
    return work.counts


def _records(
    order: ReplayOrder, settings: Settings, *, place: Place, keys: PayloadKeys
) -> Iterator[PredictionRecord]:
    log = DataDirectory.at(settings.data_dir).root / "log"
    if not log.is_dir():
        raise NotFound(f"{log} does not exist; has the product run with this data directory?")
    query = Query(
        since_ns=order.since_ns, until_ns=order.until_ns, model=order.model, version=order.version
    )
    return LedgerSearch(log, place, query, keys=keys).records()


def _head(order: ReplayOrder, version: ModelVersion) -> ReplayHead:
    return ReplayHead(
        model=order.model,
        recorded_version=order.version,
        since_ns=order.since_ns,
        until_ns=order.until_ns,
        against=version.version,
        digest=version.digest,
        absolute=order.tolerance.absolute,
        relative=order.tolerance.relative,
    )


def _lines_of(output: Path) -> Path:
    """The file of JSON lines; beside a table while it is made."""
    return output.with_name(f"{output.name}.jsonl") if output.suffix == ".parquet" else output
