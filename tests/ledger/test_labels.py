"""The job that says how complete labels are, over a log that is written for real."""

import asyncio
from pathlib import Path

from serving.core.clock import ManualClock
from serving.core.outcomes import Outcome
from serving.errors import ServingError
from serving.ledger.labels import LabelFigures
from serving.ledger.places import Folder
from serving.ledger_settings import LedgerSettings
from serving.predictionlog.outcomes import encode_outcome
from serving.predictionlog.writing.writer import PredictionLogWriter
from serving.telemetry.metrics import MetricFamilies
from tests.logs import NOW_NS, a_writer, record

SECOND_NS = 1_000_000_000


async def report(log: PredictionLogWriter, sequence: int, *, name: str = "doubler") -> None:
    """A truth about a record of this writer, reported a minute after it arrived."""
    outcome = Outcome(
        f"{log.log_id}-{sequence:x}", 0, "right", 1, NOW_NS, 0, name, "p", NOW_NS + 60 * SECOND_NS
    )
    settled: asyncio.Future[ServingError | None] = asyncio.get_running_loop().create_future()
    log.append([encode_outcome(outcome, sequence=log.next_sequence())], settled.set_result)
    assert await settled is None


async def test_completeness_delay_and_rejections_are_metrics(tmp_path: Path) -> None:
    """Figures of the log as it is now, by model, in the words of the README."""
    log = a_writer(tmp_path / "log" / "gateway-0")
    await log.start()
    first, second, *_ = await record(log, count=4)
    await report(log, first)
    await report(log, first)
    await report(log, second, name="twin")
    await log.aclose()
    job = LabelFigures(
        tmp_path / "log",
        Folder(tmp_path / "cold"),
        folder=tmp_path / "ledger",
        settings=LedgerSettings(),
        clock=ManualClock(wall_ns=NOW_NS + 3600 * SECOND_NS),
    )
    families = MetricFamilies()
    job.read_into(families)

    job.run()
    text = families.render(b"")[0].decode()

    assert 'serving_outcome_join_ratio{model="doubler"} 0.25' in text
    assert 'serving_outcome_reports{model="doubler",result="duplicate"} 1' in text
    assert 'serving_outcome_reports{model="twin",result="other_model"} 1' in text
    assert 'serving_outcome_delay_seconds_count{model="doubler"} 1.0' in text
    assert 'serving_outcome_delay_seconds_sum{model="doubler"} 60.0' in text
