"""A writer to be killed: records without end and prints what was acknowledged, line by line."""

import asyncio
import os
import sys
from pathlib import Path

from serving.core.clock import SystemClock
from serving.errors import ServingError
from serving.predictionlog.records import encode_predictions
from serving.predictionlog.writing.writer import PredictionLogWriter
from tests.logs import DOUBLER, SETTINGS, SIGNER, a_request, facts


async def record_for_ever(directory: Path) -> None:
    settings = SETTINGS.model_copy(update={"segment_bytes": 64 * 1024})
    log = PredictionLogWriter(directory, settings=settings, clock=SystemClock(), signer=SIGNER)
    await log.start()
    number = log.define(DOUBLER)
    room = asyncio.Semaphore(16)
    while True:
        await room.acquire()
        first, last = log.next_sequence(), log.next_sequence()

        def done(error: ServingError | None, first: int = first, last: int = last) -> None:
            assert error is None
            os.write(
                sys.stdout.fileno(), f"{log.log_id}-{first:x}\n{log.log_id}-{last:x}\n".encode()
            )
            room.release()

        log.append(encode_predictions(facts(number), [a_request(first), a_request(last)]), done)


if __name__ == "__main__":
    asyncio.run(record_for_ever(Path(sys.argv[1])))
