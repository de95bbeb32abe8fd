"""One candidate compared with one primary: pairs and outcomes in, a report out, and a state between.

The same for the monitor, which feeds it as records come, and for `serving compare`, which feeds it a
window of the ledger at once. What it is about is its identity: both digests and the specification;
when one of them changes, it is another comparison, which begins with nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import msgspec
import numpy as np

from serving.app.pairbatches import batches_of, columns_of, feature_names
from serving.core.models import ModelVersion
from serving.core.outcomes import Outcome, OutcomeValue
from serving.core.tensors import Array
from serving.governance.comparisons import ComparisonReport, LogWindow, Source
from serving.ledger.pairs import Pair, PairCounts
from serving.monitoring.comparison import Comparison
from serving.monitoring.losses import loss_of
from serving.monitoring.noise import NoiseFloor
from serving.monitoring.observations import Column, LossBatch
from serving.monitoring.observations import PairCounts as Expected
from serving.monitoring.specification import ComparisonSpecification

MOST_WAITING_ELEMENTS: Final = 1024
"""Of an answer whose outcome is waited for; larger ones are not."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared. definition: of the primary. floor: how often it disagrees with itself."""

    definition: ModelVersion
    candidate: str
    candidate_digest: str
    specification: ComparisonSpecification
    floor: NoiseFloor | None = None

    @property
    def identity(self) -> str:
        words = (
            self.definition.key,
            self.definition.digest,
            self.candidate,
            self.candidate_digest,
            self.specification.digest(),
            repr(self.floor),
        )
        return sha256("\n".join(words).encode()).hexdigest()[:32]


class WaitingAnswers(msgspec.Struct):
    """Both answers to one request, of the output that outcomes are about, until they come.

    primary, candidate: rows as lists, text as text. features: of the slices, by name. known: rows
    whose outcome came.
    """

    primary: list[Any]
    candidate: list[Any]
    features: dict[str, list[Any]]
    known: list[int] = []

    def settled(self) -> bool:
        return len(self.known) == len(self.primary)


class State(msgspec.Struct):
    """Of a comparison, as it is kept. unusable: outcomes that no loss can be made of."""

    comparison: dict[str, Any]
    since_ns: int
    until_ns: int
    settled: int
    missing: int
    left_out: dict[str, int]
    unusable: int


