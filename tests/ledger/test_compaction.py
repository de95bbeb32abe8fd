import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serving.core.predictions import Fate
from serving.ledger.catalog import read_catalog
from serving.ledger.places import Folder
from serving.ledger_settings import LedgerSettings
from serving.predictionlog.reading.query import Query
from tests.ledger.cold import (
    DAY_NS,
    LEDGER,
    a_compactor,
    as_texts,
    compact,
    found,
    never,
    write_log,
)
from tests.logs import NOW_NS, read_all


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_log(tmp_path / "log")
    return tmp_path


def test_every_record_is_the_same_afterwards(root: Path) -> None:
    """A record read from a table equals the one in the log, datatypes, shapes and NaN included."""
    before = as_texts(read_all(root / "log"))

    moved = compact(root)

    assert moved == len(before) == 320
    assert sorted(found(root)) == sorted(before)


def test_hot_records_are_not_read_any_more(root: Path) -> None:
    """Once a segment is in the tables its file is not needed for any query."""
    before = found(root)
    compact(root)
    for segment in (root / "log").rglob("*.segment"):
        segment.unlink()

    assert sorted(found(root)) == sorted(before)


def test_a_second_run_changes_nothing(root: Path) -> None:
    """What is in the tables is not taken again."""
    compact(root)
    catalog = read_catalog(Folder(root / "cold"))

    moved = compact(root)

    assert (moved, read_catalog(Folder(root / "cold"))) == (0, catalog)


def test_files_are_partitioned_by_model_and_day(root: Path) -> None:
    """A file holds rows of one version and one UTC day, in the folder that says so."""
    compact(root)

    files = read_catalog(Folder(root / "cold")).files
    assert {(file.model, file.day) for file in files} == {
        (model, day)
        for model in ("doubler", "census-employment", "mixed")
        for day in ("2023-11-14", "2023-11-15", "2023-11-16")
    }
    for file in files:
        assert file.name.startswith(f"predictions/model={file.model}/day={file.day}/")
        assert file.earliest_ns // DAY_NS == file.latest_ns // DAY_NS
        times = pq.read_table(root / "cold" / file.name, columns=["time"])["time"]
        assert len(times) == file.rows


def test_features_are_columns_of_their_names(root: Path) -> None:
    """Elements that the specification names are columns with statistics; others are lists."""
    compact(root, settings=LEDGER)

    file = next(f for f in read_catalog(Folder(root / "cold")).files if f.model[0] == "c")
    parquet = pq.ParquetFile(root / "cold" / file.name)
    schema = parquet.schema_arrow
    assert [str(schema.field(name).type) for name in ("input_AGEP", "output_label")] == [
        "float",
        "int64",
    ]
    assert str(schema.field("output_probabilities").type).startswith("list<")
    group = parquet.metadata.row_group(0)
    statistics = group.column(schema.get_field_index("input_AGEP")).statistics
    assert (group.column(0).compression, statistics.has_min_max) == ("ZSTD", True)
    assert group.sorting_columns[0].column_index == schema.get_field_index("time")


def test_a_row_of_the_table_is_a_row_of_a_prediction(root: Path) -> None:
    """Three rows of one request are three rows with one prediction id, counted from 0."""
    compact(root, settings=LEDGER)

    tables = [
        pq.read_table(root / "cold" / file.name, columns=["prediction_id", "row", "rows"])
        for file in read_catalog(Folder(root / "cold")).files
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    by_prediction: dict[str, list[int]] = {}
    for row in rows:
        by_prediction.setdefault(row["prediction_id"], []).append(row["row"])
    assert len(by_prediction) == 320
    assert all(places == list(range(len(places))) for places in by_prediction.values())
    assert sum(len(places) == 3 for places in by_prediction.values()) == 26


def test_a_file_names_its_segments_and_their_roots(root: Path) -> None:
    """The metadata of a table hold the Merkle roots of the segments that its rows came from."""
    compact(root)

    catalog = read_catalog(Folder(root / "cold"))
    for file in catalog.files:
        metadata = pq.read_schema(root / "cold" / file.name).metadata
        sources = json.loads(metadata[b"serving.sources"])
        assert set(file.sources) <= set(sources)
        assert all(len(bytes.fromhex(each)) == 32 for each in sources.values())
        assert sources == {key: catalog.segments[key].root for key in sources}


@pytest.mark.parametrize(
    "query",
    [
        Query(model="mixed"),
        Query(model="census-employment", version="1", fate=Fate.OK),
        Query(version="7", limit=3),
        Query(fate=Fate.TIMEOUT, newest_first=True, limit=5),
        Query(principal="=evil"),
        Query(request_id="r-1", model="doubler", limit=7),
        Query(request_id="unknown"),
        Query(since_ns=NOW_NS + DAY_NS, until_ns=NOW_NS + DAY_NS * 3 // 2),
        Query(prediction_id=f"{b'worker-1'.hex()}-11"),
        Query(without_subject=True, limit=9),
        Query(newest_first=True),
    ],
    ids=str,
)
def test_conditions_mean_the_same_in_hot_and_cold(root: Path, query: Query) -> None:
    """Each condition, limit and order gives the same records before and after."""
    before = found(root, query)

    compact(root)

    after = found(root, query)
    assert (after if query.limit or query.newest_first else sorted(after)) == (
        before if query.limit or query.newest_first else sorted(before)
    )


def test_only_segments_begun_before_are_taken(root: Path) -> None:
    """With a time, what was begun later waits."""
    report = a_compactor(root).run(until_ns=1, stopping=never)

    assert (report.segments, report.waiting) == (0, 0)


def test_a_damaged_segment_stays_and_is_named(root: Path) -> None:
    """What cannot be read whole is left where it is, and the others are taken."""
    segment = next((root / "log" / "gateway-0").glob("*.segment"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)

    report = a_compactor(root, settings=LEDGER).run(stopping=never)

    assert report.damaged == [f"{b'worker-0'.hex()}-00000001"]
    assert (report.segments, report.records) == (1, 160)


def test_a_row_group_holds_whole_records(root: Path) -> None:
    """However small row groups are, no record is in two; the last one of a file is the newest."""
    compact(root, settings=LedgerSettings(row_group_rows=2, chunk_bytes=10**6))

    for file in read_catalog(Folder(root / "cold")).files:
        parquet = pq.ParquetFile(root / "cold" / file.name)
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, columns=["row", "rows"]).to_pylist()
            assert (rows[0]["row"], rows[-1]["row"]) == (0, rows[-1]["rows"] - 1)
