import asyncio
import shutil
from pathlib import Path

from serving.core.clock import SystemClock
from serving.errors import LogStorageFull, ServingError
from serving.predictionlog.reading.query import Query, Search
from serving.predictionlog.reading.verification import verify
from serving.predictionlog.records import encode_predictions
from serving.predictionlog.writing.spill import Spill
from serving.predictionlog.writing.writer import LogIdentity, PredictionLogWriter
from tests.logs import DOUBLER, SETTINGS, SIGNER, a_request, a_writer, facts


def a_spill(root: Path, log: PredictionLogWriter, *, max_bytes: int = 1_000_000) -> Spill:
    def make_writer(directory: Path, identity: LogIdentity) -> PredictionLogWriter:
        return PredictionLogWriter(
            directory,
            settings=SETTINGS,
            clock=SystemClock(),
            signer=SIGNER,
            identity=identity,
        )

    return Spill(
        root / "spill",
        worker="gateway-0",
        log=log,
        log_root=root / "log",
        max_bytes=max_bytes,
        make_writer=make_writer,
    )


async def spilled(spill: Spill, log: PredictionLogWriter) -> tuple[str, ServingError | None]:
    """The id of one record handed to the spill, and what came of it."""
    request = a_request(log.next_sequence())
    told: asyncio.Future[ServingError | None] = asyncio.get_running_loop().create_future()
    frames = encode_predictions(facts(log.define(DOUBLER)), [request])
    spill.append(frames, told.set_result)
    return f"{log.log_id}-{request.sequence:x}", await told


def ids(root: Path) -> list[str]:
    return [each.prediction_id for each in Search(root / "log", Query()).records()]


async def test_what_is_spilled_is_read_in_place_and_moves_home(tmp_path: Path) -> None:
    """Records keep their ids; readers find each once before, while and after it moves."""
    log = a_writer(tmp_path / "log" / "gateway-0")
    await log.start()
    spill = a_spill(tmp_path, log)
    await spill.start()
    results = [await spilled(spill, log) for _ in range(3)]
    expected = [prediction_id for prediction_id, _ in results]
    before = ids(tmp_path)
    held = spill.held_bytes
    await spill.tend()

    assert [error for _, error in results] == [None] * 3
    assert (before, ids(tmp_path)) == (expected, expected)
    assert held > 0 == spill.held_bytes
    assert not list((tmp_path / "spill").iterdir())
    await spill.aclose()
    await log.aclose()
    assert not verify(tmp_path / "log").damage


async def test_a_crash_while_spilling_loses_nothing(tmp_path: Path) -> None:
    """A spill whose process was killed is sealed and moved by the next start."""
    killed = a_writer(tmp_path / "log" / "gateway-0")
    await killed.start()
    spill = a_spill(tmp_path, killed)
    await spill.start()
    prediction_id, _ = await spilled(spill, killed)
    (episode,) = (tmp_path / "spill").iterdir()
    copy = tmp_path / "as-it-was"
    shutil.copytree(episode, copy)  # what the disk held at the moment of the kill
    await spill.aclose()
    await killed.aclose()
    shutil.rmtree(tmp_path / "log" / f"spill-{episode.name}")
    copy.rename(episode)

    log = a_writer(tmp_path / "log" / "gateway-0")
    await log.start()
    again = a_spill(tmp_path, log)
    await again.start()

    assert ids(tmp_path) == [prediction_id]
    assert not list((tmp_path / "spill").iterdir())
    await again.aclose()
    await log.aclose()


async def test_the_bound_holds(tmp_path: Path) -> None:
    """A full spill refuses, with the error of a full disk."""
    log = a_writer(tmp_path / "log" / "gateway-0")
    await log.start()
    spill = a_spill(tmp_path, log, max_bytes=1)
    await spill.start()
    _, first = await spilled(spill, log)
    _, second = await spilled(spill, log)

    assert first is None
    assert isinstance(second, LogStorageFull)
    await spill.aclose()
    await log.aclose()