class RunningComparison:
    """Not for several threads."""

    def __init__(self, sides: Sides) -> None:
        """Raises SpecificationInvalid for outputs that the model does not have."""
        self.sides = sides
        self._comparison = Comparison(
            sides.specification, sides.definition.outputs, floor=sides.floor
        )
        self._features = feature_names(sides.specification)
        self._since_ns = 0
        self._until_ns = 0
        self._settled = 0
        self._missing = 0
        self._left_out: dict[str, int] = {}
        self.unusable = 0

    # -- records ---------------------------------------------------------------------------------

    def add(self, pairs: Sequence[Pair]) -> None:
        """In the order in which they were answered."""
        if not pairs:
            return
        times = [pair.primary.time_ns for pair in pairs]
        self._since_ns = min(self._since_ns or times[0], *times)
        self._until_ns = max(self._until_ns, *times)
        found = batches_of(pairs, self.sides.definition, self._features)
        for batch, _ in found.batches:
            self._comparison.add_pairs(batch)
        for reason, count in found.left_out.items():
            self._left_out[reason] = self._left_out.get(reason, 0) + count

    def count(self, counts: PairCounts, *, share: float | None) -> None:
        """How many pairs there should have been by now, all told. share: of the primaries
        that get a copy, None where nobody can say."""
        lost = 0 if share is None else counts.unpaired.get("missing", 0)
        missing = lost + counts.unpaired.get("evicted", 0)
        settled = counts.pairs + missing
        if settled > self._settled:
            self._comparison.add_counts(
                Expected(settled - self._settled, max(missing - self._missing, 0))
            )
            self._settled, self._missing = settled, missing

    # -- outcomes --------------------------------------------------------------------------------

    def waiting(self, pair: Pair) -> WaitingAnswers | None:
        """What is kept of a pair until its outcomes come; None when none can be used."""
        name = self._judged(pair)
        if name is None:
            return None
        before = next(each.array for each in pair.primary.outputs if each.name == name)
        after = next((each.array for each in pair.candidate.outputs if each.name == name), None)
        if after is None or before.shape != after.shape or before.size > MOST_WAITING_ELEMENTS:
            return None
        columns = columns_of(pair.primary, self.sides.definition, self._features)
        return WaitingAnswers(
            _rows(before),
            _rows(after),
            {name: column.tolist() for name, column in columns.items()},
        )

    def add_outcomes(self, found: Iterable[tuple[Outcome, WaitingAnswers]]) -> None:
        """Outcomes of rows whose answers waited, each row once; the first report counts."""
        primary, candidate, truths = [], [], []
        features: dict[str, list[Any]] = {}
        for outcome, answers in found:
            row = outcome.row
            if outcome.value is None or row in answers.known or row >= len(answers.primary):
                continue
            answers.known.append(row)
            if not self._is_usable(outcome.value, answers.primary[row]):
                self.unusable += 1
                continue
            primary.append(answers.primary[row])
            candidate.append(answers.candidate[row])
            truths.append(outcome.value)
            for name in self._features:
                values = answers.features.get(name)
                features.setdefault(name, []).append(None if values is None else values[row])
        if truths:
            self._add_losses(primary, candidate, truths, features)

    def _add_losses(
        self,
        primary: list[Any],
        candidate: list[Any],
        truths: Sequence[OutcomeValue],
        features: Mapping[str, list[Any]],
    ) -> None:
        loss, truth = self.sides.specification.loss, _truths(truths)
        whole = {name: values for name, values in features.items() if None not in values}
        self._comparison.add_losses(
            LossBatch(
                primary=loss_of(loss, _array(primary), truth),
                candidate=loss_of(loss, _array(candidate), truth),
                features={name: _column(values) for name, values in whole.items()},
            )
        )

    def _judged(self, pair: Pair) -> str | None:
        """The output that an outcome is the truth of: a decision for `zero_one`, else numbers."""
        outputs = [each for each in pair.primary.outputs if each.keeping == "kept"]
        is_number = {each.name: each.datatype.startswith(("FP", "BF")) for each in outputs}
        wants_number = self.sides.specification.loss != "zero_one"
        fit = [name for name, number in is_number.items() if number == wants_number]
        names = fit or (list(is_number) if not wants_number else [])
        return names[0] if names else None

    def _is_usable(self, value: OutcomeValue, answer: Any) -> bool:
        if self.sides.specification.loss == "zero_one":
            return True
        classes = max(np.asarray(answer).size, 2)
        return isinstance(value, int | float) and float(value).is_integer() and 0 <= value < classes

    # -- what it comes to ------------------------------------------------------------------------

    def report(
        self,
        counts: PairCounts,
        *,
        source: Source,
        at_ns: int,
        windows: tuple[LogWindow, ...] = (),
        gap: float | None = None,
        share: float = 1.0,
        lag_s: float = 0.0,
        data_digest: str = "",
    ) -> ComparisonReport:
        sides = self.sides
        left_out = dict(counts.left_out)
        for reason, count in self._left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
        told = msgspec.structs.replace(counts, left_out=left_out, unpaired=dict(counts.unpaired))
        return ComparisonReport(
            model=sides.definition.model,
            primary=sides.definition.version,
            candidate=sides.candidate,
            primary_digest=sides.definition.digest,
            candidate_digest=sides.candidate_digest,
            source=source,
            specification=msgspec.to_builtins(sides.specification),
            specification_digest=sides.specification.digest(),
            decision=self._comparison.decide(),
            figures=self._comparison.figures(),
            counts=told,
            gap=gap,
            share=share,
            lag_s=lag_s,
            windows=windows,
            since_ns=self._since_ns,
            until_ns=self._until_ns,
            at_ns=at_ns,
            data_digest=data_digest,
            floor={} if sides.floor is None else dict(sides.floor.counts),
        )

    def noise(self) -> NoiseFloor:
        """Of a comparison of the primary with itself."""
        return self._comparison.noise()

    def state(self) -> State:
        return State(
            comparison=self._comparison.state(),
            since_ns=self._since_ns,
            until_ns=self._until_ns,
            settled=self._settled,
            missing=self._missing,
            left_out=self._left_out,
            unusable=self.unusable,
        )

    def restore(self, state: State) -> None:
        self._comparison.restore(state.comparison)
        self._since_ns, self._until_ns = state.since_ns, state.until_ns
        self._settled, self._missing = state.settled, state.missing
        self._left_out, self.unusable = dict(state.left_out), state.unusable


def _rows(array: Array) -> list[Any]:
    rows = array.reshape(len(array), -1)
    if rows.dtype == object:
        return [[_text(value) for value in row] for row in rows.tolist()]
    return rows.astype(np.float64).tolist() if rows.dtype.kind == "V" else rows.tolist()


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _array(rows: list[Any]) -> Array:
    if isinstance(rows[0][0], str):
        return np.array([[value.encode() for value in row] for row in rows], object)
    return np.array(rows)


def _truths(values: Sequence[OutcomeValue]) -> Array:
    if any(isinstance(value, str) for value in values):
        return np.array([str(value) for value in values], object)
    return np.array([float(value or 0) for value in values])


def _column(values: list[Any]) -> Column:
    return np.array(values, object) if isinstance(values[0], str) else np.array(values)
