"""The log's own process is killed: nothing acknowledged is lost, and recording goes on by itself."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from serving.core.clock import SystemClock
from serving.errors import LogUnavailable, ServingError
from serving.predictionlog.records import encode_predictions
from serving.predictionlog.writer import PredictionLogWriter
from tests.logs import DOUBLER, SETTINGS, a_request, eventually, facts, record, sequences

pytestmark = pytest.mark.faults


async def acknowledgements(acknowledged: list[int], *, at_least: int) -> None:
    await eventually(lambda: len(acknowledged) >= at_least)


async def test_lg_02_a_killed_log_process_loses_no_acknowledged_record(tmp_path: Path) -> None:
    """In-flight appends are refused or recorded, acknowledged ones are in the log exactly once,
    and a new process records within seconds; three times in a row."""
    log = PredictionLogWriter(tmp_path, settings=SETTINGS, clock=SystemClock())
    await log.start()
    number = log.define(DOUBLER)
    acknowledged: list[int] = []
    refused: list[ServingError] = []

    def append() -> None:
        sequence = log.next_sequence()

        def done(error: ServingError | None) -> None:
            if error is None:
                acknowledged.append(sequence)
            else:
                refused.append(error)

        log.append(encode_predictions(facts(number), [a_request(sequence)]), done)

    for cycle in range(1, 4):
        for _ in range(200):
            append()
        await acknowledgements(acknowledged, at_least=20 * cycle)
        process_id = log.process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
        await eventually(lambda: log.refusal is not None)
        await eventually(lambda: log.refusal is None)
        acknowledged += await record(log)
    await eventually(lambda: not log.statistics().pending_records)
    await log.aclose()

    found = sequences(tmp_path)
    assert set(acknowledged) <= set(found)
    assert len(set(found)) == len(found)
    assert all(isinstance(error, LogUnavailable) for error in refused)


async def test_the_log_process_ends_with_its_worker(tmp_path: Path) -> None:
    """Closing the log ends its process and seals the segment; the next writer starts at once."""
    first = PredictionLogWriter(tmp_path, settings=SETTINGS, clock=SystemClock())
    await first.start()
    await record(first, count=2)
    process_id = first.process_id
    await first.aclose()
    second = PredictionLogWriter(tmp_path, settings=SETTINGS, clock=SystemClock())
    async with asyncio.timeout(5):
        await second.start()

    recorded = await record(second)
    await second.aclose()

    assert recorded == [3]
    assert process_id is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)
