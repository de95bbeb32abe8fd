from pathlib import Path

import pytest

from serving.core.predictions import Fate
from serving.errors import ParameterInvalid
from serving.predictionlog.reading.query import Query, instant_ns
from serving.predictionlog.records import encode_predictions
from tests.logs import NOW_NS, SETTINGS, a_committer, a_request, facts, read_all

SECOND_NS = 1_000_000_000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two workers, three records each, one second apart and interleaved; the last one timed out."""
    for worker in (0, 1):
        committer = a_committer(tmp_path / f"gateway-{worker}")
        for step in range(3):
            request = a_request(step + 1, time_ns=NOW_NS + (2 * step + worker) * SECOND_NS)
            request.principal = f"caller-{step}".encode()
            failed = worker == 1 and step == 2
            fate = Fate.TIMEOUT if failed else Fate.OK
            committer.commit(encode_predictions(facts(fate=fate), [request]))
        committer.close()
    return tmp_path


def seconds(log: Path, query: Query) -> list[int]:
    return [(found.time_ns - NOW_NS) // SECOND_NS for found in read_all(log, query)]


def test_workers_are_merged_by_arrival(log: Path) -> None:
    """Without conditions everything comes, oldest first, whichever worker recorded it."""
    assert seconds(log, Query()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(since_ns=NOW_NS + 2 * SECOND_NS), [2, 3, 4, 5]),
        (Query(until_ns=NOW_NS + 2 * SECOND_NS), [0, 1]),
        (Query(since_ns=NOW_NS + SECOND_NS, until_ns=NOW_NS + 4 * SECOND_NS), [1, 2, 3]),
        (Query(since_ns=NOW_NS + 9 * SECOND_NS), []),
        (Query(model="doubler", version="1"), [0, 1, 2, 3, 4, 5]),
        (Query(model="other"), []),
        (Query(version="2"), []),
        (Query(principal="caller-1"), [2, 3]),
        (Query(fate=Fate.TIMEOUT), [5]),
        (Query(limit=2), [4, 5]),
        (Query(limit=2, newest_first=True), [5, 4]),
        (Query(newest_first=True), [5, 4, 3, 2, 1, 0]),
        (Query(limit=1, principal="caller-0"), [1]),
    ],
)
def test_conditions_narrow_the_answer(log: Path, query: Query, expected: list[int]) -> None:
    """Each condition leaves exactly the records that meet it; a limit keeps the newest."""
    assert seconds(log, query) == expected


def test_a_prediction_is_found_by_its_id(log: Path) -> None:
    """The id that the answer carried finds the record."""
    wanted = read_all(log)[3]

    found = read_all(log, Query(prediction_id=wanted.prediction_id, principal=wanted.principal))

    assert wanted.prediction_id in [record.prediction_id for record in found]
    assert {record.sequence for record in found} == {wanted.sequence}


def test_an_impossible_id_is_refused(log: Path) -> None:
    """What cannot be a prediction id is said to be none."""
    with pytest.raises(ParameterInvalid):
        read_all(log, Query(prediction_id="nonsense"))


def test_backwards_is_forwards_reversed(tmp_path: Path) -> None:
    """Over many commits, segments and definitions both directions give the same records."""
    small = SETTINGS.model_copy(update={"segment_bytes": 64 * 1024})
    committer = a_committer(tmp_path, settings=small)
    for start in range(1, 800, 8):
        time_ns = NOW_NS + start
        requests = [a_request(start + i, time_ns=time_ns + i) for i in range(8)]
        committer.commit(encode_predictions(facts(), requests))
        committer.tend(idle=True)
        if start % 3 == 0:
            assert committer.commit([]) is None

    forwards = [found.sequence for found in read_all(tmp_path)]
    backwards = [found.sequence for found in read_all(tmp_path, Query(newest_first=True))]
    committer.close()

    assert forwards == backwards[::-1] == list(range(1, 801))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15m", NOW_NS - 900 * SECOND_NS),
        ("2h", NOW_NS - 7200 * SECOND_NS),
        ("1d", NOW_NS - 86_400 * SECOND_NS),
        ("1.5s", NOW_NS - 1_500_000_000),
        ("2023-11-14T22:13:20Z", NOW_NS),
        ("2023-11-14T22:13:20", NOW_NS),
        ("2023-11-14T23:13:20.5+01:00", NOW_NS + SECOND_NS // 2),
        ("2023-11-14", NOW_NS - (22 * 3600 + 13 * 60 + 20) * SECOND_NS),
    ],
)
def test_times_are_ago_or_absolute(text: str, expected: int) -> None:
    """Durations count back from now; ISO times without a zone are UTC."""
    assert instant_ns(text, now_ns=NOW_NS) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "15", "15 m m", "-1h", "1e9h", "9999999999999d"])
def test_other_times_are_refused(text: str) -> None:
    """What is neither is refused, with examples of what would do."""
    with pytest.raises(ParameterInvalid, match="15m"):
        instant_ns(text, now_ns=NOW_NS)
