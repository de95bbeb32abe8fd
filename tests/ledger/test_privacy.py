"""What was encrypted, hashed, dropped or cut stays as it is in the tables."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from serving.core.clock import SystemClock
from serving.core.models import Digest, ModelName, ModelVersion, Recording, VersionName
from serving.core.outcomes import Outcome
from serving.core.predictions import PredictionRecord
from serving.core.tensors import TensorSpecification
from serving.ledger.catalog import read_catalog
from serving.ledger.hot import all_tables
from serving.ledger.places import Folder
from serving.ledger.search import LedgerSearch
from serving.ledger.sql import LedgerDatabase
from serving.predictionlog.format import Definition, TensorShape
from serving.predictionlog.losses import Loss, encode_loss
from serving.predictionlog.outcomes import encode_outcome
from serving.predictionlog.payloads import PayloadLimits
from serving.predictionlog.privacy.erasures import Erasures
from serving.predictionlog.privacy.subjects import PayloadKeys, SubjectSecrets
from serving.predictionlog.reading.query import Query
from serving.predictionlog.records import definition_text, encode_record
from serving.predictionlog.writing.guards import Guard
from serving.predictionlog.writing.subjectkeys import WorkerKeys
from tests.ledger.cold import LEDGER, as_texts, compact
from tests.logs import NOW_NS, TAG, Request, a_committer, facts

CANARY = 1234.5
PERSON = b"a person"


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[WorkerKeys]:
    keys = WorkerKeys(
        tmp_path / "subjects",
        worker="gateway-0",
        secrets=SubjectSecrets.open(tmp_path / "keys"),
        erasures=Erasures(tmp_path / "subjects"),
        max_cached=10,
        clock=SystemClock(),
    )
    keys.start()
    yield keys
    keys.close()


def described(treatment: str) -> Definition:
    inputs = (
        TensorShape("x", "FP32", (2,), ("one", "two"), treatment),
        TensorShape("open", "INT64", ()),
    )
    return Definition("m", "1", "ab" * 32, inputs, (TensorShape("y", "FP32", (2,), (), treatment),))


async def write(
    root: Path,
    keys: WorkerKeys,
    *,
    treatment: Any = "keep",
    subject: bytes = b"",
    limits: PayloadLimits = PayloadLimits(),  # noqa: B008 -- frozen
) -> None:
    """A sealed segment with two records of two rows under a policy."""
    definition, number = described(treatment), TAG << 32 | 9
    version = ModelVersion(
        ModelName("m"), VersionName("1"), Digest("ab" * 32),
        (TensorSpecification("x", "FP32", (-1, 2)),), (TensorSpecification("y", "FP32", (-1, 2)),),
        recording=Recording(fields=tuple((name, treatment) for name in ("x", "y"))),
    )  # fmt: skip
    guard = Guard(version, keys, limits)
    frames = []
    for sequence in (1, 2):
        values = np.full((2, 2), CANARY, "<f4").tobytes()
        whole = np.array([7, 8], "<i8").tobytes()
        request = Request(sequence, (values, whole), (values,), rows=2)
        payload = guard.payload(request, subject=subject, definition=definition, number=number)
        frames.append(encode_record(facts(number), request, payload))
    saved: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    keys.saved(saved.set_result)
    assert await saved is None
    known = {number: definition_text(definition)}
    committer = a_committer(root / "log" / "w", definitions=known)
    assert committer.commit(frames) is None
    committer.close()


def read(root: Path, keys: PayloadKeys | None) -> list[PredictionRecord]:
    return list(LedgerSearch(root / "log", Folder(root / "cold"), Query(), keys=keys).records())


def table(root: Path) -> dict[str, list[Any]]:
    (file,) = read_catalog(Folder(root / "cold")).files
    found: dict[str, list[Any]] = pq.read_table(root / "cold" / file.name).to_pydict()
    return found


@pytest.mark.parametrize("treatment", ["keep", "hash", "drop", "encrypt"])
@pytest.mark.parametrize("subject", [b"", PERSON], ids=["nobody", "somebody"])
async def test_a_record_is_the_same_in_a_table(
    tmp_path: Path, keys: WorkerKeys, treatment: str, subject: bytes
) -> None:
    """Whatever was done to a payload, a reader sees the same of it, with keys and without."""
    await write(tmp_path, keys, treatment=treatment, subject=subject)
    opened = PayloadKeys.at(tmp_path)
    before = [as_texts(read(tmp_path, each)) for each in (None, opened)]

    compact(tmp_path)

    assert [as_texts(read(tmp_path, each)) for each in (None, opened)] == before


async def test_a_subjects_payload_stays_sealed(tmp_path: Path, keys: WorkerKeys) -> None:
    """A table has no value of an encrypted payload, and after an erasure nobody can read it."""
    await write(tmp_path, keys, subject=PERSON)
    compact(tmp_path)
    (file,) = read_catalog(Folder(tmp_path / "cold")).files
    columns = table(tmp_path)
    tag = keys.secrets.tag(PERSON)
    before = read(tmp_path, PayloadKeys.at(tmp_path))
    Erasures(tmp_path / "subjects").erase(tag.hex(), now_ns=SystemClock().wall_ns())
    after = read(tmp_path, PayloadKeys.at(tmp_path))

    assert (set(columns["input_one"]), set(columns["payload"])) == ({None}, {"sealed"})
    assert set(columns["subject"]) == {tag.hex()}
    raw = (tmp_path / "cold" / file.name).read_bytes()
    assert np.float32(CANARY).tobytes() not in raw
    assert {tensor.keeping for record in before for tensor in record.inputs} == {"kept"}
    assert {tensor.keeping for record in after for tensor in record.inputs} == {"erased"}


async def test_fields_are_treated_one_by_one(tmp_path: Path, keys: WorkerKeys) -> None:
    """An encrypted field has no column, the field beside it has its values."""
    await write(tmp_path, keys, treatment="encrypt")
    compact(tmp_path)

    columns = table(tmp_path)
    assert columns["input_open"] == [7, 8, 7, 8]
    assert not {"input_one", "output_y"} & columns.keys()
    assert [bool(each) for each in columns["sealed_payload"]] == [True, False, True, False]


async def test_hashes_are_columns(tmp_path: Path, keys: WorkerKeys) -> None:
    """Equal rows have equal hashes, so that they can be counted and joined."""
    await write(tmp_path, keys, treatment="hash")
    compact(tmp_path)

    hashes = table(tmp_path)["input_x_hash"]
    assert (len(set(hashes)), len(hashes[0])) == (1, 16)


async def test_lg_17_large_payloads_stay_hashes(tmp_path: Path, keys: WorkerKeys) -> None:
    """What was too large for the log is marked in the table, too, and reads the same."""
    await write(tmp_path, keys, limits=PayloadLimits(max_bytes=8))
    before = as_texts(read(tmp_path, None))
    compact(tmp_path)

    assert as_texts(read(tmp_path, None)) == before
    assert set(table(tmp_path)["payload"]) == {"truncated"}


async def test_compressed_payloads_are_columns(tmp_path: Path, keys: WorkerKeys) -> None:
    """Compression is of the log, not of what it says."""
    await write(tmp_path, keys, limits=PayloadLimits(compress_bytes=1))
    compact(tmp_path)

    assert set(table(tmp_path)["input_one"]) == {CANARY}


@pytest.mark.parametrize("compacted", [False, True], ids=["hot", "cold"])
def test_outcomes_and_losses_are_tables_of_their_own(tmp_path: Path, compacted: bool) -> None:
    """Reports and declared losses can be asked, hot and cold, with every field."""
    committer = a_committer(tmp_path / "log" / "w")
    outcomes = [
        Outcome(f"{b'log-id-8'.hex()}-1", row, "label", value, NOW_NS - 5, 2, "m", "me", NOW_NS)
        for row, value in enumerate((True, 2.5, "yes", None))
    ]
    loss = Loss("ab" * 8, "m", "1", 3, 7, NOW_NS - 9, NOW_NS - 1, "log_unavailable", NOW_NS)
    committer.commit([encode_outcome(each, sequence=1) for each in outcomes])
    committer.commit([encode_loss(loss, sequence=2)])
    committer.close()
    if compacted:
        compact(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    place = Folder(tmp_path / "cold")
    tables = all_tables(tmp_path / "log", place, scratch=scratch, settings=LEDGER)
    with LedgerDatabase(tables, scratch=scratch, settings=LEDGER) as database:
        _, found = database.select(
            "SELECT row, value, number, epoch_ns(observed), revision, model, principal "
            "FROM outcomes ORDER BY row"
        )
        reported = list(found)
        _, found = database.select(
            "SELECT model, version, count, epoch_ns(since), epoch_ns(until), reason FROM losses"
        )
        lost = list(found)

    rest = (NOW_NS - 5, 2, "m", "me")
    assert reported == [
        (0, "true", 1.0, *rest),
        (1, "2.5", 2.5, *rest),
        (2, '"yes"', None, *rest),
        (3, "null", None, *rest),
    ]
    assert lost == [("m", "1", 3, NOW_NS - 9, NOW_NS - 1, "log_unavailable")]
    assert len(read_catalog(place).files) == (2 if compacted else 0)
