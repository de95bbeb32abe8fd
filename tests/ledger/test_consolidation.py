from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serving.core.outcomes import Outcome
from serving.ledger.catalog import Catalog, TableFile, change_catalog, read_catalog
from serving.ledger.places import Folder
from serving.predictionlog.losses import Loss, encode_loss
from serving.predictionlog.outcomes import encode_outcome
from serving.predictionlog.reading.query import Query
from serving.predictionlog.records import definition_text, encode_predictions
from tests.ledger.cold import (
    DAY_NS,
    KNOWN,
    SMALL,
    a_compactor,
    compact,
    found,
    never,
    write_log,
)
from tests.logs import DOUBLER, NOW_NS, NUMBER, TAG, a_committer, a_request, facts

APART = SMALL.model_copy(update={"merge_bytes": 1})
WORKERS = 9


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Nine segments, each in tables of its own."""
    write_log(tmp_path / "log", workers=WORKERS, steps=4)
    compact(tmp_path, settings=APART)
    return tmp_path


def partitions(catalog: Catalog) -> Counter[tuple[str, str]]:
    return Counter((file.model, file.day) for file in catalog.files)


def test_small_files_of_a_day_become_one(root: Path) -> None:
    """Eight files become one, the ninth waits for others; every record is found once, unchanged."""
    place = Folder(root / "cold")
    before, records = read_catalog(place), sorted(found(root))

    report = a_compactor(root).run(stopping=never)

    after = read_catalog(place)
    assert set(partitions(before).values()) == {WORKERS}
    assert set(partitions(after).values()) == {2}
    assert report.joined == len(before.files) - len(after.files)
    assert sorted(found(root)) == records
    assert sum(file.rows for file in after.files) == sum(file.rows for file in before.files)
    assert sum(file.records for file in after.files) == len(records)
    assert after.segments == before.segments
    old = {file.name for file in before.files} - {file.name for file in after.files}
    assert {each.name for each in after.removed} == old


def test_a_second_run_joins_nothing(root: Path) -> None:
    """What was joined is of another size than what it was made of."""
    a_compactor(root).run(stopping=never)
    catalog = read_catalog(Folder(root / "cold"))

    report = a_compactor(root).run(stopping=never)

    assert (report.joined, read_catalog(Folder(root / "cold"))) == (0, catalog)


@pytest.mark.parametrize(
    "query",
    [
        Query(model="mixed", newest_first=True, limit=7),
        Query(version="1", limit=9),
        Query(prediction_id=f"{b'worker-3'.hex()}-5"),
        Query(since_ns=NOW_NS + DAY_NS // 2, until_ns=NOW_NS + DAY_NS * 3 // 2),
        Query(principal="=evil"),
    ],
    ids=str,
)
def test_queries_mean_the_same_afterwards(root: Path, query: Query) -> None:
    """Each condition gives the same records, in the same order where one is asked for."""
    before = found(root, query)

    a_compactor(root).run(stopping=never)

    after = found(root, query)
    assert (after if query.newest_first else sorted(after)) == (
        before if query.newest_first else sorted(before)
    )


def test_a_joint_file_names_all_segments_and_definitions(root: Path) -> None:
    """Roots of all segments stand in the new file, times are sorted within row groups, records whole."""
    a_compactor(root).run(stopping=never)

    place = Folder(root / "cold")
    joint = [file for file in read_catalog(place).files if len(file.sources) > 1]
    assert joint
    for file in joint:
        parquet = pq.ParquetFile(root / "cold" / file.name)
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, columns=["row", "rows", "time"]).to_pylist()
            assert (rows[0]["row"], rows[-1]["row"]) == (0, rows[-1]["rows"] - 1)
            assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
        assert parquet.metadata.num_rows == file.rows


def test_versions_and_their_shapes_stay_what_they_were(tmp_path: Path) -> None:
    """Files with different definitions of one version are joined; each record keeps its own."""
    other = replace(DOUBLER, outputs=())
    for worker in range(8):
        number = TAG << 32 | 7
        known = KNOWN | {number: definition_text(other if worker % 2 else DOUBLER)}
        committer = a_committer(
            tmp_path / "log" / f"w{worker}", definitions=known, log_id=f"worker-{worker}".encode()
        )
        request = a_request(1, rows=worker % 3 + 1)
        if worker % 2:
            request.outputs = ()
        committer.commit(encode_predictions(facts(number), [request]))
        committer.commit(encode_predictions(facts(NUMBER), [a_request(2)]))
        committer.close()
    records = sorted(found(tmp_path))

    report = a_compactor(tmp_path).run(stopping=never)

    assert (report.joined, sorted(found(tmp_path))) == (7, records)


def test_what_retention_took_meanwhile_is_not_joined(root: Path) -> None:
    """When one of the files counts no longer, the catalog stays as it is and no file is left over."""
    place = Folder(root / "cold")
    catalog = read_catalog(place)
    parts = [file for file in catalog.files if file.model == "mixed"][:3]
    gone = change_catalog(place, lambda now: now.without([parts[0].name], now_ns=1))
    joint: TableFile = parts[1]

    assert gone.with_joint(joint, [file.name for file in parts], now_ns=2) is gone


def test_outcomes_and_losses_are_joined_like_predictions(tmp_path: Path) -> None:
    """Tables of outcomes and of losses are joined by the same rule, and keep their rows."""
    for worker in range(8):
        committer = a_committer(tmp_path / "log" / f"w{worker}", log_id=f"worker-{worker}".encode())
        truth = Outcome(f"{b'log-id-8'.hex()}-1", worker, "label", 1, NOW_NS, 1, "m", "ada", NOW_NS)
        loss = Loss("ab" * 8, "m", "1", 3, 7, NOW_NS - 9, NOW_NS - 1, "log_unavailable", NOW_NS)
        committer.commit([encode_outcome(truth, sequence=1)])
        committer.commit([encode_loss(loss, sequence=2)])
        committer.close()

    a_compactor(tmp_path).run(stopping=never)

    files = read_catalog(Folder(tmp_path / "cold")).files
    assert [(file.dataset, file.rows) for file in files] == [("losses", 8), ("outcomes", 8)]
