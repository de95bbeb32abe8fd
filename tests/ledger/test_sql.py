from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.errors import QueryInvalid
from serving.ledger.hot import all_tables
from serving.ledger.places import Folder
from serving.ledger.sql import LedgerDatabase
from tests.ledger.cold import LEDGER, compact, write_log


@pytest.fixture(params=["hot", "cold", "both"])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LedgerDatabase]:
    """Over the same records, wherever they are."""
    write_log(tmp_path / "log", workers=1)
    if request.param != "hot":
        compact(tmp_path)
    if request.param == "cold":
        for segment in (tmp_path / "log").rglob("*.segment"):
            segment.unlink()
    write_second = request.param == "both"
    if write_second:
        write_log(tmp_path / "log" / "node-2", workers=1, steps=1, name="second")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    tables = all_tables(
        tmp_path / "log", Folder(tmp_path / "cold"), scratch=scratch, settings=LEDGER
    )
    with LedgerDatabase(tables, scratch=scratch, settings=LEDGER) as opened:
        yield opened


FIRST = f"log_id = '{b'worker-0'.hex()}'"


def rows(database: LedgerDatabase, sql: str) -> list[tuple[Any, ...]]:
    return list(database.select(sql)[1])


def test_there_is_a_view_for_everything(database: LedgerDatabase) -> None:
    """All predictions, each model, outcomes and losses can be asked by name."""
    assert set(database.views) == {
        "predictions", "census_employment", "doubler", "mixed", "outcomes", "losses",
    }  # fmt: skip


def test_golden_answers(database: LedgerDatabase) -> None:
    """Counts, conditions on features, groups and lists give the answers that the records give."""
    golden = {
        "SELECT count(DISTINCT prediction_id) FROM predictions WHERE FIRST": [(160,)],
        "SELECT fate, count(*) FROM predictions WHERE row = 0 AND FIRST GROUP BY 1 ORDER BY 1": [
            ("ok", 120),
            ("timeout", 40),
        ],
        "SELECT sum(input_AGEP), sum(output_label), any_value(output_probabilities) "
        "FROM census_employment WHERE fate = 'ok' AND FIRST AND time < '2023-11-14 23:59:59'": [
            (14.0, 1, [0.5, 0.5])
        ],
        "SELECT decode(input_text), input_half[2], input_brain[1][2], input_big[1] FROM mixed "
        "WHERE sequence = 7 AND FIRST": [("text 7", -2.0, 2.0, 2**64 - 1)],
    }
    assert {sql: rows(database, sql.replace("FIRST", FIRST)) for sql in golden} == golden


def test_empty_views_have_their_columns(database: LedgerDatabase) -> None:
    """A dataset without files can be asked, and is empty."""
    assert rows(database, "SELECT prediction_id, row, name, number FROM outcomes") == []
    assert rows(database, "SELECT model, count FROM losses") == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('https://example.org/x.parquet')",
        "COPY predictions TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 64",
        "SET enable_external_access = true",
        "CREATE SECRET s (TYPE s3, KEY_ID 'x', SECRET 'y')",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1; SELECT 2",
        "PRAGMA database_list",
        "SELECT nonsense FROM predictions",
        "SELECT * FROM tables",
        "",
    ],
)
def test_nothing_else_can_be_done(tmp_path: Path, sql: str) -> None:
    """Files, network, extensions, settings, secrets and everything but one SELECT are refused."""
    tables = all_tables(tmp_path / "log", Folder(tmp_path), scratch=tmp_path, settings=LEDGER)

    with (
        LedgerDatabase(tables, scratch=tmp_path, settings=LEDGER) as database,
        pytest.raises(QueryInvalid),
    ):
        rows(database, sql)
