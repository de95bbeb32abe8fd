"""Everything that was recorded of one data subject: predictions, and the outcomes reported for them.

Hot and cold together, each once. Outcomes name no subject, they belong to whom their prediction does.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from serving.core.outcomes import Outcome
from serving.core.predictions import PredictionRecord
from serving.ledger.catalog import TableFile, read_catalog
from serving.ledger.places import Place
from serving.ledger.search import LedgerSearch
from serving.predictionlog.format import FrameType
from serving.predictionlog.outcomes import decode_outcome
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.query import Query
from serving.predictionlog.reading.reader import SegmentReader, list_segments, log_directories


def recorded_of(
    tag: str, *, log: Path, place: Place, keys: PayloadKeys
) -> Iterator[PredictionRecord | Outcome]:
    """Predictions by arrival, then outcomes. tag: the subject's (hexadecimal).

    Raises LedgerUnavailable, OSError.
    """
    found: set[str] = set()
    for record in LedgerSearch(log, place, Query(), keys=keys).records():
        if record.subject == tag:
            found.add(record.prediction_id)
            yield record
    if found:
        seen = set[tuple[str, int, str, int]]()
        for outcome in _outcomes(log, place):
            key = (outcome.prediction_id, outcome.row, outcome.name, outcome.revision)
            if outcome.prediction_id in found and key not in seen:
                seen.add(key)
                yield outcome


def _outcomes(log: Path, place: Place) -> Iterator[Outcome]:
    for directory in log_directories(log):
        for segment in list_segments(directory):
            for event in SegmentReader(segment).events({FrameType.OUTCOME}):
                yield decode_outcome(event.frame, 0)
    for file in read_catalog(place).files:
        if file.dataset == "outcomes":
            yield from _of_table(place, file)


def _of_table(place: Place, file: TableFile) -> Iterator[Outcome]:
    with place.open(file.name) as opened:
        table = pq.read_table(opened, use_threads=False)
    columns = {name: table.column(name) for name in table.column_names}
    for index in range(table.num_rows):
        yield Outcome(
            prediction_id=columns["prediction_id"][index].as_py(),
            row=columns["row"][index].as_py(),
            name=columns["name"][index].as_py(),
            value=msgspec.json.decode(columns["value"][index].as_py()),
            observed_ns=columns["observed"].cast("int64")[index].as_py(),
            revision=columns["revision"][index].as_py(),
            model=columns["model"][index].as_py(),
            principal=columns["principal"][index].as_py(),
            reported_ns=columns["time"].cast("int64")[index].as_py(),
        )
