"""Counting on the hot path, rendering at scrape time.

The request path touches plain attributes of unlocked objects that were looked up when a model was
loaded: a counter costs one attribute increment, a histogram one bisection. Everything else waits
for the scrape, where a `MetricFamilies` is a collector of `prometheus_client`, which renders it.

Rejected: the library's own children, which lock and cost 0.3 to 0.7 us a call, and its global
registry, which exports whatever happens to have been imported. Updates belong to one thread; a
scrape from another thread may see a request counted in one family and not yet in the next.

Label values come from a bounded set (error codes, versions of the snapshot), never from a request;
`Family.retain` drops the series of what is gone.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPEN_METRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.samples import Exemplar

Labels = tuple[str, ...]
"""Label values, in the order of the family's label names."""

OPEN_METRICS_NAME: Final = b"application/openmetrics-text"


@dataclass(slots=True)
class Counter:
    """Grows only: `counter.value += 1`."""

    value: float = 0


@dataclass(slots=True)
class Gauge:
    """Goes up and down: assign `value`."""

    value: float = 0


class Histogram:
    """Counts per bucket and the sum. A value equal to a bound belongs to that bound's bucket.

    bounds: upper bounds, ascending, without infinity; shared, not copied.
    counts: one per bound and one above the last, not cumulative.
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_many(self, values: Collection[float]) -> None:
        bounds, counts = self.bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.total += sum(values)

    def exemplify(self, value: float, *, trace_id: bytes, now_s: float) -> None:
        """Makes a sampled request the example of its bucket, without counting it again.

        now_s: wall time in seconds.
        """
        labels = {"trace_id": trace_id.hex()}
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(labels, value, now_s)


@dataclass(frozen=True, slots=True)
class Definition:
    """One family, as README documents it and a scrape shows it.

    bounds: of a histogram; empty for the other kinds. A counter's name ends in `_total`.
    """

    name: str
    documentation: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()

    @property
    def kind(self) -> Literal["counter", "gauge", "histogram"]:
        if self.bounds:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"


Child = TypeVar("Child", Counter, Gauge, Histogram)


class Family(Generic[Child]):
    """The series of one definition: one child for each combination of label values."""

    def __init__(self, definition: Definition, make: Callable[[], Child]) -> None:
        self._definition = definition
        self._make: Callable[[], Child] = make
        self._children: dict[Labels, Child] = {}

    def child(self, *values: str) -> Child:
        """The child for these label values: always the same object. Keep it, do not ask again."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._definition.labels):
                name, labels = self._definition.name, self._definition.labels
                raise ValueError(f"{name} has labels {labels}, not {len(values)}. This is a bug")
            child = self._children[values] = self._make()
        return child

    def retain(self, keep: Callable[[Labels], bool]) -> None:
        """Drops the series whose label values `keep` refuses."""
        self._children = {values: child for values, child in self._children.items() if keep(values)}

    def children(self) -> dict[Labels, Child]:
        """A copy, so that a scrape from another thread never sees the dictionary change."""
        return self._children.copy()


class MetricFamilies:
    """The families of one process, in the order in which they were added."""

    def __init__(self) -> None:
        self._sources: dict[str, Callable[[], Metric]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def counter(self, definition: Definition) -> Family[Counter]:
        family = Family(definition, Counter)
        self._add(definition, "counter", lambda: _scalars(definition, _values(family)))
        return family

    def gauge(self, definition: Definition) -> Family[Gauge]:
        family = Family(definition, Gauge)
        self._add(definition, "gauge", lambda: _scalars(definition, _values(family)))
        return family

    def histogram(self, definition: Definition) -> Family[Histogram]:
        family = Family(definition, lambda: Histogram(definition.bounds))
        self._add(definition, "histogram", lambda: _histograms(definition, family.children()))
        return family

    def read(self, definition: Definition, source: Callable[[], Mapping[Labels, float]]) -> None:
        """A counter or gauge whose series are asked for at scrape time."""
        self._add(definition, definition.kind, lambda: _scalars(definition, source()))

    def read_one(self, definition: Definition, source: Callable[[], float]) -> None:
        """A counter or gauge without labels whose value is asked for at scrape time."""
        self._add(definition, definition.kind, lambda: _scalars(definition, {(): source()}))

    def read_histograms(
        self, definition: Definition, source: Callable[[], Mapping[Labels, Histogram]]
    ) -> None:
        self._add(definition, "histogram", lambda: _histograms(definition, source()))

    def collect(self) -> Iterator[Metric]:
        """The protocol of `prometheus_client` collectors."""
        for source in self._sources.values():
            yield source()

    def render(self, accept: bytes = b"") -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics, with exemplars, where `accept` has it.

        accept: the value of the request's `Accept` header.
        """
        if OPEN_METRICS_NAME in accept:
            text = generate_open_metrics(  # type: ignore[no-untyped-call]  # no types there
                self._registry, escaping=ALLOWUTF8
            )
            return text, OPEN_METRICS
        return generate_latest(self._registry, escaping=ALLOWUTF8), CONTENT_TYPE_PLAIN_0_0_4

    def _add(self, definition: Definition, kind: str, source: Callable[[], Metric]) -> None:
        if definition.kind != kind:
            raise TypeError(
                f"{definition.name} is a {definition.kind}, not a {kind}. This is a bug"
            )
        if definition.name in self._sources:
            raise ValueError(f"{definition.name} was added twice. This is a bug")
        self._sources[definition.name] = source


def _values(family: Family[Counter] | Family[Gauge]) -> dict[Labels, float]:
    return {labels: child.value for labels, child in family.children().items()}


def _scalars(definition: Definition, values: Mapping[Labels, float]) -> Metric:
    make = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
    metric = make(definition.name, definition.documentation, labels=definition.labels)
    for labels, value in values.items():
        metric.add_metric(labels, value)
    return metric


def _histograms(definition: Definition, children: Mapping[Labels, Histogram]) -> Metric:
    metric = HistogramMetricFamily(
        definition.name, definition.documentation, labels=definition.labels
    )
    for labels, histogram in children.items():
        metric.add_metric(labels, _buckets(histogram), sum_value=histogram.total)
    return metric


def _buckets(histogram: Histogram) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """Cumulative counts, as the exposition has them."""
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    below = 0
    for index, bound in enumerate([*map(str, histogram.bounds), "+Inf"]):
        below += histogram.counts[index]
        exemplar = histogram.exemplars.get(index)
        buckets.append((bound, below) if exemplar is None else (bound, below, exemplar))
    return buckets
