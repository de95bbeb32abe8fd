from pathlib import Path

import pytest

from serving.predictionlog.reading.query import Query
from serving.predictionlog.records import encode_predictions
from serving.settings import LogSettings
from tests.ledger.cold import CENSUS_NUMBER, KNOWN, a_census_request
from tests.logs import NOW_NS, a_committer, a_request, facts, newest_segment, read_all

LARGE = LogSettings(segment_bytes=64 * 1024 * 1024, min_free_bytes=0)
EVERY = 500


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two thousand commits of one model, now and then one of another; the segment is still written."""
    committer = a_committer(tmp_path, settings=LARGE, definitions=KNOWN)
    for number in range(1, 2001):
        if number % EVERY == 7:
            census = a_census_request(number, time_ns=NOW_NS + number)
            committer.commit(encode_predictions(facts(CENSUS_NUMBER), [census]))
        else:
            requests = [a_request(number, rows=64, time_ns=NOW_NS + number)]
            committer.commit(encode_predictions(facts(), requests))
    return tmp_path


@pytest.mark.parametrize("limit", [1, 3, 4, 100])
def test_a_rare_model_is_found_among_others(log: Path, limit: int) -> None:
    """The newest of a model are the same whether looked for or picked from everything."""
    query = Query(model="census-employment", limit=limit, newest_first=True)
    everything = [r.sequence for r in read_all(log, Query(model="census-employment"))]

    found = [record.sequence for record in read_all(log, query)]

    assert everything == [7, 507, 1007, 1507]
    assert found == everything[::-1][:limit]


def test_damage_on_the_way_is_met_commit_by_commit(log: Path) -> None:
    """Where a commit with the model's number is broken, reading goes on as without the search."""
    segment = newest_segment(log)
    content = bytearray(segment.read_bytes())
    wanted = encode_predictions(
        facts(CENSUS_NUMBER), [a_census_request(1007, time_ns=NOW_NS + 1007)]
    )[0]
    content[content.index(wanted) + 90] ^= 1
    segment.write_bytes(content)

    found = read_all(log, Query(model="census-employment", limit=9, newest_first=True))

    assert [record.sequence for record in found] == [1507, 507, 7]


def test_a_model_that_is_not_there_costs_no_reading(log: Path) -> None:
    """A segment without the model is told by its definitions."""
    assert read_all(log, Query(model="unknown", limit=1)) == []
