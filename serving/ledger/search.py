"""One query over hot and cold data together: `serving log query`, and everything that exports.

The catalog is read first; segments that it holds are passed over, so that each record is found once,
whatever is compacted meanwhile.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from serving.core.predictions import PredictionRecord
from serving.ledger.catalog import read_catalog
from serving.ledger.cold import ColdRecords
from serving.ledger.merging import Late, merged
from serving.ledger.places import Place
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.query import Query, Search

_FIRST: Final = -(2**63)
_LAST: Final = 2**63


class LedgerSearch:
    """One run of a query. Call `records` once.

    damaged: names of segments in which something could not be read. missing: what was removed while
    it was being read. Both are complete once `records` ended.
    """

    def __init__(
        self, log: Path, place: Place, query: Query, *, keys: PayloadKeys | None = None
    ) -> None:
        """Raises LedgerUnavailable."""
        catalog = read_catalog(place)
        self._query = query
        self._hot = Search(log, query, held=catalog.segments.keys(), keys=keys)
        self._cold = ColdRecords(place, catalog, query, keys=keys)

    def records(self) -> Iterator[PredictionRecord]:
        """Matching records, by arrival. Raises OSError, LedgerUnavailable."""
        query = self._query
        if query.limit is None:
            return self._merged(newest_first=query.newest_first)
        newest = list(itertools.islice(self._merged(newest_first=True), query.limit))
        return iter(newest if query.newest_first else newest[::-1])

    @property
    def damaged(self) -> set[str]:
        return self._hot.damaged

    @property
    def missing(self) -> set[str]:
        return self._hot.missing | self._cold.missing

    def _merged(self, *, newest_first: bool) -> Iterator[PredictionRecord]:
        bound_ns = _LAST if newest_first else _FIRST
        hot = [
            Late(bound_ns, lambda stream=stream: stream)  # type: ignore[misc]  # bound now
            for stream in self._hot.streams(newest_first=newest_first)
        ]
        cold = self._cold.streams(newest_first=newest_first)
        return merged([*hot, *cold], newest_first=newest_first)
