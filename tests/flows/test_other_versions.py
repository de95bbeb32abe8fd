"""Data directories of other versions of the product: brought up to date, or refused and left alone."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import create_engine

from serving.access.state import FORMAT, AccessState
from serving.predictionlog.format import HEADER_BYTES, MAGIC, closed
from serving.predictionlog.reading.query import Query, Search
from serving.storage import migration
from serving.storage.database import FILE_NAME, MARKER_NAME
from tests.instances import Instance

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

GOLDEN = Path(__file__).parent.parent / "predictionlog" / "golden"
QUOTA = {"subject": "*", "requests_per_s": 1000.0, "concurrent": 100}


def older(data_dir: Path) -> None:
    """A database with the first schema, a log of the first format, a file of quotas of the second."""
    data_dir.mkdir(mode=0o700)
    engine = create_engine(f"sqlite:///{data_dir / FILE_NAME}")
    with engine.begin() as connection:
        installation = migration.upgrade(connection, now_ns=1, target="0001")
    engine.dispose()
    (data_dir / MARKER_NAME).write_text(installation)
    log = data_dir / "log" / "gateway-0"
    shutil.copytree(GOLDEN / "v1" / "log", log)
    for folder in (log, log.parent):
        folder.chmod(0o700)
    (data_dir / "run").mkdir(mode=0o700)
    (data_dir / "run" / "quotas").write_bytes(b"SVBUCKT2" + bytes(4096))


def revision(data_dir: Path) -> str:
    with sqlite3.connect(data_dir / FILE_NAME) as database:
        (found,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    database.close()
    return str(found)


def test_op_08_data_of_an_older_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """It starts on what an older version left, answers, and its records stand beside the old ones."""
    older(tmp_path / "data")
    before = len(list(Search(tmp_path / "data" / "log", Query()).records()))
    with Instance(tmp_path, quotas=[QUOTA]) as instance:
        instance.expect("ready")
        answer = instance.infer()
        status = instance.stop()
    records = list(Search(tmp_path / "data" / "log", Query()).records())

    assert (answer.status_code, status) == (200, 0)
    assert before > 0
    assert len(records) == before + 1
    assert answer.headers["serving-prediction-id"] in {each.prediction_id for each in records}
    assert revision(tmp_path / "data") == migration.newest()


def newer_database(data_dir: Path) -> str:
    with sqlite3.connect(data_dir / FILE_NAME) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    return "upgrade serving"


def newer_log(data_dir: Path) -> str:
    segment = data_dir / "log" / "gateway-0" / "00000003.segment"
    content = bytearray(segment.read_bytes())
    copy = bytes(content[: HEADER_BYTES - 4]).replace(MAGIC + b"\x01\0", MAGIC + b"\x63\0", 1)
    content[: 2 * HEADER_BYTES] = closed(copy) * 2
    segment.write_bytes(content)
    return "format version 99"


def newer_access(data_dir: Path) -> str:
    file = data_dir / "access.json"
    file.write_bytes(msgspec.json.encode(AccessState(format=FORMAT + 97)))
    file.chmod(0o600)
    return f"format {FORMAT + 97}"


@pytest.mark.parametrize("change", [newer_database, newer_log, newer_access])
def test_op_08_data_of_a_newer_version_is_refused(
    tmp_path: Path, change: Callable[[Path], str]
) -> None:
    """The start ends with a line that says what is newer; what is there stays as it is."""
    data_dir = tmp_path / "data"
    older(data_dir)
    words = change(data_dir)
    before = {each: each.read_bytes() for each in data_dir.rglob("*.segment")}
    with Instance(tmp_path) as instance:
        complaint = instance.complaint()
        status = instance.process.wait()

    assert status != 0
    assert words in complaint
    assert {each: each.read_bytes() for each in before} == before
